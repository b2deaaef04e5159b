//! Canaries: passwords and callers' keys are in no log, span, metric, error or `Debug`, on real servers.
//!
//! What drivers log goes through the same process, and counts.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../limiter-core/tests/common/logged.rs"]
mod logged;

use distributed_rate_limiter::{
    Backend, Caller, Check, Coalesce, CoalesceConfig, Error, ErrorKind, Keyspace, Memcached, Memory, Observe,
    ObserveTrips, Placement, Postgres, Quota, RateLimiter, RateLimiterBuilder, Redis, Request, Rule, Scope,
    connect,
};
use limiter_testkit::servers;
use logged::Log;
use metrics_util::debugging::DebuggingRecorder;
use std::error::Error as StdError;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tracing_subscriber::util::SubscriberInitExt;

const PASSWORD: &str = "canarypassword7391";
const WRONG: &str = "canarywrong5520";
/// One that is kept as it is, and one of which a store has the digest.
const KEYS: [&str; 2] =
    ["canary-key-4482", "canary-long-key-6619-which-has-more-than-the-sixty-three-bytes-that-are-kept"];

/// The ways in which text shows itself.
fn spellings(secret: &str) -> [String; 4] {
    let bytes = secret.as_bytes();
    let list: Vec<String> = bytes.iter().map(u8::to_string).collect();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [secret.to_owned(), list.join(", "), hex.to_uppercase(), hex]
}

/// What was seen, and where.
#[derive(Default)]
struct Seen(Mutex<Vec<String>>);

impl Seen {
    fn debug(&self, value: &dyn Debug) {
        self.0.lock().unwrap().push(format!("{value:?} {value:#?}"));
    }

    fn error(&self, error: &(dyn StdError + 'static)) {
        let mut next = Some(error);
        while let Some(error) = next {
            self.0.lock().unwrap().push(format!("{error} {error:?}"));
            next = error.source();
        }
    }

    fn assert_clean(&self, log: &Log, recorder: &DebuggingRecorder) {
        let metrics = recorder.snapshotter().snapshot().into_vec().into_iter().map(|m| format!("{m:?}"));
        let mut all = self.0.lock().unwrap().clone();
        all.extend(log.lines());
        all.extend(metrics);
        let secrets = [PASSWORD, WRONG].into_iter().chain(KEYS);
        for spelling in secrets.flat_map(spellings) {
            for text in &all {
                assert!(!text.contains(&spelling), "{spelling:?} is in {text}");
            }
        }
    }
}

/// Asks for all that a limiter does, of the store as it is and with all layers around it, and keeps what it shows.
async fn exercise(backend: Arc<dyn Backend>, seen: &Seen) -> Result<(), Error> {
    let store = ObserveTrips::new(Arc::clone(&backend));
    seen.debug(&store);
    let store = Coalesce::new(store, CoalesceConfig::new());
    seen.debug(&store);
    let store = Observe::new(store);
    seen.debug(&store);
    let _answered_in_this_process = ask(RateLimiter::builder(backend), seen).await;
    ask(RateLimiter::builder(store).as_is(), seen).await
}

async fn ask(builder: RateLimiterBuilder, seen: &Seen) -> Result<(), Error> {
    let user = Rule::new("user", "2/day").scope(Scope::per("user"));
    let address = Rule::new("address", "5/day sliding-log").scope(Scope::per("address"));
    seen.debug(&user);
    let builder = builder.rule(user).rule(address);
    seen.debug(&builder);
    let limiter = builder.build()?;
    seen.debug(&limiter);
    let mut failed = None;
    for key in KEYS {
        let caller = Caller::new().with("user", key).with("address", key);
        seen.debug(&caller);
        for _ in 0..3 {
            match limiter.check_rules(caller.clone(), 1).await {
                Ok(verdict) => seen.debug(&verdict),
                Err(error) => {
                    seen.error(&error);
                    failed = Some(error);
                }
            }
        }
        // The third of two a day: the wait is too long, or the store is away.
        let third = limiter.acquire(caller.clone(), Duration::ZERO).await;
        let _granted_where_it_was_away_before = third.map_err(|error| seen.error(&error));
        let missing = limiter.check(Caller::new().with("user", key)).await.unwrap_err();
        seen.error(&missing);
        for done in [limiter.reset(caller.clone()).await, limiter.ready().await] {
            let _failed_too = done.map_err(|error| seen.error(&error));
        }
        let _nothing =
            limiter.reset(Caller::new().with("other", key)).await.map_err(|error| seen.error(&error));
        limiter.report().iter().for_each(|figure| seen.debug(figure));
    }
    failed.map_or(Ok(()), Err)
}

fn values(seen: &Seen) {
    let quota: Quota = "2/day".parse().unwrap();
    let keyspace = Keyspace::new("secrets", "user", quota.algorithm()).unwrap();
    for key in KEYS {
        let key = keyspace.key(key.as_bytes()).placed(Placement::of(key.as_bytes()));
        seen.debug(&key);
        let check = Check { key, quota, cost: 1 };
        seen.debug(&check);
        let request = Request::one(check.clone()).unwrap();
        seen.debug(&request);
        seen.error(&Request::new([check.clone(), check]).unwrap_err());
        let verdict = Memory::new().decide_now(&request).unwrap();
        seen.debug(&verdict);
    }
    seen.debug(&Caller::from(KEYS[0]));
    seen.debug(&Memory::new());
}

/// Postgres asks this user for a password.
fn ask_for_a_password(server: &servers::Postgres) {
    let sql = |statements: &str| server.sql(statements).unwrap_or_else(|error| panic!("{error}"));
    sql(&format!("CREATE ROLE canary SUPERUSER LOGIN PASSWORD '{PASSWORD}'"));
    let file = sql("SHOW hba_file");
    let rules = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("host all canary 127.0.0.1/32 scram-sha-256\n{rules}")).unwrap();
    sql("SELECT pg_reload_conf()");
}

