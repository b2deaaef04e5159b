//! Stores that panic or leave out answers, and runtimes that shut down.

use crate::fake_store::{Act, FakeStore, ask, error_of};
use crate::now_or_never::now_or_never;
use crate::{
    Answer, LOST, NO_RUNTIME, always, answers, callers, count, ids, is_empty, layer, ms, settle, some, spawn,
};
use limiter_core::{Backend, BackendError};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_store_is_an_error_of_its_batch_alone() {
    let store = FakeStore::new(|ids| match ids {
        ids if ids.contains(&2) => Act::Panic(ms(3)),
        _ => Act::After(ms(1)),
    });
    let layer = layer(&store, always().max_batch(count(4)));
    let first = callers(&layer, [1]);
    settle().await;
    let unlucky = callers(&layer, 2..=5);
    let behind = callers(&layer, 6..=20);
    let start = Instant::now();
    assert_eq!(ids(&answers(first).await), some([1]));
    let unlucky = answers(unlucky).await;
    for answer in &unlucky {
        assert_eq!(error_of(answer), LOST);
    }
    assert!(is_one_failure(&unlucky), "one trip failed, once");
    assert_eq!(start.elapsed(), ms(3));
    assert_eq!(ids(&answers(behind).await), some(6..=20));
    assert!(is_empty(&layer));
    assert_eq!(ids(&answers(callers(&layer, 21..=40)).await), some(21..=40));
}

/// Whether all are clones of one error.
fn is_one_failure(answers: &[Answer]) -> bool {
    let errors: Vec<&BackendError> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
    errors.len() == answers.len() && errors.windows(2).all(|pair| pair[0].is_same_failure(pair[1]))
}

