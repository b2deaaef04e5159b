//! Quotas worth trying.

use limiter_core::{Algorithm, Quota};
use proptest::prelude::*;
use std::time::Duration;

pub(crate) fn any_algorithm() -> impl Strategy<Value = Algorithm> {
    prop::sample::select(&Algorithm::ALL[..])
}

/// Quotas of an algorithm: everyday ones, ones that never divide evenly, and ones at the edge of what is exact.
pub(crate) fn any_quota(algorithm: Algorithm) -> impl Strategy<Value = Quota> {
    let everyday = prop_oneof![
        Just((3, 1_000)),
        Just((10, 1_000)),
        Just((1, 1)),
        Just((100, 60_000)),
        Just((7, 86_399_000)),
        Just((7, 13)),
        Just((1_000_003, 86_400_000)),
        Just((1_000_000_000, 86_400_000)),
    ];
    let odd = (1_u64..40, 1_u64..5_000);
    let edge = (any::<u64>(), 0_u32..64, any::<u64>(), 0_u32..40)
        .prop_map(|(limit, l, window, w)| ((limit >> l).max(1), (window >> (24 + w)).clamp(1, 1 << 40)));
    let burst = prop_oneof![
        2 => Just(None),
        2 => (1_u64..50).prop_map(Some),
        1 => (any::<u64>(), 11_u32..64).prop_map(|(burst, shift)| Some((burst >> shift).max(1))),
    ];
    (prop_oneof![4 => everyday, 4 => odd, 2 => edge], burst).prop_filter_map(
        "a quota that is refused",
        move |((limit, millis), burst)| {
            let quota = Quota::new(limit, Duration::from_millis(millis)).algorithm(algorithm);
            let is_bucket = matches!(algorithm, Algorithm::TokenBucket | Algorithm::LeakyBucket);
            match burst {
                Some(burst) if is_bucket => quota.burst(burst).build().ok(),
                _ => quota.build().ok(),
            }
        },
    )
}
