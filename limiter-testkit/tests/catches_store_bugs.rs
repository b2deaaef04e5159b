//! The cases that look inside a store are tested too: each of these stores has one bug, which the case named beside it
//! must find.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use async_trait::async_trait;
use limiter_core::{
    Algorithm, Backend, BackendError, Check, Effect, ErrorKind, Figure, Locality, Quota, QuotaError, Request,
    Shard, StorageKey, Verdict,
};
use limiter_testkit::{Harness, Inside, Reference};
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    None,
    GarbageIsAnError,
    GarbageIsUsedUp,
    GarbageIsNotCounted,
    GarbageIsLeft,
    GarbageSpoilsItsBatch,
    GarbageSurvivesAReset,
    TruncatedIsAnError,
    NeverExpires,
    NeverExpiresOnceUpdated,
    NeverExpiresOnceHealed,
    DenialsRenew,
    PeeksWrite,
    ExpiresWhileLive,
    ExpiresLikeTheFirst,
    ExpiresLikeTheSecond,
}

/// A store of bytes: a state's are `state:17;`, the number of a snapshot, whose end shows that nothing is missing.
#[derive(Clone)]
struct Vault {
    contents: Arc<Mutex<Contents>>,
    /// How long a state is kept when it is as if never used.
    moment: Duration,
    bug: Bug,
}

#[derive(Default)]
struct Contents {
    kept: HashMap<StorageKey, (Vec<u8>, Option<Instant>)>,
    snapshots: Vec<Reference>,
    corrupt: u64,
}

impl Contents {
    fn drop_expired(&mut self) {
        let now = Instant::now();
        self.kept.retain(|_, (_, until)| until.is_none_or(|until| until > now));
    }

    fn decode(&self, bytes: &[u8]) -> Option<Reference> {
        let number = std::str::from_utf8(bytes).ok()?.strip_prefix("state:")?.strip_suffix(';')?;
        self.snapshots.get(number.parse::<usize>().ok()?).cloned()
    }
}

impl Vault {
    fn new(bug: Bug, moment: Duration) -> Self {
        Self { contents: Arc::default(), moment, bug }
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        let mut contents = self.contents.lock().unwrap();
        contents.drop_expired();
        contents
    }

    /// The state of a key, and whether it came out of garbage.
    fn load(&self, contents: &mut Contents, key: &StorageKey) -> Result<(Reference, bool), BackendError> {
        let Some((bytes, _)) = contents.kept.get(key).cloned() else { return Ok((Reference::new(), false)) };
        if let Some(state) = contents.decode(&bytes) {
            return Ok((state, false));
        }
        let is_truncated = bytes.starts_with(b"state:");
        if self.bug == Bug::GarbageIsAnError || (self.bug == Bug::TruncatedIsAnError && is_truncated) {
            let error =
                BackendError::new(ErrorKind::Corrupt, Effect::NotApplied, "vault", "decide", "garbage");
            return Err(error);
        }
        contents.corrupt += u64::from(self.bug != Bug::GarbageIsNotCounted);
        Ok((Reference::new(), true))
    }

    fn store(&self, contents: &mut Contents, check: &Check, state: Reference, ttl: Duration, healed: bool) {
        if self.bug == Bug::GarbageIsLeft && healed {
            return;
        }
        contents.snapshots.push(state);
        let bytes = format!("state:{};", contents.snapshots.len() - 1).into_bytes();
        let is_new = !contents.kept.contains_key(&check.key);
        let endless = match self.bug {
            Bug::NeverExpires => true,
            Bug::NeverExpiresOnceUpdated => !is_new && !healed,
            Bug::NeverExpiresOnceHealed => healed,
            _ => false,
        };
        let until = (!endless).then(|| Instant::now() + ttl);
        contents.kept.insert(check.key.clone(), (bytes, until));
    }

