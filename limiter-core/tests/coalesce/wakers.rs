//! Wakers that own what waits.

use crate::fake_store::{Act, FakeStore, ask};
use crate::{always, layer, settle, spawn};
use limiter_core::Backend;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

/// A task of a small executor: while it waits, only its wakers hold it.
struct Task<F> {
    _future: Mutex<F>,
}

impl<F: Send> Wake for Task<F> {
    fn wake(self: Arc<Self>) {}
}

/// To drop it may be to drop another call of the same load, which then leaves.
#[test]
fn a_waker_that_is_replaced_is_not_dropped_under_the_lock() {
    let (done, is_done) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let layer = layer(&FakeStore::new(|_| Act::Hang), always());
            let _first = spawn(&layer, [1]);
            settle().await;
            let waiting = |id| {
                let layer = Arc::clone(&layer);
                Box::pin(async move { layer.decide(&[ask(id)]).await })
            };
            let (mut polled, mut owned) = (waiting(2), waiting(3));
            assert!(owned.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            let owner = Waker::from(Arc::new(Task { _future: Mutex::new(owned) }));
            assert!(polled.as_mut().poll(&mut Context::from_waker(&owner)).is_pending());
            drop(owner);
            assert_eq!(layer.usage().queued, 2);
            assert!(polled.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            assert_eq!(layer.usage().queued, 1);
        });
        let _ = done.send(());
    });
    assert!(is_done.recv_timeout(Duration::from_secs(5)).is_ok(), "it is locked for ever");
}
