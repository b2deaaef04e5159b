//! What travels together.

use crate::fake_store::{Act, FakeStore, MANY, PART, ask, error_of};
use crate::now_or_never::now_or_never;
use crate::{FULL, always, answers, callers, count, ids, is_empty, layer, ms, settle, some, spawn};
use limiter_core::{Algorithm, Backend, CoalesceConfig, Keyspace, Quota, Shard};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::runtime::Builder;
use tokio::time::{Instant, timeout};

#[test]
fn an_idle_layer_sends_at_once_and_needs_no_runtime() {
    let store = FakeStore::new(|_| Act::Now);
    let layer = layer(&store, CoalesceConfig::new());
    for id in 1..=3 {
        assert_eq!(ids(&now_or_never(layer.decide(&[ask(id)])).unwrap()), some([id]));
    }
    assert_eq!(now_or_never(layer.decide(&[])).map(|answers| answers.len()), Some(0));
    assert_eq!(store.seen(), [[1], [2], [3]]);
    let usage = layer.usage();
    assert_eq!((usage.trips, usage.carried, usage.queued, usage.in_flight), (3, 3, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn few_callers_are_sent_one_by_one_at_once() {
    let store = FakeStore::new(|_| Act::After(ms(1)));
    let layer = layer(&store, CoalesceConfig::new());
    for round in 0..3 {
        let start = Instant::now();
        let callers = callers(&layer, 1..=24);
        settle().await;
        assert_eq!(store.sizes(), [1; 24].repeat(round + 1), "sent before any answer");
        assert_eq!(layer.usage().in_flight, 24);
        assert_eq!(ids(&answers(callers).await), some(1..=24));
        assert_eq!(start.elapsed(), ms(1));
    }
    assert!(is_empty(&layer));
}

#[tokio::test(start_paused = true)]
async fn many_callers_get_full_batches_of_at_most_the_slots() {
    let store = FakeStore::new(|_| Act::After(ms(1)));
    let layer = layer(&store, CoalesceConfig::new());
    let start = Instant::now();
    let callers = callers(&layer, 1..=424);
    settle().await;
    let mut expected = vec![1; 24];
    expected.extend([128, 128]);
    assert_eq!(store.sizes(), expected);
    assert_eq!((layer.usage().queued, layer.usage().in_flight), (144, 280));
    assert_eq!(ids(&answers(callers).await), some(1..=424));
    expected.extend([128, 16]);
    assert_eq!(store.sizes(), expected);
    assert_eq!(start.elapsed(), ms(2));
    assert_eq!((layer.usage().trips, layer.usage().carried), (28, 424));
    assert!(is_empty(&layer));
}

#[tokio::test(start_paused = true)]
async fn callers_that_come_back_together_travel_together() {
    let store = FakeStore::new(|_| Act::After(ms(1)));
    let layer = layer(&store, CoalesceConfig::new());
    let callers: Vec<_> = (0..100)
        .map(|caller| {
            let layer = Arc::clone(&layer);
            tokio::spawn(async move {
                for round in 0..50 {
                    let id = 1 + caller * 50 + round;
                    assert_eq!(ids(&layer.decide(&[ask(id)]).await), [Some(id)]);
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    let sizes = store.sizes();
    let full = sizes.iter().filter(|size| **size >= 20).sum::<usize>();
    assert!(full > 4_500, "{full} of 5,000 in batches of 20 and more: {sizes:?}");
}

/// Else the store would wait while they are told, and they while it works.
#[tokio::test(start_paused = true)]
async fn callers_that_come_back_together_fill_two_trips_alike() {
    let store = FakeStore::new(|_| Act::After(ms(1)));
    // Of those who come back together the first finds nothing outstanding, and goes alone.
    for (count, trips) in [(80, &[1, 35, 44][..]), (48, &[1, 21, 26])] {
        let layer = layer(&store, CoalesceConfig::new());
        for round in 0..20 {
            answers(callers(&layer, (1..=count).map(|caller| 100 * round + caller))).await;
        }
        let sizes = store.sizes();
        assert_eq!(sizes[sizes.len() - trips.len()..], *trips, "{sizes:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_load_below_its_share_takes_one_more_call_whole() {
    let store = FakeStore::new(|_| Act::After(ms(1)));
    let layer = layer(&store, CoalesceConfig::new());
    for _ in 0..5 {
        let calls: Vec<_> = (0..6)
            .map(|call| {
                let layer = Arc::clone(&layer);
                let batch: Vec<_> = (1..=20).map(|i| ask(100 * call + i)).collect();
                tokio::spawn(async move { layer.decide(&batch).await })
            })
            .collect();
        for call in calls {
            assert_eq!(call.await.unwrap().len(), 20);
        }
    }
    let sizes = store.sizes();
    // At first nothing is known. Then one goes alone, and two that make 40 leave room for one more below 53.
    assert_eq!(sizes[..5], [20, 100, 20, 60, 40], "{sizes:?}");
}

/// On a worker thread the task that is started last runs first, here the one that carries what waits.
#[test]
fn who_can_run_joins_before_a_trip_leaves() {
    let store = FakeStore::new(|_| Act::After(ms(1)));
    let layer = layer(&store, always().slots(count(20)));
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
    let answered = runtime.spawn(async move { answers(callers(&layer, 1..=20)).await });
    assert_eq!(ids(&runtime.block_on(answered).unwrap()), some(1..=20));
    assert!(store.seen().len() <= 5, "{:?}", store.sizes());
}

#[tokio::test(start_paused = true)]
async fn after_a_burst_few_callers_are_sent_one_by_one_again() {
    let store = FakeStore::new(|_| Act::After(ms(1)));
    let layer = layer(&store, CoalesceConfig::new());
    answers(callers(&layer, 1..=500)).await;
    for _ in 0..2 {
        answers(callers(&layer, 1..=16)).await;
    }
    let before = store.seen().len();
    answers(callers(&layer, 1..=16)).await;
    assert_eq!(store.sizes()[before..], [1; 16]);
}

#[tokio::test(start_paused = true)]
async fn a_part_that_hangs_holds_up_no_other() {
    let store = FakeStore::new(|ids| if ids[0] < PART { Act::Hang } else { Act::After(ms(1)) });
    let layer = layer(&store, CoalesceConfig::new());
    let hanging = callers(&layer, 1..=500);
    settle().await;
    let start = Instant::now();
    let others = (1..=5_000).map(|id| PART * (1 + id % 3) + id);
    let answered = answers(callers(&layer, others.clone())).await;
    assert_eq!(ids(&answered), some(others));
    assert!(start.elapsed() < ms(20), "{:?}", start.elapsed());
    let same_queue = 1_024 * PART + 1;
    assert!(timeout(ms(100), layer.decide(&[ask(same_queue)])).await.is_err());
    for caller in hanging {
        assert!(!caller.is_finished());
        caller.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_at_once() {
    let open = Arc::new(AtomicBool::new(false));
    let is_open = Arc::clone(&open);
    let store =
        FakeStore::new(move |_| if is_open.load(Ordering::SeqCst) { Act::Now } else { Act::After(ms(9)) });
    let layer = layer(&store, always().max_queued(count(10)));
    let first = callers(&layer, [1, 2]);
    settle().await;
    let waiting = callers(&layer, 3..=11);
    settle().await;
    assert_eq!(layer.usage().queued, 9);
    let two = now_or_never(layer.decide(&[ask(12), ask(13)])).unwrap();
    assert_eq!([error_of(&two[0]), error_of(&two[1])], [FULL, FULL]);
    let last = callers(&layer, [14]);
    settle().await;
    assert_eq!(error_of(&now_or_never(layer.decide(&[ask(15)])).unwrap()[0]), FULL);
    assert_eq!(layer.usage().queued, 10);
    open.store(true, Ordering::SeqCst);
    assert_eq!(ids(&answers(first).await), some([1, 2]));
    assert_eq!(ids(&answers(waiting).await), some(3..=11));
    assert_eq!(ids(&answers(last).await), some([14]));
    assert!(is_empty(&layer));
}

#[tokio::test(start_paused = true)]
async fn a_flood_leaves_nothing_behind() {
    let store = FakeStore::new(|_| Act::After(ms(1)));
    let layer = layer(&store, CoalesceConfig::new().max_queued(count(1_000)));
    let flood = answers(callers(&layer, 1..=10_000)).await;
    let refused = flood.iter().filter(|answer| error_of(answer) == FULL).count();
    let answered = flood.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!((refused + answered, answered), (10_000, 1_024), "singles, and the queue");
    assert!(is_empty(&layer));
    assert_eq!(layer.usage().carried, 1_024);
}

#[tokio::test(start_paused = true)]
async fn the_requests_of_a_call_stay_together_in_their_order() {
    let store = FakeStore::new(|ids| Act::After(ms(ids[0] % 7)));
    let layer = layer(&store, always().slots(count(2)).max_batch(count(4)));
    let first = callers(&layer, [1]);
    settle().await;
    let calls: [&[u64]; 6] =
        [&[13, 12, 11], &[22, 21], &[31, 32], &[41, 42, 43, 44, 45, 46], &[51], &[52, 53]];
    let waiting: Vec<_> = calls.iter().map(|call| spawn(&layer, call.iter().copied())).collect();
    assert_eq!(ids(&answers(first).await), some([1]));
    for (caller, call) in waiting.into_iter().zip(calls) {
        assert_eq!(ids(&caller.await.unwrap()), some(call.iter().copied()));
    }
    let expected: [&[u64]; 5] =
        [&[1], &[13, 12, 11], &[22, 21, 31, 32], &[41, 42, 43, 44, 45, 46], &[51, 52, 53]];
    assert_eq!(store.seen(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_call_over_several_parts_is_its_own_trip() {
    let store = FakeStore::new(|_| Act::After(ms(1)));
    let layer = layer(&store, always().max_queued(count(4)));
    let start = Instant::now();
    let hold = callers(&layer, [1, 2, 3]);
    let over = [spawn(&layer, [4, PART, 5]), spawn(&layer, [MANY]), spawn(&layer, [PART, MANY])];
    settle().await;
    // As bounded as a queue.
    assert_eq!(error_of(&now_or_never(layer.decide(&[ask(MANY)])).unwrap()[0]), FULL);
    let over = answers(over.into()).await;
    assert_eq!(start.elapsed(), ms(1));
    assert_eq!(ids(&over[..4]), some([4, PART, 5, MANY]));
    assert_eq!([error_of(&over[4]), error_of(&over[5])], [FULL, FULL]);
    assert_eq!(ids(&answers(hold).await), some([1, 2, 3]));
    let mut seen = store.seen();
    seen.sort();
    assert_eq!(seen, [vec![1], vec![2, 3], vec![4, PART, 5], vec![MANY]]);
    assert!(is_empty(&layer));
}

#[test]
fn everything_else_is_the_stores() {
    let store = FakeStore::new(|_| Act::Now);
    let layer = layer(&store, CoalesceConfig::new());
    assert!(layer.decide_now(&ask(0)).is_some());
    assert!(layer.decide_now(&ask(1)).is_none());
    assert_eq!((layer.shard(&ask(7 * PART)), layer.shard(&ask(MANY))), (Shard::One(7), Shard::Many));
    assert!(layer.accepts(&Quota::per_second(1).build().unwrap()).is_ok());
    assert!(layer.accepts(&Quota::per_second(5_000).build().unwrap()).is_err());
    let key = Keyspace::new("test", "fake", Algorithm::TokenBucket).unwrap().key(b"key");
    let reset = now_or_never(layer.reset(&[key.clone(), key])).unwrap().unwrap_err();
    assert_eq!(reset.to_string(), "fake reset: 2 keys (config; not recorded)");
    let ready = now_or_never(layer.ready()).unwrap().unwrap_err();
    assert_eq!(ready.to_string(), "fake ready: away (unavailable; not recorded)");
    assert_eq!(layer.name(), "fake");
    assert!(store.seen().is_empty());
}