fn is_config(done: &Result<(), Error>) -> bool {
    matches!(done, Err(Error::Backend(error)) if error.kind() == ErrorKind::Config)
}

#[tokio::test]
async fn no_canary_is_anywhere() {
    let log = Log::default();
    log.subscriber().init();
    let recorder: &'static DebuggingRecorder = Box::leak(Box::default());
    metrics::set_global_recorder(recorder).unwrap();
    let seen = Seen::default();
    values(&seen);
    assert!(exercise(Arc::new(Memory::new()), &seen).await.is_ok());

    let redis = servers::Redis::builder().password(PASSWORD).start().unwrap();
    let right = redis.url();
    assert!(right.contains(PASSWORD));
    let (wrong, refused) = (right.replace(PASSWORD, WRONG), format!("redis://:{PASSWORD}@127.0.0.1:1"));
    let mut results = Vec::new();
    for url in [&right, &wrong, &refused] {
        let builder = Redis::builder(url);
        seen.debug(&builder);
        let store = builder.build().unwrap();
        seen.debug(&store);
        results.push(exercise(Arc::new(store), &seen).await);
    }
    assert!(results[0].is_ok() && is_config(&results[1]) && results[2].is_err(), "{results:?}");
    // A state that is none, and one of another type.
    redis.command(&["AUTH", PASSWORD]).unwrap();
    let keyspace =
        Keyspace::new(RateLimiter::DEFAULT_NAME, "user", "2/day".parse::<Quota>().unwrap().algorithm());
    let key = keyspace.unwrap().key(KEYS[0].as_bytes()).to_bytes();
    redis.command(&[b"LPUSH".as_slice(), &key, b"x"]).unwrap();
    let _whatever = exercise(Arc::new(Redis::connect(&right).unwrap()), &seen).await;

    let postgres = servers::Postgres::start().unwrap();
    ask_for_a_password(&postgres);
    let with = |password: &str| postgres.url().replace("limiter@", &format!("canary:{password}@"));
    let refused = format!("postgres://canary:{PASSWORD}@127.0.0.1:1/limiter");
    for url in [with(PASSWORD), with(WRONG), refused] {
        for prepared in [true, false] {
            let builder = Postgres::builder(&url).prepared(prepared);
            seen.debug(&builder);
            let store = builder.build().unwrap();
            seen.debug(&store);
            let unready = exercise(Arc::new(store.clone()), &seen).await;
            let migrated = store.migrate().await;
            let worked = exercise(Arc::new(store), &seen).await;
            match &migrated {
                Ok(()) => assert!(worked.is_ok(), "{worked:?}"),
                Err(error) => seen.error(error),
            }
            assert_eq!(
                worked.is_ok(),
                url.contains(PASSWORD) && !url.contains(":1/"),
                "{worked:?} {unready:?}"
            );
        }
    }

    // The driver knows no passwords: a server that asks for one refuses all that it is sent.
    let open = servers::Memcached::start().unwrap();
    let closed = servers::Memcached::builder().authentication("canary", PASSWORD).start().unwrap();
    let nowhere = "memcached://127.0.0.1:1".to_owned();
    for (url, works) in [(open.url(), true), (closed.url(), false), (nowhere, false)] {
        let builder = Memcached::builder(url);
        seen.debug(&builder);
        let store = builder.build().unwrap();
        seen.debug(&store);
        let worked = exercise(Arc::new(store), &seen).await;
        assert_eq!(worked.is_ok(), works, "{worked:?}");
    }
    let with_password = Memcached::builder(format!("memcached://canary:{PASSWORD}@127.0.0.1:11211"));
    seen.debug(&with_password);
    seen.error(&with_password.build().unwrap_err());

    for url in
        [format!("redis://:{PASSWORD}@host:port"), format!("user:{PASSWORD}@host"), format!("x://{PASSWORD}")]
    {
        if let Err(error) = connect(&url) {
            seen.error(&error);
        }
    }
    let lines = log.lines();
    let has = |text: &str| lines.iter().any(|line| line.contains(text));
    assert!(
        has("span limiter_trip") && has("WARN") && has("executing statement"),
        "the log hears too little"
    );
    seen.assert_clean(&log, recorder);
}