    fn answer(&self, request: &Request) -> Result<Verdict, BackendError> {
        let mut contents = self.contents();
        let now = request.now();
        let mut states = Vec::new();
        for check in request.checks() {
            states.push(self.load(&mut contents, &check.key)?);
        }
        let decide = |(state, _): &mut (Reference, bool), check: Check| state.decide(&[check], now).remove(0);
        let asked = request.checks().iter().cloned().zip(&states);
        let mut decisions: Vec<_> = asked.map(|(check, state)| decide(&mut state.clone(), check)).collect();
        if self.bug == Bug::GarbageIsUsedUp && states.iter().any(|(_, healed)| *healed) {
            decisions[0].allowed = false;
        }
        let allowed = decisions.iter().all(|decision| decision.allowed);
        for ((check, state), decision) in request.checks().iter().zip(&mut states).zip(&mut decisions) {
            let ttl = |reset_after| match (self.bug, request.instant()) {
                (Bug::ExpiresWhileLive, _) | (_, Some(_)) => self.moment,
                (_, None) => reset_after + self.moment,
            };
            if !allowed {
                if decision.allowed {
                    *decision = decide(&mut state.clone(), Check { cost: 0, ..check.clone() });
                } else if self.bug == Bug::DenialsRenew
                    && let Some((_, until)) = contents.kept.get_mut(&check.key)
                {
                    *until = Some(Instant::now() + ttl(decision.reset_after));
                }
            } else if check.cost > 0 || self.bug == Bug::PeeksWrite {
                *decision = decide(state, check.clone());
                let (state, healed) = state.clone();
                self.store(&mut contents, check, state, ttl(decision.reset_after), healed);
            }
        }
        Ok(decisions.into_iter().collect())
    }
}

#[async_trait]
impl Backend for Vault {
    async fn decide(&self, batch: &[Request]) -> Vec<Result<Verdict, BackendError>> {
        let mut answers: Vec<_> = batch.iter().map(|request| self.answer(request)).collect();
        let says = match self.bug {
            Bug::ExpiresLikeTheFirst => batch.first(),
            Bug::ExpiresLikeTheSecond => batch.get(1),
            _ => None,
        };
        if let Some(says) = says {
            let mut contents = self.contents();
            let until = contents.kept.get(&says.checks()[0].key).and_then(|(_, until)| *until);
            for check in batch.iter().flat_map(Request::checks) {
                contents.kept.entry(check.key.clone()).and_modify(|kept| kept.1 = until);
            }
        }
        if self.bug == Bug::GarbageSpoilsItsBatch && batch.len() > 1 {
            let error = |_: &Request| {
                Err(BackendError::new(ErrorKind::Corrupt, Effect::Unknown, "vault", "decide", "garbage"))
            };
            answers = batch.iter().map(error).collect();
        }
        answers
    }

    fn decide_now(&self, _request: &Request) -> Option<Result<Verdict, BackendError>> {
        None
    }

    fn shard(&self, _request: &Request) -> Shard {
        Shard::One(0)
    }

    fn accepts(&self, _quota: &Quota) -> Result<(), QuotaError> {
        Ok(())
    }

    async fn reset(&self, keys: &[StorageKey]) -> Result<(), BackendError> {
        let mut contents = self.contents();
        for key in keys {
            let is_garbage =
                contents.kept.get(key).is_some_and(|(bytes, _)| contents.decode(bytes).is_none());
            if !(is_garbage && self.bug == Bug::GarbageSurvivesAReset) {
                contents.kept.remove(key);
            }
        }
        Ok(())
    }

    async fn ready(&self) -> Result<(), BackendError> {
        Ok(())
    }

    fn locality(&self) -> Locality {
        Locality::Remote
    }

    fn may_forget(&self) -> bool {
        false
    }

    fn name(&self) -> &'static str {
        "vault"
    }

    fn report(&self, _tell: &mut dyn FnMut(Figure)) {}
}

#[async_trait]
impl Inside for Vault {
    async fn holds(&self, key: &StorageKey) -> bool {
        self.contents().kept.contains_key(key)
    }

    async fn read(&self, key: &StorageKey) -> Option<Vec<u8>> {
        self.contents().kept.get(key).map(|(bytes, _)| bytes.clone())
    }

