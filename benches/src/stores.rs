//! The stores that are compared: a real server, its bare commands, and the library on it, a file each.

pub mod memcached;
pub mod postgres;
pub mod redis;

pub use memcached::Memcached;
pub use postgres::Postgres;
pub use redis::Redis;

use crate::load::{Ask, Contestant};
use async_trait::async_trait;
use limiter_core::{Backend, Caller, RateLimiter, Rule, Scope};
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What can go wrong while a comparison is set up.
pub type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// A server of its own, and what is asked of it. Whoever adds a store adds an implementation, and a row to [`start`].
#[async_trait]
pub trait Store: Send + Sync {
    /// How it is called.
    fn name(&self) -> &'static str;

    /// The server's version.
    async fn version(&self) -> Fallible<String>;

    /// Bare commands of the server, through the driver that the library uses. The first is the one to which ratios are.
    async fn bare(&self) -> Fallible<Vec<Contestant>>;

    /// The library on it, with what carries many requests in one trip, and without the layers for stores that fail; if it
    /// is for weighing, on an empty place of the store.
    async fn backend(&self, weighed: bool) -> Fallible<Arc<dyn Backend>>;

    /// Bytes that it needs for each of so many keys, which are all that the last backend for weighing was asked about.
    async fn bytes_per_key(&self, keys: u64) -> Fallible<f64>;

    /// How [`bytes_per_key`](Self::bytes_per_key) counts.
    fn counts_bytes_by(&self) -> &'static str;
}

/// The stores by their names.
pub const NAMES: [&str; 3] = ["redis", "postgres", "memcached"];

/// Starts a server of this kind, asked about these keys.
///
/// # Errors
/// The name is no store's, or the server does not come up.
pub async fn start(name: &str, names: &Arc<[String]>) -> Fallible<Box<dyn Store>> {
    let names = Arc::clone(names);
    Ok(match name {
        "redis" => Box::new(Redis::start(names).await?),
        "postgres" => Box::new(Postgres::start(names)?),
        "memcached" => Box::new(Memcached::start(names).await?),
        _ => return Err(format!("{name:?} is no store: {}", NAMES.join(", ")).into()),
    })
}

/// Costs that a mix goes through: half of the requests are for one permit, the mean is four.
const MIX: [u64; 8] = [1, 2, 1, 5, 1, 10, 1, 11];

/// What the library is asked for.
#[derive(Clone, Debug)]
pub struct Work {
    /// The rules that decide each request.
    pub rules: Vec<Rule>,
    /// Whether costs are those of a mix, or all one.
    pub mixed: bool,
}

impl Work {
    /// One permit under one rule per key.
    #[must_use]
    pub fn one(quota: limiter_core::QuotaBuilder) -> Self {
        Self { rules: vec![Rule::new("user", quota)], mixed: false }
    }

    /// One permit under three rules at once: a global one, one per key, and one per key and endpoint.
    #[must_use]
    pub fn three(quota: limiter_core::QuotaBuilder) -> Self {
        let scopes =
            [("global", Scope::global()), ("user", Scope::key()), ("endpoint", Scope::key().and("endpoint"))];
        let rules = scopes.map(|(name, scope)| Rule::new(name, quota).scope(scope));
        Self { rules: rules.into(), mixed: false }
    }
}

/// The library at work: a `RateLimiter::check_n` per question, in a namespace of the contestant's name.
///
/// # Errors
/// The backend cannot keep a quota.
///
/// # Panics
/// The caller that an error answers.
pub fn library(
    name: &'static str,
    backend: Arc<dyn Backend>,
    work: Work,
    names: &Arc<[String]>,
) -> Fallible<Contestant> {
    let builder = RateLimiter::builder(backend).as_is().namespace(name);
    let limiter = work.rules.into_iter().fold(builder, |builder, rule| builder.rule(rule)).build()?;
    let costs = work.mixed.then(Arc::default);
    Ok(Contestant::new(name, Asks { limiter, names: Arc::clone(names), costs }))
}

#[derive(Clone)]
struct Asks {
    limiter: RateLimiter,
    names: Arc<[String]>,
    /// How many costs of a mix have been asked for, by all callers.
    costs: Option<Arc<AtomicU64>>,
}

impl Ask for Asks {
    async fn ask(&mut self, key: usize) {
        let turn = self.costs.as_ref().map_or(0, |asked| asked.fetch_add(1, Ordering::Relaxed));
        let cost = MIX[usize::try_from(turn % MIX.len() as u64).unwrap_or(0)];
        let caller = Caller::new().with(Scope::KEY, &self.names[key]).with("endpoint", "/search");
        let decision = self.limiter.check_n(caller, cost).await;
        assert!(decision.is_ok(), "{decision:?}");
    }
}
