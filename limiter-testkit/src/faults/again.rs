//! Back by itself, and as if nothing had been.

use crate::Reference;
use fastrand::Rng;
use limiter_core::{Algorithm, Backend, BackendError, Check, Keyspace, Placement, Quota, Request, Timestamp};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn check(text: &str, name: &str, cost: u64) -> Check {
    let quota: Quota = text.parse().expect("a quota that is accepted");
    let keys = Keyspace::new("faults", "again", quota.algorithm()).expect("short names");
    Check { key: keys.key(name.as_bytes()), quota, cost }
}

/// Each stack answers within two seconds from now, and then as the reference does.
///
/// # Panics
/// One does not.
pub async fn is_back(stacks: &[Arc<dyn Backend>]) {
    let start = Instant::now();
    for stack in stacks {
        loop {
            let asked = Request::one(check("10/day", "back", 1)).expect("one check");
            let answer = stack.decide(&[asked]).await.pop().expect("one answer");
            match answer {
                Ok(_) => break,
                Err(error) if start.elapsed() > Duration::from_secs(2) => panic!("still {error}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }
}

/// An instant of virtual time, so many us after its start.
///
/// # Panics
/// It is not of this century.
#[must_use]
pub fn at(micros: u64) -> Timestamp {
    Timestamp::from_micros(1_795_465_002_435_613 + micros).expect("an instant of this century")
}

/// A fresh run, one request after another in virtual time, is the reference's in every field.
///
/// On a machine so busy that a reply is late it begins anew, a few times.
///
/// # Panics
/// It is not, or no run goes without an error.
pub async fn equals_reference(stack: &dyn Backend) {
    let mut last = None;
    for _ in 0..5 {
        match runs_like_reference(stack).await {
            Ok(()) => return,
            Err(error) => last = Some(error),
        }
    }
    panic!("no run without an error: {last:?}");
}

async fn runs_like_reference(stack: &dyn Backend) -> Result<(), BackendError> {
    let seed = fastrand::u64(..);
    let mut rng = Rng::with_seed(seed);
    let mut reference = Reference::new();
    let place = Placement::of(&seed.to_be_bytes());
    let check = |algorithm, name: &str, cost| {
        let check = check(&format!("7/13s {algorithm}"), &format!("{seed:x} {name}"), cost);
        Check { key: check.key.placed(place), ..check }
    };
    let mut now = 0;
    for step in 0..60 {
        now += if rng.bool() { rng.u64(..3_000_000) } else { 0 };
        let algorithms = Algorithm::ALL.into_iter().filter(|_| rng.u8(..3) == 0);
        let mut checks: Vec<Check> = algorithms.map(|algorithm| check(algorithm, "key", 2)).collect();
        checks.push(check(rng.choice(Algorithm::ALL).expect("five"), "other", 0));
        checks.iter_mut().for_each(|check| check.cost = rng.u64(..4));
        let asked = Request::new(checks.clone()).expect("keys that differ").at(at(now));
        let verdict = stack.decide(&[asked]).await.pop().expect("one answer")?;
        let expected = reference.decide(&checks, at(now));
        assert_eq!(verdict.decisions(), expected, "seed {seed}, step {step}: {checks:?} at {now} us");
    }
    Ok(())
}
