//! ns per decision through the in-process store, and through the limiter in front of it.
#![expect(clippy::expect_used, reason = "a benchmark that cannot be set up has nothing to measure")]

use benches::{KEYS, keys, keyspaces, order, plenty, poll_once, scarce};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use limiter_core::{
    Algorithm, Backend, Caller, Check, Keyspace, Keyspaces, Memory, Quota, QuotaBuilder, RateLimiter,
    Request, Rule, Scope, Verdict,
};
use std::hint::black_box;

/// Longer than the many keys, so that an order is not learnt by heart.
const ORDER: usize = 1 << 20;

/// New keys per batch: few enough that a batch is short, enough that the tables grow as they do in service.
const NEW_KEYS: usize = 10_000;

fn store(c: &mut Criterion) {
    for algorithm in Algorithm::ALL {
        let name = format!("Memory::decide_now/hot key/{algorithm}");
        over_keys(c, &format!("{name}/admitted"), plenty(algorithm), 1, true);
        over_keys(c, &format!("{name}/denied"), scarce(algorithm), 1, false);
    }
    over_keys(
        c,
        "Memory::decide_now/100,000 keys/token-bucket/admitted",
        plenty(Algorithm::TokenBucket),
        KEYS,
        true,
    );
    three_checks(c);
    new_keys(c);
}

/// Requests that were built before, over keys in a random order.
fn over_keys(c: &mut Criterion, name: &str, quota: QuotaBuilder, count: usize, allowed: bool) {
    let (quota, keyspaces) = rule(quota);
    let requests: Vec<_> =
        keys(count).iter().map(|key| Request::by_key(&keyspaces, key.as_bytes(), &quota, 1)).collect();
    let memory = Memory::new();
    for request in &requests {
        let _ = decide(&memory, request);
    }
    assert_eq!(decide(&memory, &requests[0]).allowed(), allowed, "{name}");
    let mut order = order(count, ORDER, 1).into_iter().cycle();
    c.bench_function(name, |b| {
        b.iter(|| decide(&memory, black_box(&requests[order.next().unwrap_or(0)])));
    });
}

/// Three keys, each of another rule, which are granted together.
fn three_checks(c: &mut Criterion) {
    let quota = built(plenty(Algorithm::TokenBucket));
    let checks = ["user", "address", "everybody"].map(|rule| {
        let keyspace = Keyspace::new("bench", rule, quota.algorithm()).expect("a short name");
        Check { key: keyspace.key(b"tenant:7/user:0000000042"), quota, cost: 1 }
    });
    let request = Request::new(checks).expect("three keys");
    let memory = Memory::new();
    c.bench_function("Memory::decide_now/hot key/3 checks/admitted", |b| {
        b.iter(|| decide(&memory, black_box(&request)));
    });
}

/// Into an empty store, which is made beforehand and dropped afterwards.
fn new_keys(c: &mut Criterion) {
    let (quota, keyspaces) = rule(plenty(Algorithm::TokenBucket));
    let requests: Vec<_> =
        keys(NEW_KEYS).iter().map(|key| Request::by_key(&keyspaces, key.as_bytes(), &quota, 1)).collect();
    let mut group = c.benchmark_group("Memory::decide_now");
    group.throughput(Throughput::Elements(NEW_KEYS as u64));
    group.bench_function("10,000 new keys/token-bucket", |b| {
        let fill = |memory: Memory| {
            for request in &requests {
                let _ = black_box(decide(&memory, request));
            }
            memory
        };
        b.iter_batched(Memory::new, fill, BatchSize::LargeInput);
    });
}

fn limiter(c: &mut Criterion) {
    let limiter = one_rule(plenty(Algorithm::TokenBucket));
    for (name, count) in [("hot key", 1), ("100,000 keys", KEYS)] {
        let keys = keys(count);
        for key in &keys {
            assert!(limiter.check_now(key).is_some_and(|d| d.allowed), "{name}");
        }
        let mut order = order(count, ORDER, 1).into_iter().cycle();
        c.bench_function(&format!("RateLimiter::check_now/{name}/token-bucket/admitted"), |b| {
            b.iter(|| limiter.check_now(black_box(&keys[order.next().unwrap_or(0)])));
        });
        c.bench_function(&format!("RateLimiter::check/{name}/token-bucket/admitted"), |b| {
            b.iter(|| poll_once(limiter.check(black_box(&keys[order.next().unwrap_or(0)]))));
        });
    }
    let limiter = three_rules(plenty(Algorithm::TokenBucket));
    let (user, address) = (String::from("tenant:7/user:0000000042"), String::from("2001:db8::7"));
    c.bench_function("RateLimiter::check/hot key/3 rules/admitted", |b| {
        b.iter(|| {
            let caller = Caller::new().with("user", black_box(&user)).with("address", black_box(&address));
            poll_once(limiter.check(caller))
        });
    });
}

fn one_rule(quota: QuotaBuilder) -> RateLimiter {
    RateLimiter::builder(Memory::new()).rule(Rule::new("user", quota)).build().expect("one rule")
}

fn three_rules(quota: QuotaBuilder) -> RateLimiter {
    RateLimiter::builder(Memory::new())
        .rule(Rule::new("user", quota).scope(Scope::per("user")))
        .rule(Rule::new("address", quota).scope(Scope::per("address")))
        .rule(Rule::new("everybody", quota).scope(Scope::global()))
        .build()
        .expect("three rules")
}

fn rule(quota: QuotaBuilder) -> (Quota, Keyspaces) {
    let quota = built(quota);
    (quota, keyspaces().expect("short names"))
}

fn built(quota: QuotaBuilder) -> Quota {
    quota.build().expect("a quota that can be enforced")
}

fn decide(memory: &Memory, request: &Request) -> Verdict {
    memory.decide_now(request).expect("always ready").expect("never without an answer")
}

criterion_group!(benches, store, limiter);
criterion_main!(benches);