    async fn write(&self, key: &StorageKey, bytes: &[u8]) {
        let until = Some(Instant::now() + Duration::from_secs(3_600));
        self.contents().kept.insert(key.clone(), (bytes.to_vec(), until));
    }

    async fn write_another_type(&self, _key: &StorageKey) -> bool {
        false
    }

    fn garbage(&self, _algorithm: Algorithm) -> Vec<Vec<u8>> {
        vec![b"state:99999999999999999999;".to_vec(), b"state:-1;".to_vec()]
    }

    fn corrupt_states(&self) -> u64 {
        self.contents().corrupt
    }
}

fn harness(bug: Bug) -> Harness {
    let opening = move |moment| {
        move || {
            let vault = Vault::new(bug, Duration::from_millis(moment));
            std::future::ready((vault.clone(), vault))
        }
    };
    Harness::new("vault", move || std::future::ready(Vault::new(bug, Duration::from_secs(3_600))))
        .inside(opening(3_600_000))
        // A busy machine may come to ask too late to renew a state.
        .expiring(opening(if bug == Bug::DenialsRenew { 2_000 } else { 100 }))
}

/// The cases of this name, one per algorithm, that fail.
fn failures(case: &str, bug: Bug) -> Vec<String> {
    let harness = harness(bug);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut failed = Vec::new();
    for case in harness.cases().into_iter().filter(|known| known.name().starts_with(case)) {
        let run = AssertUnwindSafe(|| runtime.block_on(case.run(&harness)));
        if std::panic::catch_unwind(run).is_err() {
            failed.push(case.name().to_owned());
        }
    }
    failed
}

#[test]
fn a_store_without_a_bug_passes() {
    assert_eq!(failures("", Bug::None), Vec::<String>::new());
    assert!(harness(Bug::None).cases().iter().all(|case| !case.name().contains("processes")));
}

#[test]
fn garbage() {
    for (bug, case) in [
        (Bug::GarbageIsAnError, "garbage::is_a_fresh_key_and_heals"),
        (Bug::GarbageIsUsedUp, "garbage::is_a_fresh_key_and_heals"),
        (Bug::GarbageIsNotCounted, "garbage::is_a_fresh_key_and_heals"),
        (Bug::GarbageIsLeft, "garbage::is_a_fresh_key_and_heals"),
        (Bug::GarbageSpoilsItsBatch, "garbage::spoils_no_other_key"),
        (Bug::GarbageSurvivesAReset, "garbage::can_be_reset"),
        (Bug::TruncatedIsAnError, "garbage::a_truncated_state_is_no_error"),
    ] {
        assert_eq!(failures(case, bug).len(), 5, "{bug:?} in {case}");
    }
}

#[test]
fn what_is_written() {
    let case = "expiry::peeks_and_denials_write_nothing";
    assert_eq!(failures(case, Bug::PeeksWrite).len(), 5);
}

/// A state that stays is given up on only after a while, hence all at once.
#[test]
fn ends() {
    let bugs = [
        (Bug::NeverExpires, "expiry::a_state_is_gone_after_its_time"),
        (Bug::DenialsRenew, "expiry::a_state_is_gone_after_its_time"),
        (Bug::NeverExpires, "expiry::no_state_without_an_end"),
        (Bug::NeverExpiresOnceUpdated, "expiry::no_state_without_an_end"),
        (Bug::NeverExpiresOnceHealed, "expiry::no_state_without_an_end"),
        (Bug::ExpiresWhileLive, "expiry::a_live_state_is_kept"),
        (Bug::ExpiresLikeTheFirst, "expiry::a_live_state_is_kept"),
        (Bug::ExpiresLikeTheSecond, "expiry::a_live_state_is_kept"),
    ];
    std::thread::scope(|scope| {
        for (bug, case) in bugs {
            for algorithm in
                ["token_bucket", "leaky_bucket", "fixed_window", "sliding_log", "sliding_counter"]
            {
                let case = format!("{case}::{algorithm}");
                scope.spawn(move || assert_eq!(failures(&case, bug), [case.as_str()], "{bug:?}"));
            }
        }
    });
}