#[tokio::test(start_paused = true)]
async fn a_store_that_always_panics_takes_no_slot_with_it() {
    let store = FakeStore::new(|_| Act::Panic(ms(1)));
    let layer = layer(&store, always().slots(count(2)).max_batch(count(1)));
    for _ in 0..20 {
        let start = Instant::now();
        let callers = callers(&layer, 1..=13);
        for (caller, id) in callers.into_iter().zip(1..) {
            match caller.await {
                // In its own future.
                Err(panicked) => assert!(panicked.is_panic() && id == 1, "{id}"),
                Ok(answers) => assert_eq!(error_of(&answers[0]), LOST, "{id}"),
            }
        }
        assert_eq!(start.elapsed(), ms(6), "two trips at a time");
        assert!(is_empty(&layer));
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_store_leaves_out_is_an_error_in_its_place() {
    let store = FakeStore::new(|_| Act::Short(2));
    let layer = layer(&store, always());
    let own = spawn(&layer, 1..=3);
    settle().await;
    let together = [spawn(&layer, [4, 5]), spawn(&layer, [6]), spawn(&layer, [7, 8])];
    let own = own.await.unwrap();
    assert_eq!((ids(&own), error_of(&own[2])), (vec![Some(1), None, None], LOST));
    let together = answers(together.into()).await;
    assert_eq!(ids(&together), [Some(4), Some(5), Some(6), None, None]);
    assert_eq!((error_of(&together[3]), error_of(&together[4])), (LOST, LOST));
    assert_eq!(store.seen(), [vec![1, 2, 3], vec![4, 5, 6, 7, 8]]);
}

#[test]
fn no_runtime_is_an_error_where_a_task_is_needed() {
    let store = FakeStore::new(|_| Act::Hang);
    let layer = layer(&store, always());
    let batch = [ask(1)];
    let mut first = pin!(layer.decide(&batch));
    let mut context = Context::from_waker(Waker::noop());
    assert!(first.as_mut().poll(&mut context).is_pending());
    let waits = [ask(2), ask(3).with_deadline(Instant::now() + ms(1))];
    let refused = now_or_never(layer.decide(&waits)).unwrap();
    assert_eq!(refused.iter().map(error_of).collect::<Vec<_>>(), [NO_RUNTIME; 2]);
    assert_eq!(layer.usage().queued, 0);
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// Waits for what another thread does.
fn until(done: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "it does not come");
        thread::yield_now();
    }
}

#[test]
fn a_runtime_that_shuts_down_takes_its_trip_along_and_nothing_else() {
    let open = Arc::new(AtomicBool::new(false));
    let is_open = Arc::clone(&open);
    let store = FakeStore::new(move |_| if is_open.load(Ordering::SeqCst) { Act::Now } else { Act::Hang });
    let layer = layer(&store, always().max_batch(count(2)));
    let (doomed, other) = (runtime(), runtime());
    // In its own future; then two trips' worth, of which the first leaves from the doomed runtime.
    doomed.spawn({
        let layer = Arc::clone(&layer);
        async move { layer.decide(&[ask(1)]).await }
    });
    until(|| layer.usage().in_flight == 1);
    let ask_on = |runtime: &Runtime, id| {
        let layer = Arc::clone(&layer);
        runtime.spawn(async move { layer.decide(&[ask(id)]).await })
    };
    let mut own = vec![ask_on(&doomed, 2)];
    until(|| layer.usage().in_flight == 2);
    for id in 3..=6 {
        own.push(ask_on(if id == 4 { &doomed } else { &other }, id));
        until(|| layer.usage().queued == usize::try_from(id).unwrap() - 2);
    }
    open.store(true, Ordering::SeqCst);
    drop(doomed);
    let [_, three, four, five, six]: [_; 5] = own.try_into().unwrap();
    for (call, id) in [(three, 3), (five, 5), (six, 6)] {
        assert_eq!(ids(&other.block_on(call).unwrap()), some([id]));
    }
    assert!(other.block_on(four).is_err_and(|gone| gone.is_cancelled()));
    assert!(!store.seen().concat().contains(&4));
    until(|| is_empty(&layer));
}

#[test]
fn a_caller_whose_trip_left_on_a_lost_runtime_gets_an_error() {
    let store = FakeStore::new(|ids| if ids.contains(&9) { Act::Now } else { Act::Hang });
    let layer = layer(&store, always());
    let (doomed, other) = (runtime(), runtime());
    let ask_on = |runtime: &Runtime, id| {
        let layer = Arc::clone(&layer);
        runtime.spawn(async move { layer.decide(&[ask(id)]).await })
    };
    let first = ask_on(&other, 1);
    until(|| layer.usage().in_flight == 1);
    // The trip's task is started by the doomed runtime, whose only thread is kept busy until both wait.
    let (release, gate) = mpsc::channel::<()>();
    let two = doomed.spawn({
        let layer = Arc::clone(&layer);
        async move {
            let batch = [ask(2)];
            let mut call = pin!(layer.decide(&batch));
            assert!(poll_fn(|context| Poll::Ready(call.as_mut().poll(context).is_pending())).await);
            gate.recv().unwrap();
            call.await
        }
    });
    until(|| layer.usage().queued == 1);
    let three = ask_on(&other, 3);
    until(|| layer.usage().queued == 2);
    release.send(()).unwrap();
    until(|| layer.usage().in_flight == 3);
    drop(doomed);
    assert_eq!(error_of(&other.block_on(three).unwrap()[0]), LOST);
    assert!(other.block_on(two).is_err_and(|gone| gone.is_cancelled()));
    first.abort();
    until(|| is_empty(&layer));
    assert_eq!(ids(&other.block_on(layer.decide(&[ask(9)]))), some([9]));
}

#[test]
fn a_runtime_that_has_shut_down_is_no_runtime() {
    let store = FakeStore::new(|_| Act::Hang);
    let layer = layer(&store, always());
    let doomed = Builder::new_current_thread().build().unwrap();
    let handle = doomed.handle().clone();
    drop(doomed);
    let _inside = handle.enter();
    let batch = [ask(1)];
    let mut first = pin!(layer.decide(&batch));
    let mut context = Context::from_waker(Waker::noop());
    assert!(first.as_mut().poll(&mut context).is_pending());
    let refused = now_or_never(layer.decide(&[ask(2)])).unwrap();
    assert_eq!(error_of(&refused[0]), NO_RUNTIME);
    assert_eq!(layer.usage().queued, 0);
}
