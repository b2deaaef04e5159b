//! Who reaches the store while a breaker is open.

use super::{OPEN, layer, open};
use crate::remote::{Mode, Remote};
use crate::{ask, check, decide, error_of, ms, quota};
use limiter_core::{
    Backend, Breaker, BreakerConfig, BreakerState, Coalesce, CoalesceConfig, Deadline, DeadlineConfig,
    Effect, ErrorKind, Request,
};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// One at a time, jittered, at least a second apart, and nobody else.
#[tokio::test(start_paused = true)]
async fn while_it_is_open_only_probes_reach_the_store() {
    for seed in 0..20 {
        let remote = Remote::that_is(Mode::Hung);
        let layer = layer(&remote, seed);
        open(&layer).await;
        remote.forget_calls();
        let opened = Instant::now();
        for _ in 0..3_000 {
            assert_eq!(error_of(&decide(&*layer, &ask("a")).await), OPEN);
            sleep(ms(10)).await;
        }
        let probes = remote.calls();
        assert!(probes.iter().all(|call| call.is_peek));
        assert!(probes[0].at - opened <= ms(251), "{:?}", probes[0].at - opened);
        let gaps: Vec<_> = probes.windows(2).map(|pair| pair[1].at - pair[0].at).collect();
        assert!(gaps.iter().all(|gap| (ms(1_000)..=ms(1_752)).contains(gap)), "{gaps:?}");
        assert!(gaps.iter().any(|gap| *gap > ms(1_250)), "wider with time: {gaps:?}");
        assert_eq!(layer.usage().probes, u64::try_from(probes.len()).unwrap());
    }
}

/// Twice as far apart each time, up to the longest; less up to half by chance.
#[tokio::test(start_paused = true)]
async fn probes_grow_rarer() {
    for seed in 0..20 {
        let remote = Remote::that_is(Mode::Failing(ErrorKind::Unavailable));
        let config =
            BreakerConfig::new().probe_interval(ms(100)).longest_probe_interval(ms(1_000)).seed(seed);
        let layer = Breaker::new(remote.clone(), config);
        for _ in 0..10 {
            assert!(decide(&layer, &ask("a")).await.is_err());
        }
        remote.forget_calls();
        sleep(ms(10_000)).await;
        let gaps: Vec<_> = remote.calls().windows(2).map(|pair| pair[1].at - pair[0].at).collect();
        for (gap, full) in gaps.iter().zip([100, 200, 400, 800].into_iter().chain(std::iter::repeat(1_000))) {
            let least = ms(full / 2).max(ms(100));
            assert!((least..=ms(full + 2)).contains(gap), "{gap:?} of {full} ms: {gaps:?}");
        }
        assert!(gaps.len() >= 10, "{gaps:?}");
    }
}

/// A store to which a connection has to be made first answers nobody within a caller's deadline.
#[tokio::test(start_paused = true)]
async fn a_probe_has_a_deadline_of_its_own() {
    for (takes, is_heard) in [(60, true), (490, true), (510, false)] {
        let remote = Remote::that_is(Mode::Hung);
        let inner =
            Deadline::new(Coalesce::new(remote.clone(), CoalesceConfig::new()), DeadlineConfig::new());
        let layer = Breaker::new(inner, BreakerConfig::new().seed(1));
        for _ in 0..10 {
            assert!(decide(&layer, &ask("a")).await.is_err());
        }
        remote.becomes(Mode::Slow(ms(takes)));
        sleep(ms(1_500)).await;
        let state = layer.usage().parts[0].1;
        let expected = if is_heard { BreakerState::Recovering } else { BreakerState::Open };
        assert_eq!(state, expected, "{takes} ms");
        if is_heard {
            let start = Instant::now();
            assert!(decide(&layer, &ask("a")).await.is_err(), "a caller's own is as it was");
            assert_eq!(start.elapsed(), ms(50));
        }
    }
}

/// Also where no layer below knows of deadlines.
#[tokio::test(start_paused = true)]
async fn a_probe_is_given_up_by_its_deadline() {
    let remote = Remote::that_is(Mode::Failing(ErrorKind::Unavailable));
    let layer = Breaker::new(remote.clone(), BreakerConfig::new().seed(1));
    for _ in 0..10 {
        assert!(decide(&layer, &ask("a")).await.is_err());
    }
    remote.becomes(Mode::Hung);
    sleep(ms(10_000)).await;
    let probes = layer.usage().probes;
    assert!((5..=10).contains(&probes), "{probes}");
}

/// While it is open no caller touches the store, whatever the call.
#[tokio::test(start_paused = true)]
async fn a_reset_is_refused_at_once_where_a_request_is() {
    let remote = Remote::new();
    let layer = layer(&remote, 1);
    let key = |of: &str| ask(of).checks()[0].key.clone();
    let left = async |of: &str| {
        decide(&remote, &Request::one(check(of, quota("1000/s"), 0)).unwrap()).await.unwrap().decisions()[0]
            .remaining
    };
    assert!(decide(&*layer, &ask("2")).await.is_ok());
    remote.part_becomes(1, Mode::Hung);
    for _ in 0..10 {
        assert!(decide(&*layer, &ask("1")).await.is_err());
    }
    let start = Instant::now();
    for keys in [vec![key("1")], vec![key("2"), key("1")]] {
        let error = layer.reset(&keys).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::NotApplied), "{error}");
        assert_eq!(error.to_string(), "remote reset: the breaker is open (unavailable; not recorded)");
    }
    assert_eq!((start.elapsed(), left("2").await), (Duration::ZERO, 999), "nothing of it was done");
    layer.reset(&[key("2")]).await.unwrap();
    assert_eq!(left("2").await, 1_000);
    remote.is_back();
    sleep(ms(2_000)).await;
    layer.reset(&[key("1"), key("2")]).await.unwrap();
}
