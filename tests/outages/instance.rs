//! An instance of the service: a limiter as it comes, and the keys that it is asked for.

use crate::INSTANCES;
use crate::spy::{Spy, Trip};
use crate::store::Server;
use distributed_rate_limiter::{
    Backend, Caller, Decision, Error, Figure, OnOutage, Quota, RateLimiter, Rule, metric,
};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) struct Instance {
    pub(crate) number: u32,
    pub(crate) limiter: RateLimiter,
    spy: Arc<Spy>,
}

/// Whom the instances are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// Asked for much more often than its limit.
    Hot,
    /// Whose limit nobody reaches, so that what it was charged can be read.
    Counted,
    /// Used up soon, and not filled again while the test runs.
    UsedUp,
    /// One of many.
    User(u16),
}

pub(crate) const USERS: u16 = 500;

impl Key {
    pub(crate) fn quota(self) -> Quota {
        let text = match self {
            Self::Hot => "20/second",
            Self::Counted => "1/10000s burst 100000",
            Self::UsedUp => "40/day",
            Self::User(_) => "3/hour sliding-log",
        };
        text.parse().expect("a quota")
    }

    pub(crate) fn text(self) -> String {
        match self {
            Self::Hot => "hot".to_owned(),
            Self::Counted => "counted".to_owned(),
            Self::UsedUp => "used up".to_owned(),
            Self::User(number) => format!("user {number}"),
        }
    }
}

fn rule() -> Rule {
    let quotas = [Key::Hot, Key::Counted, Key::UsedUp].map(|key| (key.text(), key.quota()));
    let of = move |caller: &Caller<'_>| {
        let quota = quotas.iter().find(|(text, _)| caller.key() == Some(text.as_bytes()));
        quota.map(|(_, quota)| *quota)
    };
    Rule::new("caller", Key::User(0).quota()).quota_for(of)
}

/// How many instances this one believes there are: half of them know, to the others nobody said a word.
pub(crate) fn believes(instance: u32) -> u32 {
    if instance.is_multiple_of(2) { INSTANCES } else { 1 }
}

impl Instance {
    pub(crate) fn new(number: u32, server: &dyn Server, addr: SocketAddr, epoch: Instant) -> Self {
        let spy = Arc::new(Spy::new(server.backend(addr), epoch));
        let builder = RateLimiter::builder(Arc::clone(&spy)).rule(rule());
        let builder = match NonZeroU32::new(believes(number)) {
            Some(instances) if instances > NonZeroU32::MIN => {
                builder.on_outage(OnOutage::Local { instances })
            }
            _ => builder,
        };
        Self { number, limiter: builder.build().expect("a limiter"), spy }
    }

    /// What it has asked the store.
    pub(crate) fn trips(&self) -> Vec<Trip> {
        self.spy.trips()
    }

    /// Whether its breaker is open.
    pub(crate) fn is_open(&self) -> bool {
        let is_open = |figure: &Figure| {
            figure.metric().name() == metric::BREAKERS.name()
                && figure.label() == Some("open")
                && figure.value() > 0
        };
        self.limiter.report().iter().any(is_open)
    }
}

/// What the store has charged the counted key.
pub(crate) async fn charged(backend: Arc<dyn Backend>) -> Result<u64, Error> {
    let bare = RateLimiter::builder(backend).as_is().rule(rule()).build()?;
    let text = Key::Counted.text();
    let mut asked: Result<Decision, Error> = bare.peek(&text).await;
    // A machine may be too busy to connect in time.
    for _ in 0..20 {
        if asked.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
        asked = bare.peek(&text).await;
    }
    asked.map(|decision| decision.capacity - decision.remaining)
}
