//! Who waits how long, to the millisecond.

use crate::now_or_never::now_or_never;
use crate::remote::{Mode, Remote};
use crate::{ask, decide, error_of, ms};
use limiter_core::{Backend, Coalesce, CoalesceConfig, Deadline, DeadlineConfig, Effect, ErrorKind};
use std::future::poll_fn;
use std::num::NonZeroUsize;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use tokio::runtime::Builder;
use tokio::time::{Instant, sleep, timeout};

const LATE: Option<(ErrorKind, Effect)> = Some((ErrorKind::Timeout, Effect::NotApplied));
const UNKNOWN: Option<(ErrorKind, Effect)> = Some((ErrorKind::Timeout, Effect::Unknown));

fn layer(mode: Mode) -> Deadline<Remote> {
    Deadline::new(Remote::that_is(mode), DeadlineConfig::new())
}

#[tokio::test(start_paused = true)]
async fn a_hung_store_costs_the_limit_and_not_a_millisecond_more() {
    let layer = layer(Mode::Hung);
    for limit in [50, 7] {
        let config = DeadlineConfig::new().decision(ms(limit));
        let layer = Deadline::new(layer.inner().clone(), config);
        let start = Instant::now();
        assert_eq!(error_of(&decide(&layer, &ask("a")).await), UNKNOWN);
        assert_eq!(start.elapsed(), ms(limit));
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_just_in_time_is_one() {
    for (takes, is_one) in [(49, true), (51, false)] {
        let answer = decide(&layer(Mode::Slow(ms(takes))), &ask("a")).await;
        assert_eq!(answer.is_ok(), is_one, "{takes} ms: {answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_earlier_deadline_of_the_request_s_own_stays() {
    let layer = layer(Mode::Hung);
    for (own, waited) in [(20, 20), (90, 50)] {
        let start = Instant::now();
        let request = ask("a").with_deadline(start + ms(own));
        assert_eq!(error_of(&decide(&layer, &request).await), UNKNOWN);
        assert_eq!(start.elapsed(), ms(waited));
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_answered_by_its_last_deadline() {
    let layer = layer(Mode::Hung);
    let start = Instant::now();
    let batch = [ask("a").with_deadline(start + ms(10)), ask("b").with_deadline(start + ms(20))];
    let answers = layer.decide(&batch).await;
    assert_eq!(answers.iter().map(error_of).collect::<Vec<_>>(), [UNKNOWN, UNKNOWN]);
    assert_eq!(start.elapsed(), ms(20));
}

/// What is sure not to have been sent is said to be so: the queue is heard before the layer's own timer.
#[tokio::test(start_paused = true)]
async fn what_never_left_the_queue_was_not_recorded() {
    let one = NonZeroUsize::MIN;
    let config = CoalesceConfig::new().eager(0).slots(one).max_batch(one);
    let queue = Coalesce::new(Remote::that_is(Mode::Hung), config);
    let layer = Arc::new(Deadline::new(queue, DeadlineConfig::new()));
    let start = Instant::now();
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let layer = Arc::clone(&layer);
            tokio::spawn(async move { error_of(&decide(&*layer, &ask("a")).await) })
        })
        .collect();
    let mut errors = Vec::new();
    for caller in callers {
        errors.push(caller.await.unwrap());
    }
    // One went by itself, one took the slot.
    assert_eq!(errors, [UNKNOWN, UNKNOWN, LATE, LATE]);
    assert_eq!(start.elapsed(), ms(50));
    sleep(ms(1_000)).await;
    assert_eq!(layer.inner().usage().queued, 0);
}

#[tokio::test(start_paused = true)]
async fn resets_and_readiness_have_a_limit_too() {
    let layer = layer(Mode::Hung);
    let start = Instant::now();
    let error = layer.ready().await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Timeout, Effect::NotApplied));
    assert_eq!(start.elapsed(), ms(1_000));
    let error = layer.reset(&[ask("a").checks()[0].key.clone()]).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Timeout, Effect::Unknown));
    assert_eq!(start.elapsed(), ms(2_000));
}

