//! Quotas: what is refused and what is not, and their text and serde forms.

#[path = "common/quotas.rs"]
mod quotas;

use limiter_core::{Algorithm, Quota, QuotaBuilder, QuotaError};
use proptest::prelude::*;
use quotas::{any_algorithm, any_quota};
use std::time::Duration;

fn refused(quota: QuotaBuilder) -> String {
    quota.build().map_or_else(|error| error.to_string(), |quota| format!("{quota} was not refused"))
}

#[test]
fn a_refusal_names_the_value_and_the_bound() {
    let windows = |limit, algorithm| Quota::per_second(limit).algorithm(algorithm);
    let cases = [
        (Quota::per_second(0), "limit 0 is below the least one, 1"),
        (Quota::per_second(1).burst(0), "burst 0 is below the least one, 1"),
        (Quota::new(1, Duration::ZERO), "window 0ns is shorter than 1ms"),
        (Quota::new(1, Duration::from_micros(999)), "window 999µs is shorter than 1ms"),
        (Quota::new(1, Duration::from_micros(1_500)), "window 1.5ms is not a whole number of milliseconds"),
        (
            Quota::new(1, Duration::MAX),
            "window 18446744073709551615.999999999s is longer than 1125899906.842624s",
        ),
        (
            Quota::per_second(1).burst(2).algorithm(Algorithm::FixedWindow),
            "burst 2 on fixed-window, which has none: only token-bucket and leaky-bucket do",
        ),
        (
            windows(1 << 52, Algorithm::FixedWindow),
            "limit 4503599627370496 on fixed-window is above 4503599627370495, the highest for this window",
        ),
        (
            windows(100_001, Algorithm::SlidingLog),
            "limit 100001 on sliding-log is above 100000, the highest for this window",
        ),
        (
            windows(9_007_199_254_741, Algorithm::SlidingCounter),
            "limit 9007199254741 on sliding-counter is above 9007199254740, the highest for this window",
        ),
        (
            Quota::new(1, Quota::MAX_WINDOW - Duration::from_micros(624)).burst(2),
            "a bucket of 2 at 1 per 1125899906.842s is above 1, the highest that is exact at this rate (a limit and \
             window with a larger common factor allow more)",
        ),
        (
            Quota::per_second(94_906_267),
            "a bucket of 94906267 at 94906267 per 1s is above 94906263, the highest that is exact at this rate (a \
             limit and window with a larger common factor allow more)",
        ),
    ];
    for (quota, message) in cases {
        assert_eq!(refused(quota), message);
    }
}

#[test]
fn nothing_else_is_refused() {
    let accepted = [
        Quota::per_second(3),
        Quota::new(7, Duration::from_secs(86_399)),
        Quota::per_day(1_000_000_000),
        Quota::per_day(1_000_003),
        Quota::new(1, Quota::MAX_WINDOW - Duration::from_micros(624)),
        Quota::new(1, Duration::from_millis(1)),
        Quota::per_second((1 << 52) - 1).algorithm(Algorithm::FixedWindow),
        Quota::per_second(9_007_199_254_740).algorithm(Algorithm::SlidingCounter),
        Quota::per_second(100_000).algorithm(Algorithm::SlidingLog),
        Quota::per_second(94_906_265).burst(94_906_264),
        Quota::per_hour(1 << 40).algorithm(Algorithm::FixedWindow),
    ];
    for quota in accepted {
        assert_eq!(quota.build().err(), None, "{quota:?}");
    }
}

#[test]
fn text_is_read_in_the_notations_of_the_field() {
    let canonical = [
        ("100/minute", "100/minute"),
        ("10/s", "10/second"),
        ("10r/s", "10/second"),
        ("30r/m", "30/minute"),
        ("5 per 10s", "5/10s"),
        ("5 per second", "5/second"),
        ("5 per\t10s", "5/10s"),
        ("1000/1h30m", "1000/1h30m"),
        ("1000 / 90min", "1000/1h30m"),
        (" 1/7days ", "1/7d"),
        ("1/86400s", "1/day"),
        ("1/1ms", "1/millisecond"),
        ("1/1d1ms", "1/1d1ms"),
        ("10/s burst 20", "10/second burst 20"),
        ("10/s burst 10", "10/second"),
        ("10/s token-bucket", "10/second"),
        ("10/s sliding_counter", "10/second sliding-counter"),
        ("10/s leaky-bucket burst 3", "10/second burst 3 leaky-bucket"),
    ];
    for (text, printed) in canonical {
        let quota: Result<Quota, QuotaError> = text.parse();
        assert_eq!(quota.map(|quota| quota.to_string()).as_deref(), Ok(printed), "{text}");
    }
}

