//! The suite is tested too: each of these backends has one bug, which the case named beside it must find.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use async_trait::async_trait;
use limiter_core::{
    Backend, BackendError, Check, Decision, Effect, ErrorKind, Figure, Keyspace, Locality, Memory, Quota,
    QuotaError, Request, Shard, StorageKey, Timestamp, Verdict,
};
use limiter_testkit::Harness;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

type Answers = Vec<Result<Verdict, BackendError>>;
type Deciding = Pin<Box<dyn Future<Output = Answers> + Send>>;

/// The in-process store behind a bug.
#[derive(Clone)]
struct Buggy {
    memory: Memory,
    decide: Arc<dyn Fn(Memory, Vec<Request>) -> Deciding + Send + Sync>,
    decide_now: fn(&Memory, &Request) -> Option<Result<Verdict, BackendError>>,
    decide_one: fn(Request) -> Request,
    resets: bool,
}

impl Buggy {
    fn new<F>(decide: impl Fn(Memory, Vec<Request>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Answers> + Send + 'static,
    {
        let decide = Arc::new(move |memory, batch| Box::pin(decide(memory, batch)) as Deciding);
        Self {
            memory: Memory::new(),
            decide,
            decide_now: |_, _| None,
            decide_one: |request| request,
            resets: true,
        }
    }

    /// A bug in what is asked.
    fn asking(bend: impl Fn(Request) -> Request + Clone + Send + Sync + 'static) -> Self {
        Self::new(move |memory, batch| {
            let batch: Vec<Request> = batch.into_iter().map(bend.clone()).collect();
            async move { memory.decide(&batch).await }
        })
    }

    /// A bug in what is answered.
    fn answering(bend: fn(&Request, Decision) -> Decision) -> Self {
        Self::new(move |memory, batch| async move {
            let answers = memory.decide(&batch).await.into_iter().zip(&batch);
            let bent = |(answer, request): (Result<Verdict, BackendError>, &Request)| {
                answer.map(|verdict| verdict.decisions().iter().map(|d| bend(request, *d)).collect())
            };
            answers.map(bent).collect()
        })
    }
}

#[async_trait]
impl Backend for Buggy {
    async fn decide(&self, batch: &[Request]) -> Answers {
        (self.decide)(self.memory.clone(), batch.to_vec()).await
    }

    fn decide_one(&self, request: &Request) -> impl Future<Output = Result<Verdict, BackendError>> + Send {
        let bent = (self.decide_one)(request.clone());
        async move { self.decide(&[bent]).await.remove(0) }
    }

    fn decide_now(&self, request: &Request) -> Option<Result<Verdict, BackendError>> {
        (self.decide_now)(&self.memory, request)
    }

    fn shard(&self, request: &Request) -> Shard {
        self.memory.shard(request)
    }

    fn accepts(&self, quota: &Quota) -> Result<(), QuotaError> {
        self.memory.accepts(quota)
    }

    async fn reset(&self, keys: &[StorageKey]) -> Result<(), BackendError> {
        if self.resets { self.memory.reset(keys).await } else { Ok(()) }
    }

    async fn ready(&self) -> Result<(), BackendError> {
        self.memory.ready().await
    }

    fn locality(&self) -> Locality {
        Locality::Remote
    }

    fn may_forget(&self) -> bool {
        false
    }

    fn name(&self) -> &'static str {
        "buggy"
    }

    fn report(&self, _tell: &mut dyn FnMut(Figure)) {}
}

/// Whether the named case finds the bug.
fn finds(case: &str, backend: Buggy) -> bool {
    fails(case, &harness(backend))
}

fn harness(backend: Buggy) -> Harness {
    Harness::new("buggy", move || {
        let backend = backend.clone();
        async move { backend }
    })
}

fn fails(case: &str, harness: &Harness) -> bool {
    let case = harness.cases().into_iter().find(|c| c.name() == case);
    let case = case.unwrap_or_else(|| panic!("there is no such case"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    std::panic::catch_unwind(AssertUnwindSafe(|| runtime.block_on(case.run(harness)))).is_err()
}

fn same_at(request: &Request, checks: Vec<Check>) -> Request {
    let copy = Request::new(checks).unwrap();
    match request.instant() {
        Some(at) => copy.at(at),
        None => copy,
    }
}

fn with_checks(request: &Request, bend: impl Fn(&Check) -> Check) -> Request {
    same_at(request, request.checks().iter().map(bend).collect())
}

async fn one_by_one(memory: &Memory, request: &Request) -> Verdict {
    let mut decisions = Vec::new();
    for check in request.checks() {
        let alone = same_at(request, vec![check.clone()]);
        decisions.push(memory.decide(&[alone]).await.remove(0).unwrap().decisions()[0]);
    }
    decisions.into_iter().collect()
}

#[test]
fn a_store_without_a_bug_passes_what_the_others_fail() {
    let sound = || Buggy::new(|memory, batch| async move { memory.decide(&batch).await });
    for case in harness(sound()).cases() {
        assert!(!finds(case.name(), sound()), "{} fails a sound store", case.name());
    }
}

#[test]
fn a_read_then_a_write() {
    let buggy = Buggy::new(|memory, batch| async move {
        let peeks: Vec<Request> =
            batch.iter().map(|r| with_checks(r, |c| Check { cost: 0, ..c.clone() })).collect();
        let seen = memory.decide(&peeks).await;
        tokio::task::yield_now().await;
        let _written = memory.decide(&batch).await;
        let answer = |(peek, request): (Result<Verdict, BackendError>, &Request)| {
            let read = peek.unwrap().decisions().to_vec().into_iter().zip(request.checks());
            let decided = read.map(|(mut d, check)| {
                d.allowed = d.remaining >= check.cost;
                d
            });
            Ok(decided.collect())
        };
        seen.into_iter().zip(&batch).map(answer).collect()
    });
    assert!(finds("race::tasks_on_one_key_admit_exactly_the_limit::token_bucket", buggy.clone()));
    assert!(finds("race::a_hot_batch_admits_exactly_the_limit", buggy));
}

fn admit_before(tick: Duration, mut decision: Decision) -> Decision {
    decision.allowed |= decision.retry_after.is_some_and(|wait| wait <= tick);
    decision
}

#[test]
fn a_tick_too_early() {
    for algorithm in ["token_bucket", "leaky_bucket", "fixed_window", "sliding_log", "sliding_counter"] {
        let tick = if algorithm == "sliding_counter" {
            |_: &Request, decision| admit_before(Duration::from_millis(1), decision)
        } else {
            |_: &Request, decision| admit_before(Duration::from_micros(1), decision)
        };
        let early = Buggy::answering(tick);
        let case = format!("boundary::a_denied_request_is_allowed_when_promised::{algorithm}");
        assert!(finds(&case, early), "{case}");
    }
}

#[test]
fn a_layer_that_ignores_the_instant() {
    let buggy = Buggy::asking(|request| Request::new(request.checks().to_vec()).unwrap());
    assert!(finds("time::the_requests_instant_decides", buggy));
}

#[test]
fn a_store_that_reads_no_clock() {
    let buggy = Buggy::asking(|request| {
        let at = request.instant().unwrap_or(Timestamp::from_micros(1_795_000_000_000_000).unwrap());
        request.at(at)
    });
    assert!(finds("time::without_an_instant_the_stores_clock_decides", buggy));
}

#[test]
fn an_expiry_that_is_the_clock() {
    // A state that lasts from its first request to the end of its time to live, wherever windows end.
    let buggy = Buggy::asking(|request| {
        let aligned = request.instant().map(|at| Timestamp::from_micros(at.as_micros() + 435_613).unwrap());
        aligned.map_or_else(|| request.clone(), |at| request.clone().at(at))
    });
    assert!(finds("equal::every_decision_is_the_references::fixed_window", buggy));
}

#[test]
fn a_reply_one_short() {
    let buggy = Buggy::new(|memory, batch| async move {
        let mut answers = memory.decide(&batch).await;
        if answers.len() > 1 {
            answers.pop();
        }
        answers
    });
    assert!(finds("batch::mixed_outcomes_keep_their_places", buggy));
}

#[test]
fn answers_in_another_order() {
    let buggy = Buggy::new(|memory, batch| async move {
        let mut answers = memory.decide(&batch).await;
        answers.reverse();
        answers
    });
    assert!(finds("batch::mixed_outcomes_keep_their_places", buggy));
}

#[test]
fn a_batch_that_reads_each_key_once_for_all() {
    // Each request of a batch is decided on the state before the batch; the last one's outcome is kept.
    let buggy = Buggy::new(|memory, batch| async move {
        let mut answers = Vec::new();
        for request in &batch {
            let peek = with_checks(request, |check| Check { cost: 0, ..check.clone() });
            let before = memory.decide(&[peek]).await.remove(0).unwrap().decisions()[0];
            let mut decision =
                memory.decide(std::slice::from_ref(request)).await.remove(0).unwrap().decisions()[0];
            if batch.len() > 1 && before.remaining > 0 {
                decision.allowed = true;
            }
            answers.push(Ok(Verdict::one(decision)));
        }
        answers
    });
    assert!(finds("batch::one_key_many_times_is_decided_in_order::token_bucket", buggy));
}

#[test]
fn a_batch_that_has_one_instant() {
    let buggy = Buggy::new(|memory, batch| async move {
        let first = batch.first().and_then(Request::instant);
        let at_once = |request: &Request| match first {
            Some(at) => request.clone().at(at),
            None => request.clone(),
        };
        memory.decide(&batch.iter().map(at_once).collect::<Vec<_>>()).await
    });
    assert!(finds("batch::each_request_has_an_instant_of_its_own::fixed_window", buggy.clone()));
    assert!(finds("batch::each_request_has_an_instant_of_its_own::sliding_log", buggy));
}

#[test]
fn a_batch_that_has_one_cost_for_each_quota() {
    let buggy = Buggy::new(|memory, batch| async move {
        let cost = |check: &Check| {
            let mut checks = batch.iter().flat_map(Request::checks);
            checks.find(|first| first.quota == check.quota).map_or(check.cost, |first| first.cost)
        };
        let alike = |request| with_checks(request, |check| Check { cost: cost(check), ..check.clone() });
        memory.decide(&batch.iter().map(alike).collect::<Vec<_>>()).await
    });
    assert!(finds("batch::many_keys_keep_their_states_apart", buggy));
}

#[test]
fn a_batch_that_is_sorted_by_instant() {
    let buggy = Buggy::new(|memory, batch| async move {
        let mut order: Vec<usize> = (0..batch.len()).collect();
        order.sort_by_key(|i| batch[*i].now());
        let sorted: Vec<Request> = order.iter().map(|i| batch[*i].clone()).collect();
        let mut answers: Vec<_> = order.into_iter().zip(memory.decide(&sorted).await).collect();
        answers.sort_by_key(|(i, _)| *i);
        answers.into_iter().map(|(_, answer)| answer).collect()
    });
    assert!(finds("batch::each_request_has_an_instant_of_its_own::token_bucket", buggy));
}

#[test]
fn instances_that_count_for_themselves() {
    let alone = Harness::new("buggy", async || Memory::new()).across_processes();
    let memory = Memory::new();
    let together = Harness::new("buggy", move || std::future::ready(memory.clone())).across_processes();
    for algorithm in ["token_bucket", "leaky_bucket", "fixed_window", "sliding_log", "sliding_counter"] {
        let case = format!("race::two_instances_share_one_limit::{algorithm}");
        assert!(fails(&case, &alone), "{case}");
        assert!(!fails(&case, &together), "{case}");
    }
}

#[test]
fn a_state_for_each_quota() {
    // Who changes a quota finds all keys fresh.
    let buggy = Buggy::asking(|request| {
        with_checks(&request, |check| {
            let name = format!("{} {:?}", check.quota, check.key.bytes());
            Check { key: check.key.keyspace().key(name.as_bytes()), ..check.clone() }
        })
    });
    assert!(finds("equal::every_decision_is_the_references::sliding_counter", buggy));
}

#[test]
fn a_group_that_is_not_atomic() {
    let buggy = Buggy::new(|memory, batch| async move {
        let mut answers = Vec::new();
        for request in &batch {
            answers.push(Ok(one_by_one(&memory, request).await));
        }
        answers
    });
    assert!(finds("all_or_nothing::a_denied_request_takes_from_no_key", buggy.clone()));
    assert!(finds("race::requests_of_two_keys_lose_and_add_nothing", buggy));
}

#[test]
fn a_group_that_stops_at_the_first_denial() {
    let buggy = Buggy::new(|memory, batch| async move {
        let cut = |answer: Result<Verdict, BackendError>| {
            answer.map(|verdict| {
                let decisions = verdict.decisions().to_vec();
                let denied = decisions.iter().position(|d| !d.allowed).map_or(decisions.len(), |i| i + 1);
                decisions.into_iter().take(denied).collect()
            })
        };
        memory.decide(&batch).await.into_iter().map(cut).collect()
    });
    assert!(finds("all_or_nothing::all_checks_are_evaluated", buggy));
}

#[test]
fn a_peek_that_takes() {
    let buggy =
        Buggy::asking(|request| with_checks(&request, |c| Check { cost: c.cost.max(1), ..c.clone() }));
    assert!(finds("cost::a_peek_reports_and_takes_nothing::fixed_window", buggy));
}

#[test]
fn a_cost_that_wraps() {
    let buggy = Buggy::asking(|request| {
        with_checks(&request, |c| Check { cost: c.cost & u64::from(u32::MAX), ..c.clone() })
    });
    assert!(finds("cost::a_cost_above_the_capacity_is_never_allowed::sliding_log", buggy));
}

#[test]
fn a_denial_that_takes_what_is_left() {
    let buggy = Buggy::new(|memory, batch| async move {
        let answers = memory.decide(&batch).await;
        for (answer, request) in answers.iter().zip(&batch) {
            let left = answer.as_ref().unwrap().decisions()[0];
            if !left.allowed {
                let rest = with_checks(request, |check| Check { cost: left.remaining, ..check.clone() });
                let _taken = memory.decide(&[rest]).await;
            }
        }
        answers
    });
    assert!(finds("cost::a_denied_cost_leaves_a_smaller_one_its_room::sliding_counter", buggy));
}

#[test]
fn a_hint_that_is_rounded() {
    let buggy = Buggy::answering(|_, decision| {
        let millis = |wait: Duration| Duration::from_millis(u64::try_from(wait.as_millis()).unwrap());
        let mut bent = decision;
        bent.retry_after = decision.retry_after.map(millis);
        bent
    });
    assert!(finds("boundary::a_denied_request_is_allowed_when_promised::token_bucket", buggy.clone()));
    assert!(finds("equal::every_decision_is_the_references::token_bucket", buggy));
}

#[test]
fn a_reset_that_promises_too_little() {
    let buggy = Buggy::answering(|_, decision| {
        let mut bent = decision;
        bent.reset_after = decision.reset_after / 2;
        bent
    });
    assert!(finds("boundary::a_used_key_is_fresh_when_promised::fixed_window", buggy));
}

/// Rebuilds every key by a lossy rule.
fn rekeyed(lossy: fn(&StorageKey) -> StorageKey) -> Buggy {
    Buggy::asking(move |request| {
        let checks: Vec<Check> =
            request.checks().iter().map(|c| Check { key: lossy(&c.key), ..c.clone() }).collect();
        Request::new(checks).map_or_else(
            |_| request.clone(),
            |copy| match request.instant() {
                Some(at) => copy.at(at),
                None => copy,
            },
        )
    })
}

#[test]
fn keys_that_are_cut_or_folded() {
    let truncated = rekeyed(|key| key.keyspace().key(&key.bytes()[..key.bytes().len().min(32)]));
    assert!(finds("keys::any_bytes_are_a_key_of_their_own", truncated));
    let lowered = rekeyed(|key| key.keyspace().key(&key.bytes().to_ascii_lowercase()));
    assert!(finds("keys::any_bytes_are_a_key_of_their_own", lowered));
}

#[test]
fn names_that_run_into_each_other() {
    let joined = rekeyed(|key| {
        let names = Keyspace::new(key.keyspace().namespace(), "", key.keyspace().algorithm()).unwrap();
        let mut bytes = key.keyspace().rule().as_bytes().to_vec();
        bytes.extend_from_slice(key.bytes());
        names.key(&bytes)
    });
    assert!(finds("keys::rules_and_algorithms_share_nothing", joined));
}

#[test]
fn an_error_that_quotes_the_key() {
    let buggy = Buggy::new(|memory, batch| async move {
        let error = |key: &StorageKey| {
            let message = format!("too late for {}", String::from_utf8_lossy(key.bytes()));
            BackendError::new(ErrorKind::Timeout, Effect::NotApplied, "buggy", "decide", message)
        };
        match batch.iter().find(|request| request.deadline().is_some()) {
            Some(late) => vec![Err(error(&late.checks()[0].key)); batch.len()],
            None => memory.decide(&batch).await,
        }
    });
    assert!(finds("keys::no_key_shows_in_what_is_answered", buggy));
}

#[test]
fn a_reset_that_does_nothing() {
    let sound = Buggy::new(|memory, batch| async move { memory.decide(&batch).await });
    let buggy = Buggy { resets: false, ..sound };
    assert!(finds("reset::a_reset_key_is_fresh::leaky_bucket", buggy.clone()));
    assert!(finds("reset::only_that_key_is_reset", buggy));
}

#[test]
fn an_answer_at_once_that_is_taken_and_thrown_away() {
    let sound = Buggy::new(|memory, batch| async move { memory.decide(&batch).await });
    let buggy = Buggy {
        decide_now: |memory, request| {
            let _taken = memory.decide_now(request);
            None
        },
        ..sound
    };
    assert!(finds("equal::every_decision_is_the_references::sliding_log", buggy.clone()));
    assert!(finds("race::tasks_on_one_key_admit_exactly_the_limit::fixed_window", buggy));
}

#[test]
fn a_request_alone_that_is_asked_for_in_another_way() {
    let sound = || Buggy::new(|memory, batch| async move { memory.decide(&batch).await });
    let takes_nothing = |request| with_checks(&request, |check| Check { cost: 0, ..check.clone() });
    let loses_the_instant = |request: Request| Request::new(request.checks().to_vec()).unwrap();
    for decide_one in [takes_nothing, loses_the_instant] {
        let buggy = || Buggy { decide_one, ..sound() };
        assert!(finds("equal::alone_and_in_a_batch::sliding_log", buggy()));
        assert!(finds("equal::every_decision_is_the_references::sliding_log", buggy()));
    }
    let takes_twice =
        |request| with_checks(&request, |check| Check { cost: 2 * check.cost, ..check.clone() });
    assert!(finds(
        "drops::a_dropped_request_is_taken_at_most_once",
        Buggy { decide_one: takes_twice, ..sound() }
    ));
}

#[test]
fn a_state_that_is_forgotten_when_time_steps_back() {
    let latest = Arc::new(AtomicU64::new(0));
    let buggy = Buggy::new(move |memory, batch| {
        let latest = Arc::clone(&latest);
        async move {
            for request in &batch {
                let at = request.instant().map_or(0, Timestamp::as_micros);
                if latest.fetch_max(at, Ordering::SeqCst) > at {
                    let keys: Vec<StorageKey> =
                        request.checks().iter().map(|check| check.key.clone()).collect();
                    memory.reset(&keys).await.unwrap();
                }
            }
            memory.decide(&batch).await
        }
    });
    assert!(finds("time::a_clock_that_steps_back_refunds_nothing::token_bucket", buggy.clone()));
    assert!(finds("time::a_clock_that_steps_back_refunds_nothing::sliding_log", buggy));
}

#[test]
fn a_request_that_is_sent_again() {
    // What may have been recorded is repeated when the first answer is slow to come.
    let buggy = Buggy::new(|memory, batch| async move {
        let _lost = memory.decide(&batch).await;
        tokio::task::yield_now().await;
        memory.decide(&batch).await
    });
    assert!(finds("drops::a_dropped_request_is_taken_at_most_once", buggy));
}
