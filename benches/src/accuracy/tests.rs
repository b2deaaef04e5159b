use super::*;
use std::path::Path;
use std::time::Duration;

const WINDOW: Duration = Duration::from_secs(10);
const W: u64 = 10_000_000;

fn trace_at(micros: &[u64]) -> Trace {
    let arrivals = micros.iter().map(|at| Arrival { at: *at, key: 0 }).collect();
    Trace::new("by hand", "", 1, arrivals)
}

fn admitted(quota: limiter_core::QuotaBuilder, micros: &[u64]) -> Vec<u64> {
    let quota = quota.build().unwrap_or_else(|error| panic!("{error}"));
    replay(&trace_at(micros), &quota).admitted.concat()
}

#[test]
fn five_requests_around_a_boundary_by_hand() {
    // 2 per second, around the boundary at 1 s; the bucket refills a permit each half second.
    let at = [900_000, 950_000, 1_000_000, 1_100_000, 1_450_000];
    let quota = |algorithm| Quota::per_second(2).algorithm(algorithm);
    assert_eq!(admitted(quota(Algorithm::TokenBucket), &at), [900_000, 950_000, 1_450_000]);
    assert_eq!(admitted(quota(Algorithm::FixedWindow), &at), [900_000, 950_000, 1_000_000, 1_100_000]);
    assert_eq!(admitted(quota(Algorithm::SlidingLog), &at), [900_000, 950_000]);
    // 2 before: with e ms into the window 2 * (1000 - e) / 1000 + 1 is at most 2 from e = 500 on.
    assert_eq!(admitted(quota(Algorithm::SlidingCounter), &at), [900_000, 950_000]);
    let started =
        replay(&trace_at(&at), &quota(Algorithm::LeakyBucket).build().unwrap_or_else(|e| panic!("{e}")));
    assert_eq!(started.started.concat(), [900_000, 1_400_000, 1_900_000]);
}

#[test]
fn a_score_by_hand() -> Result<(), QuotaError> {
    let policy = Policy {
        name: "fixed".to_owned(),
        quota: Quota::per_second(2).algorithm(Algorithm::FixedWindow).build()?,
    };
    // Two keys; the second asks three times at once and is denied once.
    let arrivals = [(900_000, 0), (950_000, 0), (1_000_000, 0), (1_100_000, 0)];
    let mut arrivals: Vec<_> = arrivals.map(|(at, key)| Arrival { at, key }).into();
    arrivals.extend([Arrival { at: 1_000_000, key: 1 }; 3]);
    let report = judge(&Trace::new("by hand", "", 2, arrivals), &[policy]);
    let score = &report.scores[0];
    assert_eq!((score.offered, score.admitted, score.denied), (7, 6, 1));
    assert!((score.worst_window - 2.0).abs() < 1e-12);
    assert_eq!(score.fairness, Some(1.0));
    assert_eq!(report.offered.iter().sum::<u64>(), 7);
    assert_eq!(score.started.iter().sum::<u64>(), 6);
    Ok(())
}

/// The bounds that README and the algorithms' docs promise, in limits, over every trace and some quotas.
#[test]
fn no_trace_passes_a_bound() -> Result<(), QuotaError> {
    for (limit, window) in
        [(100, WINDOW), (7, Duration::from_millis(999)), (1, WINDOW), (60, Duration::from_secs(60))]
    {
        for trace in Trace::made(limit, window) {
            for Policy { quota, name } in policies(limit, window)? {
                let micros = micros(&quota);
                let Replayed { admitted, started } = replay(&trace, &quota);
                let [most, most_started] =
                    [admitted, started].map(|times| metrics::most_in_any_window(&times[0], micros));
                let case = format!("{name}, {limit} per {window:?}, {}", trace.name);
                match quota.algorithm() {
                    Algorithm::TokenBucket => assert!(most <= quota.capacity() + limit, "{case}: {most}"),
                    Algorithm::LeakyBucket => {
                        assert!(most <= quota.capacity() + limit, "{case}: {most}");
                        assert!(most_started <= limit, "{case}: {most_started} started");
                    }
                    Algorithm::FixedWindow => assert!(most <= 2 * limit, "{case}: {most}"),
                    Algorithm::SlidingLog => assert!(most <= limit, "{case}: {most}"),
                    Algorithm::SlidingCounter => assert!(most < 2 * limit, "{case}: {most}"),
                }
            }
        }
    }
    Ok(())
}

/// The attacks are attacks: each bound is nearly met by the trace that is made for it.
#[test]
fn the_bounds_are_met() -> Result<(), QuotaError> {
    let [_, _, boundary, _, adversarial] = Trace::made(100, WINDOW);
    let worst = |trace: &Trace, algorithm| -> Result<u64, QuotaError> {
        let quota = Quota::new(100, WINDOW).algorithm(algorithm).build()?;
        Ok(metrics::most_in_any_window(&replay(trace, &quota).admitted[0], W))
    };
    assert_eq!(worst(&boundary, Algorithm::FixedWindow)?, 200);
    assert_eq!(worst(&boundary, Algorithm::SlidingLog)?, 100);
    assert!(worst(&boundary, Algorithm::SlidingCounter)? < 110);
    assert!(worst(&adversarial, Algorithm::SlidingCounter)? > 190);
    assert!(worst(&adversarial, Algorithm::TokenBucket)? > 190);
    Ok(())
}

#[test]
fn traces_are_what_they_say() {
    for trace in Trace::made(100, WINDOW) {
        assert!(trace.arrivals.is_sorted(), "{}", trace.name);
        assert!(trace.drawn.start < trace.end() && trace.start() < trace.drawn.end, "{}", trace.name);
        assert_eq!(trace, again(&trace.name), "the same for the same seed");
    }
    let [steady, ..] = Trace::made(100, WINDOW);
    assert_eq!(metrics::most_in_any_window(&steady.by_key()[0], W) / 10, 15);
}

fn again(name: &str) -> Trace {
    let mut traces = Trace::made(100, WINDOW).into_iter();
    traces.find(|trace| trace.name == name).unwrap_or_else(|| panic!("{name}"))
}

#[test]
fn the_log_in_the_repository() -> Result<(), Box<dyn std::error::Error>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("traces/access.log");
    let parsed = access_log::read(&path)?;
    assert_eq!(parsed.skipped, 2, "what scanners send is not HTTP, and one line is cut");
    let report = judge(&parsed.trace, &policies(100, WINDOW)?);
    for score in &report.scores {
        assert!(score.denied > 0 && score.admitted > score.denied, "{score:?}");
    }
    Ok(())
}
