//! Callers that go away.

use crate::fixture::{Fixture, quota, request};
use limiter_core::Algorithm;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;

/// Futures are dropped after one to five polls, while other callers wait for theirs: those are answered, and each
/// dropped request was taken once or not at all.
pub(super) async fn at_most_once(fixture: Fixture) {
    let quota = quota("1000/day", Algorithm::FixedWindow);
    let one = || request([fixture.check("a", quota, 1)], 0);
    let (mut answered, mut dropped) = (0, 0);
    for round in 0..100 {
        let batch = [one()];
        let mut finished = false;
        {
            let alone = async { drop(fixture.backend().decide_alone(&batch[0]).await) };
            let in_a_batch = async { drop(fixture.backend().decide(&batch).await) };
            let (mut alone, mut in_a_batch) = (pin!(alone), pin!(in_a_batch));
            let mut going: Pin<&mut (dyn Future<Output = ()> + Send)> =
                if round % 2 == 0 { alone.as_mut() } else { in_a_batch.as_mut() };
            for _ in 0..round % 5 {
                if poll_fn(|context| Poll::Ready(going.as_mut().poll(context).is_ready())).await {
                    finished = true;
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        if finished {
            answered += 1
        } else {
            dropped += 1
        };
        assert!(fixture.ask(&one()).await.allowed(), "round {round}");
        answered += 1;
    }
    // What was sent before its caller left may still be on its way; what comes later on this key is behind it.
    let taken = 1_000 - fixture.one("a", quota, 0, 0).await.remaining;
    assert!(taken >= answered, "{taken} taken of {answered} that were answered");
    assert!(taken <= answered + dropped, "{taken} taken of {answered} answered and {dropped} dropped");
}
