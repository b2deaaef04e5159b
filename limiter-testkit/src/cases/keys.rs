//! Hostile keys: any bytes are data.

use crate::fixture::{Fixture, quota, request};
use limiter_core::{Algorithm, Check};
use std::error::Error;
use tokio::time::Instant;

fn hostile() -> Vec<Vec<u8>> {
    let mut keys: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    let texts = [
        "",
        "a b",
        "a\r\nset x 0 0 1\r\n1",
        "a\r\n\r\n",
        "{a}",
        "{a}b",
        "{}a",
        "a}b{",
        "'; DROP TABLE states; --",
        "\\0",
        "%00",
        "a:b",
        "a::b",
        "1:a",
        "rl1:token-bucket:4:rule",
        "\u{202e}",
    ];
    keys.extend(texts.map(|text| text.as_bytes().to_vec()));
    keys.extend([62, 63, 64, 65, 127, 128, 249, 250, 251, 1_024, 65_536].map(|len| vec![b'k'; len]));
    keys.extend([64, 250, 65_536].map(|len| vec![0; len]));
    keys
}

pub(super) async fn any_bytes(fixture: Fixture) {
    let quota = quota("1/day", Algorithm::TokenBucket);
    let keys = hostile();
    for key in &keys {
        let verdict = fixture.ask(&request([fixture.check(key, quota, 1)], 0)).await;
        assert!(verdict.allowed(), "{:?} met another key", key.escape_ascii().to_string());
    }
    for key in &keys {
        let verdict = fixture.ask(&request([fixture.check(key, quota, 1)], 0)).await;
        assert!(!verdict.allowed(), "{:?} was not found again", key.escape_ascii().to_string());
    }
}

/// The same caller under another rule or another algorithm is another key; also where names run into each other.
pub(super) async fn rules_and_algorithms(fixture: Fixture) {
    for (rule, key) in [("a", "bc"), ("ab", "c"), ("abc", ""), ("", "abc"), ("a:b", "c"), ("a", "b:c")] {
        for algorithm in Algorithm::ALL {
            let quota = quota("1/day", algorithm);
            let check = || Check { key: fixture.rule(rule, algorithm).key(key.as_bytes()), quota, cost: 1 };
            assert!(
                fixture.ask(&request([check()], 0)).await.allowed(),
                "{rule:?} {key:?} {algorithm}: met another"
            );
            assert!(
                !fixture.ask(&request([check()], 0)).await.allowed(),
                "{rule:?} {key:?} {algorithm}: not found"
            );
        }
    }
}

/// Neither in an answer nor in why there is none, as where a request comes after its deadline.
pub(super) async fn no_key_shows(fixture: Fixture) {
    let canary = "canary-7f3a";
    let on_time = request([fixture.check(canary, quota("1/s", Algorithm::TokenBucket), 1)], 0);
    let late = on_time.clone().with_deadline(Instant::now());
    let backend = fixture.backend();
    for answer in [backend.decide_alone(&on_time).await, backend.decide_alone(&late).await] {
        let mut shown = format!("{answer:?}");
        let mut cause = answer.as_ref().err().map(|error| error as &dyn Error);
        while let Some(error) = cause {
            shown += &format!(" {error} {error:?}");
            cause = error.source();
        }
        let bytes = format!("{:?}", canary.as_bytes());
        assert!(!shown.contains(canary) && !shown.contains(&bytes), "{shown}");
    }
}
