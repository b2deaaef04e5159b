//! Deadlines, and callers that go away.

use crate::fake_store::{Act, FakeStore, ask, error_of};
use crate::now_or_never::now_or_never;
use crate::{
    FULL, GIVEN_UP, LATE, Layer, always, answers, callers, count, ids, is_empty, layer, ms, settle, some,
    spawn,
};
use limiter_core::{Backend, CoalesceConfig, Effect, ErrorKind};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake};
use std::thread::{self, Thread};
use std::time::Duration;
use tokio::time::{Instant, sleep};

#[tokio::test(start_paused = true)]
async fn what_waits_at_its_deadline_is_never_sent() {
    let store = FakeStore::new(|_| Act::After(ms(50)));
    let layer = layer(&store, always());
    let first = callers(&layer, [1, 2]);
    settle().await;
    let start = Instant::now();
    let waits = ask(3).with_deadline(start + ms(10));
    assert_eq!(error_of(&layer.decide(&[waits]).await[0]), LATE);
    assert_eq!(start.elapsed(), ms(10));
    assert_eq!(layer.usage().queued, 0);
    let past = ask(4).with_deadline(start);
    assert_eq!(error_of(&now_or_never(layer.decide(&[past])).unwrap()[0]), LATE);
    assert_eq!(ids(&answers(first).await), some([1, 2]));
    assert_eq!(ids(&layer.decide(&[ask(5)]).await), some([5]));
    assert_eq!(store.seen(), [[1], [2], [5]]);
    assert!(is_empty(&layer));
}

#[tokio::test(start_paused = true)]
async fn of_one_call_only_what_is_late_is_not_sent() {
    let store = FakeStore::new(|_| Act::After(ms(20)));
    let layer = layer(&store, always());
    let first = callers(&layer, [1, 2]);
    settle().await;
    let start = Instant::now();
    let (soon, later) = (start + ms(10), start + ms(100));
    let batch = [
        ask(3).with_deadline(soon),
        ask(4).with_deadline(later),
        ask(5).with_deadline(soon),
        ask(6),
        ask(7).with_deadline(start + ms(20)),
    ];
    let got = layer.decide(&batch).await;
    assert_eq!(ids(&got), [None, Some(4), None, Some(6), None]);
    assert!([0, 2, 4].iter().all(|place| error_of(&got[*place]) == LATE), "{got:?}");
    assert_eq!(store.seen(), [vec![1], vec![2], vec![4, 6]]);
    assert_eq!(ids(&answers(first).await), some([1, 2]));
    let usage = layer.usage();
    assert_eq!((usage.trips, usage.carried), (3, 4));
}

#[tokio::test(start_paused = true)]
async fn a_call_without_a_timer_is_not_sent_late_either() {
    let store = FakeStore::new(|_| Act::After(ms(20)));
    let layer = layer(&store, always());
    let first = callers(&layer, [1, 2]);
    settle().await;
    // A thread without a runtime, which therefore cannot be woken at the deadline.
    let batch = [ask(3).with_deadline(Instant::now() + ms(10))];
    let waiting = Arc::clone(&layer);
    let thread = thread::spawn(move || block_on(waiting.decide(&batch)));
    while layer.usage().queued == 0 {
        thread::yield_now();
    }
    assert_eq!(ids(&answers(first).await), some([1, 2]));
    sleep(ms(100)).await;
    assert_eq!(error_of(&thread.join().unwrap()[0]), LATE);
    assert_eq!(store.seen(), [[1], [2]]);
}

/// Without tokio.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(thread::current())).into();
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        thread::park();
    }
}