#[test]
fn without_a_runtime_there_is_no_backstop_and_no_panic() {
    let layer = layer(Mode::Hung);
    assert!(now_or_never(layer.decide(&[ask("a")])).is_none());
    assert!(now_or_never(layer.ready()).is_none());
}

/// Whatever the order in which they came, and who was answered or left meanwhile.
#[tokio::test(start_paused = true)]
async fn among_many_each_waits_for_its_own_deadline() {
    let remote = Remote::new();
    let parts = [1, 3, 10, 20, 30, 45, 49, 60, 100, 300];
    for (part, takes) in (0..).zip(parts) {
        remote.part_becomes(part, Mode::Slow(ms(takes)));
    }
    let layer = Arc::new(Deadline::new(remote, DeadlineConfig::new()));
    let mut random = fastrand::Rng::with_seed(6);
    let mut callers = Vec::new();
    for _ in 0..5_000 {
        let (part, own, leaves) = (random.usize(..parts.len()), random.u64(1..100), random.u64(1..100));
        let layer = Arc::clone(&layer);
        callers.push(tokio::spawn(async move {
            let start = Instant::now();
            let request = ask(&part.to_string()).with_deadline(start + ms(own));
            let answer = timeout(ms(leaves), decide(&*layer, &request)).await;
            let expected = parts[part].min(own).min(50).min(leaves);
            assert_eq!(start.elapsed(), ms(expected), "{own}, {leaves}: {answer:?}");
        }));
        if random.u8(..3) == 0 {
            sleep(ms(random.u64(..30))).await;
        }
    }
    for caller in callers {
        caller.await.unwrap();
    }
}

/// Who waits on may do so on another.
#[test]
fn a_runtime_that_shuts_down_takes_no_deadline_along() {
    let layer = layer(Mode::Hung);
    let runtime = || Builder::new_current_thread().enable_time().build().unwrap();
    let (first, second) = (runtime(), runtime());
    let mut waits = pin!(async { error_of(&decide(&layer, &ask("a")).await) });
    assert!(first.block_on(async { timeout(ms(5), &mut waits).await }).is_err());
    second.block_on(async {
        assert!(timeout(ms(5), &mut waits).await.is_err());
        first.shutdown_background();
        assert_eq!(timeout(ms(10_000), waits).await, Ok(UNKNOWN));
    });
}

/// A runtime that nobody drives for now has the task that watches.
#[test]
fn a_runtime_that_stands_still_holds_up_nobody_on_another() {
    let layer = layer(Mode::Hung);
    let runtime = || Builder::new_current_thread().enable_time().build().unwrap();
    let (still, other) = (runtime(), runtime());
    let mut waits = pin!(async { error_of(&decide(&layer, &ask("a")).await) });
    let begun = still.block_on(async { timeout(ms(5), &mut waits).await });
    assert!(begun.is_err());
    let answer = other.block_on(async { timeout(ms(10_000), decide(&layer, &ask("a"))).await });
    assert_eq!(answer.map(|answer| error_of(&answer)), Ok(UNKNOWN));
    assert_eq!(still.block_on(waits), UNKNOWN);
}

/// A future may be polled by another task than before.
#[tokio::test(start_paused = true)]
async fn the_task_that_polled_last_is_woken() {
    let layer = layer(Mode::Hung);
    let request = ask("a");
    let start = Instant::now();
    let mut waits = Box::pin(decide(&layer, &request));
    assert!(
        poll_fn(|_| Poll::Ready(waits.as_mut().poll(&mut Context::from_waker(Waker::noop()))))
            .await
            .is_pending()
    );
    assert_eq!(error_of(&waits.await), UNKNOWN);
    assert_eq!(start.elapsed(), ms(50));
}