#[test]
fn text_that_is_no_quota_is_told_why() {
    let cases = [
        ("", "the limit is missing"),
        ("/s", "the limit is missing"),
        ("-1/s", "the limit is missing"),
        ("10", "the limit is not followed by \"/\" or \"per\""),
        ("10/", "the window is missing"),
        ("10/M", "\"M\" is no unit of time"),
        ("10/month", "\"month\" is no unit of time"),
        ("10/10", "\"\" is no unit of time"),
        ("1.5/s", "the limit is not followed by"),
        ("10/s burst", "\"burst\" is not followed by a number"),
        ("10/s burst +5", "\"+5\" is no whole number"),
        ("10/s burst 1 burst 2", "\"burst\" says a second time"),
        ("10/s gcra", "\"gcra\" is no algorithm: token-bucket, leaky-bucket,"),
        ("10/s sliding-log sliding-log", "\"sliding-log\" says a second time"),
        ("99999999999999999999/s", "99999999999999999999 is above 18446744073709551615"),
        ("1/99999999999999999999s", "is longer than"),
        ("1/9999999999999999999d", "is longer than"),
        ("0/s", "limit 0 is below the least one"),
        ("1/0s", "window 0ns is shorter than 1ms"),
    ];
    for (text, why) in cases {
        let error = text.parse::<Quota>().err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains(why), "{text:?}: {error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_printed_parses_back(quota in any_algorithm().prop_flat_map(any_quota)) {
        prop_assert_eq!(quota.to_string().parse::<Quota>(), Ok(quota));
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,40}", number in any::<u64>(), unit in "[a-z0-9 /]{0,12}") {
        let _ = text.parse::<Quota>();
        let _ = format!("{number}/{unit}").parse::<Quota>();
        let _ = format!("{number}/s burst {number} {unit}").parse::<Quota>();
    }
}

#[cfg(feature = "serde")]
mod serde {
    use super::*;
    use serde_json::{from_str, to_string};

    #[test]
    fn a_quota_is_text_in_configuration() {
        let quota = Quota::per_minute(100).burst(20).build().unwrap();
        assert_eq!(to_string(&quota).unwrap(), "\"100/minute burst 20\"");
        assert_eq!(from_str::<Quota>("\"100/minute burst 20\"").unwrap(), quota);
    }

    #[test]
    fn or_a_table_of_fields() {
        let text = r#"{"limit": 100, "window": "1m", "burst": 20, "algorithm": "leaky_bucket"}"#;
        let quota = Quota::per_minute(100).burst(20).algorithm(Algorithm::LeakyBucket).build().unwrap();
        assert_eq!(from_str::<Quota>(text).unwrap(), quota);
        let short = from_str::<Quota>(r#"{"limit": 100, "window": "minute"}"#).unwrap();
        assert_eq!(short, Quota::per_minute(100).build().unwrap());
    }

    #[test]
    fn unknown_fields_and_refused_values_are_errors() {
        let cases = [
            (r#"{"limit": 1, "window": "1s", "period": "1s"}"#, "unknown field `period`"),
            (r#"{"limit": 1}"#, "missing field `window`"),
            (r#"{"limit": 0, "window": "1s"}"#, "limit 0 is below"),
            (r#"{"limit": 1, "window": "1s", "algorithm": "gcra"}"#, "\"gcra\" is no algorithm"),
            (r#"{"limit": 1, "window": "1 s"}"#, "\" s\" is no unit of time"),
            ("\"10\"", "the limit is not followed by"),
            ("10", "expected a quota such as"),
        ];
        for (text, why) in cases {
            let error = from_str::<Quota>(text).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
