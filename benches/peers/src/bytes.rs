//! Memory per key, counted at the allocator: the key, its state, and the map around them.

use crate::contestant;
use allocation_counter::measure;
use benches::report::{Weight, Weights};
use benches::{KEYS, keys, scarce, scarce_with_remainder};
use limiter_core::{Algorithm, Memory, Quota};
use std::error::Error;

/// The most bytes per key of a token bucket.
const FLOOR: f64 = 100.0;

/// Prints the bytes per key; whether the floor holds. Quotas are scarce: no state is reset, and so forgotten.
pub(crate) fn report() -> Result<(bool, Weights), Box<dyn Error>> {
    let keys = keys(KEYS);
    println!("\nbytes per key, 100,000 keys of 24 bytes, each used once");
    let (mut passed, mut bytes) = (true, Vec::new());
    let mut line = |name: &str, of: f64, floor| {
        bytes.push(Weight { policy: name.to_owned(), bytes: of });
        line(name, of, floor)
    };
    for algorithm in Algorithm::ALL {
        let of = memory(scarce(algorithm).build()?, &keys)?;
        let floor = algorithm == Algorithm::TokenBucket;
        passed &= line(&format!("Memory, {algorithm}"), of, floor);
    }
    let of = memory(scarce_with_remainder().build()?, &keys)?;
    passed &= line("Memory, token-bucket with a remainder", of, true);
    line(contestant::GOVERNOR, governor(scarce(Algorithm::TokenBucket).build()?, &keys)?, false);
    let (store, counted_by) = ("memory, 100,000 keys".to_owned(), "the allocator".to_owned());
    Ok((passed, Weights { store, counted_by, bytes }))
}

fn memory(quota: Quota, keys: &[String]) -> Result<f64, Box<dyn Error>> {
    let keyspaces = benches::keyspaces()?;
    // Kept beyond the measurement, which tells what is still allocated at its end.
    let mut kept = None;
    let allocated = measure(|| {
        let memory = kept.insert(Memory::new());
        for key in keys {
            contestant::ask(memory, &keyspaces, key, &quota);
        }
    });
    Ok(allocated.bytes_current as f64 / keys.len() as f64)
}

fn governor(quota: Quota, keys: &[String]) -> Result<f64, Box<dyn Error>> {
    let mut kept = None;
    let mut built = Ok(());
    let allocated = measure(|| match contestant::governor(quota) {
        Ok(limiter) => {
            let limiter = kept.insert(limiter);
            for key in keys {
                let _ = limiter.check_key(key);
            }
        }
        Err(error) => built = Err(error),
    });
    built.map(|()| allocated.bytes_current as f64 / keys.len() as f64)
}

fn line(name: &str, bytes: f64, floor: bool) -> bool {
    let holds = bytes <= FLOOR;
    let verdict = match (floor, holds) {
        (false, _) => "",
        (true, true) => "  at most 100: pass",
        (true, false) => "  at most 100: MISSED",
    };
    println!("  {name:44} {bytes:7.1}{verdict}");
    holds || !floor
}
