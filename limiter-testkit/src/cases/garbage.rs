//! Garbage in the store under a key of ours: it is as if the key were fresh, it is counted, and it heals.

use crate::fixture::{Fixture, quota, request};
use fastrand::Rng;
use limiter_core::{Algorithm, Decision, Quota, StorageKey};
use std::fmt;

/// What stands in the place of a state.
enum Garbage {
    Bytes(Vec<u8>),
    AnotherType,
}

impl Garbage {
    /// No states, whatever a store's format is, and those of this store's.
    fn all(fixture: &Fixture, algorithm: Algorithm) -> Vec<Self> {
        let texts = ["", "garbage", "-1", "nan", "1e400", "{\"count\": 1}", "\0", "\u{fffd}\r\n"];
        let mut all: Vec<Vec<u8>> = texts.map(|text| text.as_bytes().to_vec()).into();
        let mut rng = Rng::with_seed(1);
        // Never text; negative as any number.
        let lengths = [1, 2, 7, 8, 13, 16, 24, 32, 35, 500];
        all.extend(lengths.map(|length| (0..length).map(|_| rng.u8(128..)).collect()));
        all.extend(fixture.inside().garbage(algorithm));
        all.into_iter().map(Self::Bytes).chain([Self::AnotherType]).collect()
    }

    /// Puts it there; `false` if this store has no such thing.
    async fn put(&self, fixture: &Fixture, key: &StorageKey) -> bool {
        match self {
            Self::Bytes(bytes) => {
                fixture.inside().write(key, bytes).await;
                true
            }
            Self::AnotherType => fixture.inside().write_another_type(key).await,
        }
    }

    /// Whether every backend can tell it from a state, and from none.
    fn is_plain(&self) -> bool {
        matches!(self, Self::Bytes(bytes) if !bytes.is_empty())
    }
}

impl fmt::Display for Garbage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "\"{}\"", bytes.escape_ascii()),
            Self::AnotherType => f.write_str("a value of another type"),
        }
    }
}

/// What a key says that was never used.
async fn fresh(fixture: &Fixture, quota: Quota, cost: u64) -> Decision {
    fixture.one(&format!("fresh {}", fastrand::u64(..)), quota, cost, 0).await
}

pub(super) async fn is_a_fresh_key_and_heals(fixture: Fixture, algorithm: Algorithm) {
    let quota = quota("5/minute", algorithm);
    let key = fixture.key(algorithm, "a");
    for garbage in Garbage::all(&fixture, algorithm) {
        assert!(fixture.one("a", quota, 5, 0).await.allowed, "before {garbage}");
        let before = fixture.inside().corrupt_states();
        if !garbage.put(&fixture, &key).await {
            continue;
        }
        let peek = fixture.one("a", quota, 0, 0).await;
        assert_eq!(peek, fresh(&fixture, quota, 0).await, "a peek at {garbage}");
        let oversize = fixture.one("a", quota, 6, 0).await;
        assert_eq!(oversize, fresh(&fixture, quota, 6).await, "a denial on {garbage}");
        let first = fixture.one("a", quota, 2, 0).await;
        assert_eq!(first, fresh(&fixture, quota, 2).await, "an admission on {garbage}");
        let healed = fixture.inside().corrupt_states();
        assert!(healed > before || !garbage.is_plain(), "{garbage} was not counted");
        // From here on it is a state like any other.
        assert_eq!(fixture.one("a", quota, 3, 0).await.remaining, 0, "after {garbage}");
        assert!(!fixture.one("a", quota, 1, 0).await.allowed, "after {garbage}");
        assert_eq!(fixture.inside().corrupt_states(), healed, "{garbage} was counted after it had healed");
        fixture.backend().reset(std::slice::from_ref(&key)).await.expect("a reset");
    }
}

/// Any beginning of a real state. Where a format cannot tell it from a whole one, it may count as that.
pub(super) async fn truncated(fixture: Fixture, algorithm: Algorithm) {
    let quota = quota("5/minute", algorithm);
    let key = fixture.key(algorithm, "a");
    assert!(fixture.one("a", quota, 1, 0).await.allowed);
    assert!(fixture.one("a", quota, 2, 1).await.allowed);
    let whole = fixture.inside().read(&key).await.expect("the state of a used key");
    for length in 0..whole.len() {
        let before = fixture.inside().corrupt_states();
        fixture.inside().write(&key, &whole[..length]).await;
        let peek = fixture.one("a", quota, 0, 2).await;
        if fixture.inside().corrupt_states() > before {
            let fresh = fixture.one("fresh", quota, 0, 2).await;
            assert_eq!(peek, fresh, "the first {length} of {} bytes", whole.len());
        }
        // As long as the state could hold the key up, and longer.
        let healed = fixture.one("a", quota, 5, 600_000_000).await;
        assert!(healed.allowed, "after the first {length} of {} bytes", whole.len());
        assert!(!fixture.one("a", quota, 1, 600_000_000).await.allowed);
    }
    fixture.inside().write(&key, &whole).await;
    assert_eq!(fixture.one("a", quota, 0, 2).await.remaining, 2, "the whole state");
}

/// One request of two keys, and one batch over three, of which one key is spoilt.
pub(super) async fn spoils_no_other_key(fixture: Fixture, algorithm: Algorithm) {
    let quota = quota("5/minute", algorithm);
    for (i, garbage) in Garbage::all(&fixture, algorithm).into_iter().enumerate() {
        let name = |key: &str| format!("{i} {key}");
        let check = |key: &str, cost| fixture.check(name(key), quota, cost);
        assert!(fixture.one(&name("sound"), quota, 4, 0).await.allowed);
        let spoilt = fixture.key(algorithm, name("spoilt"));
        if !garbage.put(&fixture, &spoilt).await {
            continue;
        }
        let verdict = fixture.ask(&request([check("sound", 1), check("spoilt", 2)], 0)).await;
        let remaining: Vec<u64> = verdict.decisions().iter().map(|decision| decision.remaining).collect();
        assert_eq!((verdict.allowed(), remaining), (true, vec![0, 3]), "a request over {garbage}");

        assert!(garbage.put(&fixture, &spoilt).await);
        let verdict = fixture.ask(&request([check("sound", 1), check("spoilt", 2)], 0)).await;
        let remaining: Vec<u64> = verdict.decisions().iter().map(|decision| decision.remaining).collect();
        assert_eq!((verdict.allowed(), remaining), (false, vec![0, 5]), "a denied request over {garbage}");

        let batch = ["sound", "spoilt", "new", "spoilt"].map(|key| request([check(key, 1)], 0));
        let verdicts = fixture.verdicts(&batch).await;
        let remaining: Vec<u64> = verdicts.iter().map(|verdict| verdict.decisions()[0].remaining).collect();
        assert_eq!(remaining, [0, 4, 4, 3], "a batch over {garbage}");
    }
}

pub(super) async fn can_be_reset(fixture: Fixture, algorithm: Algorithm) {
    let quota = quota("5/minute", algorithm);
    let key = fixture.key(algorithm, "a");
    for garbage in Garbage::all(&fixture, algorithm) {
        garbage.put(&fixture, &key).await;
        let reset = fixture.backend().reset(std::slice::from_ref(&key)).await;
        reset.unwrap_or_else(|error| panic!("{garbage} cannot be reset: {error}"));
        assert!(!fixture.inside().holds(&key).await, "{garbage} was left by a reset");
    }
    let before = fixture.inside().corrupt_states();
    assert!(fixture.one("a", quota, 5, 0).await.allowed);
    assert_eq!(fixture.inside().corrupt_states(), before);
}
