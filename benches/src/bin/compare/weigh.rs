//! Bytes per key: keys of 24 bytes, each used up to its limit, so that a log is as long as it gets.

use allocation_counter::measure;
use benches::accuracy::Policy;
use benches::report::{Weight, Weights};
use benches::stores::{Fallible, Store};
use limiter_core::{Algorithm, Keyspaces, Memory, Quota, RateLimiter, Request, Rule, Timestamp};
use std::sync::Arc;
use std::time::Duration;

/// Callers that fill a store at the same time.
const AT_ONCE: usize = 256;

/// A policy under a name, and how many requests use it up; of all but the log one says all.
fn weighed(policy: &Policy) -> Fallible<Vec<(String, Quota, u64)>> {
    // A state that is reset weighs nothing: a day for all.
    let day = Quota::per_day(policy.quota.limit()).algorithm(policy.quota.algorithm());
    Ok(match policy.quota.algorithm() {
        Algorithm::SlidingLog => vec![
            (format!("{}, 1 admission", policy.name), day.build()?, 1),
            (
                format!("{}, {} admissions", policy.name, policy.quota.limit()),
                day.build()?,
                policy.quota.limit(),
            ),
        ],
        Algorithm::TokenBucket | Algorithm::LeakyBucket => {
            vec![(policy.name.clone(), day.burst(policy.quota.capacity()).build()?, 1)]
        }
        _ => vec![(policy.name.clone(), day.build()?, 1)],
    })
}

/// What the allocator has given out for the in-process store.
pub(crate) fn memory(policies: &[Policy], keys: usize) -> Fallible<Weights> {
    let (names, rule) = (benches::keys(10 * keys), Keyspaces::new("weigh", "user")?);
    let now = Timestamp::now();
    let mut bytes = Vec::new();
    for (name, quota, uses) in weighed_all(policies)? {
        // Kept beyond the measurement, which tells what is still allocated at its end.
        let mut kept = None;
        let names = if uses > 1 { &names[..keys] } else { &names[..] };
        let allocated = measure(|| {
            let memory = kept.insert(Memory::new());
            for name in names {
                for place in 0..uses {
                    // Each at an instant of its own, as they are in a store: a log keeps one entry for those of one.
                    let at = now + Duration::from_millis(place);
                    let request = Request::by_key(&rule, name.as_bytes(), &quota, 1).at(at);
                    drop(limiter_core::Backend::decide_now(memory, &request));
                }
            }
        });
        let current = u64::try_from(allocated.bytes_current).unwrap_or(0);
        bytes.push(Weight {
            policy: name,
            bytes: benches::float(current) / benches::float(names.len() as u64),
        });
    }
    Ok(Weights { store: "memory".to_owned(), counted_by: "the allocator".to_owned(), bytes })
}

/// What a store says.
pub(crate) async fn store(
    store: &dyn Store,
    policies: &[Policy],
    names: &Arc<[String]>,
    keys: usize,
) -> Fallible<Weights> {
    let mut bytes = Vec::new();
    for (name, quota, uses) in weighed_all(policies)? {
        // As many admissions as it takes are many; of fewer keys they are enough.
        let keys = if uses > 1 { keys / 20 } else { keys };
        let limiter = RateLimiter::builder(store.backend(true).await?)
            .as_is()
            .rule(Rule::new("user", quota))
            .build()?;
        for names in names[..keys].chunks(AT_ONCE) {
            let ask = |name: &String| {
                let (limiter, name) = (limiter.clone(), name.clone());
                tokio::spawn(async move {
                    for _ in 0..uses {
                        if !limiter.check(&name).await?.allowed {
                            return Err("a quota is used up before its time".into());
                        }
                    }
                    Fallible::Ok(())
                })
            };
            for asked in names.iter().map(ask).collect::<Vec<_>>() {
                asked.await??;
            }
        }
        bytes.push(Weight { policy: name, bytes: store.bytes_per_key(keys as u64).await? });
    }
    let counted_by = store.counts_bytes_by().to_owned();
    Ok(Weights { store: store.name().to_owned(), counted_by, bytes })
}

fn weighed_all(policies: &[Policy]) -> Fallible<Vec<(String, Quota, u64)>> {
    Ok(policies.iter().map(weighed).collect::<Fallible<Vec<_>>>()?.concat())
}