#[tokio::test(start_paused = true)]
async fn a_trip_is_given_up_at_the_last_deadline_that_it_carries() {
    let store = FakeStore::new(|ids| if ids.contains(&3) { Act::Hang } else { Act::After(ms(1)) });
    let layer = layer(&store, always());
    let first = callers(&layer, [1]);
    settle().await;
    let start = Instant::now();
    let hanging = [3, 4].map(|id| {
        let (layer, batch) = (Arc::clone(&layer), [ask(id).with_deadline(start + ms(10 * id))]);
        tokio::spawn(async move { layer.decide(&batch).await })
    });
    sleep(ms(2)).await;
    let behind = callers(&layer, [5]);
    assert_eq!(ids(&answers(first).await), some([1]));
    for answer in answers(hanging.into()).await {
        assert_eq!(error_of(&answer), GIVEN_UP);
    }
    assert_eq!(start.elapsed(), ms(40));
    assert_eq!(ids(&answers(behind).await), some([5]));
    assert_eq!(store.seen(), [vec![1], vec![3, 4], vec![5]]);
    assert!(is_empty(&layer));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_caller_strands_nobody_and_is_not_sent_twice() {
    for config in [CoalesceConfig::new(), always(), always().max_batch(count(2))] {
        for polls in 0..12 {
            let store = FakeStore::new(|_| Act::After(ms(1)));
            let layer = layer(&store, config);
            let others = callers(&layer, 1..=3);
            if polls % 2 == 0 {
                settle().await;
            }
            let batch = [ask(100).with_deadline(Instant::now() + ms(500))];
            {
                let mut call = pin!(layer.decide(&batch));
                for _ in 0..polls {
                    let poll = poll_fn(|context| Poll::Ready(call.as_mut().poll(context))).await;
                    if poll.is_ready() {
                        break;
                    }
                    // Each poll finds the call further on its way.
                    sleep(Duration::from_micros(250)).await;
                }
            }
            let behind = callers(&layer, 4..=6);
            assert_eq!(ids(&answers(others).await), some(1..=3));
            assert_eq!(ids(&answers(behind).await), some(4..=6));
            let sent = store.seen().concat().iter().filter(|id| **id == 100).count();
            assert!(sent <= 1 && (polls > 0 || sent == 0), "{polls} polls: sent {sent} times");
            assert!(is_empty(&layer), "{layer:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_leaves_the_queue_is_not_sent() {
    let store = FakeStore::new(|_| Act::After(ms(10)));
    let layer = layer(&store, always());
    let first = callers(&layer, [1]);
    settle().await;
    let waiting = callers(&layer, 2..=100);
    sleep(ms(1)).await;
    let behind = callers(&layer, 101..=300);
    settle().await;
    for (caller, id) in behind.iter().zip(101..) {
        if id % 2 == 0 {
            caller.abort();
        }
    }
    settle().await;
    assert_eq!(layer.usage().queued, 100);
    for (caller, id) in behind.into_iter().zip(101..) {
        assert_eq!(caller.await.is_ok(), id % 2 == 1);
    }
    assert_eq!(ids(&answers(first).await), some([1]));
    assert_eq!(ids(&answers(waiting).await), some(2..=100));
    let mut sent = store.seen().split_off(2).concat();
    sent.sort_unstable();
    assert_eq!(sent, (101..=300).step_by(2).collect::<Vec<_>>());
}

/// However many come and go while the store hangs: the next one takes the place of one that has gone.
#[tokio::test(start_paused = true)]
async fn who_leaves_the_queue_leaves_a_place_to_the_next() {
    let store = FakeStore::new(|_| Act::After(ms(10)));
    let layer = layer(&store, always());
    let first = callers(&layer, [1]);
    settle().await;
    let waiting = callers(&layer, 2..=100);
    sleep(ms(1)).await;
    let behind = callers(&layer, 101..=110);
    settle().await;
    [2, 3, 9].into_iter().for_each(|place: usize| behind[place].abort());
    settle().await;
    let next = callers(&layer, 201..=204);
    settle().await;
    assert_eq!(layer.usage().queued, 11);
    assert_eq!(ids(&answers(first).await), some([1]));
    assert_eq!(ids(&answers(waiting).await), some(2..=100));
    assert_eq!(ids(&answers(next).await), some(201..=204));
    let third = store.seen()[2].clone();
    assert_eq!(third.len(), 11, "{third:?}");
    // Four of them took three places and one behind.
    assert_eq!(third[10], 204, "{third:?}");
    assert!((201..=203).all(|id| third[..10].contains(&id)), "{third:?}");
}

/// Calls of several take no places of those who have gone: of these there are no more than may wait, or nobody queues any
/// more behind them but calls of one.
#[tokio::test(start_paused = true)]
async fn places_that_nobody_takes_are_bounded() {
    let store = FakeStore::new(|_| Act::Hang);
    let layer = layer(&store, always().max_queued(count(32)));
    let _first = callers(&layer, [1, 2]);
    settle().await;
    // In each load one stays who keeps it.
    let mut kept = Vec::new();
    let mut gone = 0;
    while error_of_pair(&layer).await != FULL {
        gone += 2;
        if gone % 8 == 0 {
            kept.push(spawn(&layer, [100, 101]));
            settle().await;
        }
        assert!(gone < 100, "{:?}", layer.usage());
    }
    assert!(gone > 32 && layer.usage().queued < 24, "{gone} have gone: {:?}", layer.usage());
    let one = callers(&layer, [200]);
    settle().await;
    assert!(!one[0].is_finished(), "it takes the place of one");
}

/// What a call of two is told that does not stay, if it is told anything.
async fn error_of_pair(layer: &Layer) -> Option<(ErrorKind, Effect)> {
    let call = spawn(layer, [300, 301]);
    settle().await;
    if call.is_finished() {
        return error_of(&call.await.unwrap()[0]);
    }
    call.abort();
    settle().await;
    None
}
