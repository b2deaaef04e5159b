//! No text panics, and a quota that was read prints a text that reads as the same quota.
#![no_main]

use libfuzzer_sys::fuzz_target;
use limiter_core::Quota;

fuzz_target!(|text: &str| {
    if let Ok(quota) = text.parse::<Quota>() {
        assert_eq!(quota.to_string().parse::<Quota>(), Ok(quota));
    }
});
