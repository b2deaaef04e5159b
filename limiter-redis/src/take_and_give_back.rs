//! Requests over several slots of a cluster, which no script can decide in one step: core takes them key by key.

use crate::batch::Answer;
use crate::error::NAME;
use crate::trips::Trips;
use limiter_core::take_and_give_back::KeyByKey;
use limiter_core::{BackendError, Check, Request, Timestamp};
use std::sync::Arc;

/// The keys of such a request, one by one.
pub(crate) struct Keys(pub(crate) Arc<Trips>);

impl KeyByKey for Keys {
    type Answer = Answer;

    fn name(&self) -> &'static str {
        NAME
    }

    async fn look(&self, request: &Request) -> Result<Answer, BackendError> {
        self.0.look(request).await
    }

    async fn take(&self, request: &Request) -> Result<Answer, BackendError> {
        self.0.take(request).await
    }

    async fn give_back(
        &self,
        check: &Check,
        at: Option<Timestamp>,
        taken: &Answer,
    ) -> Result<(), BackendError> {
        self.0.give_back(check, at, taken).await
    }
}

#[cfg(test)]
mod tests {
    use crate::Redis;
    use fastrand::Rng;
    use limiter_core::algorithm::{FixedWindow, LeakyBucket, SlidingCounter, SlidingLog, Step, TokenBucket};
    use limiter_core::{Algorithm, Backend, Check, Keyspace, Quota, Request, Timestamp};
    use limiter_testkit::faults::at;
    use limiter_testkit::{Direction, Proxy, servers};
    use std::time::Duration;

    /// As many calls as may be are on their way when a request is denied that has taken something.
    #[tokio::test]
    async fn what_is_given_back_waits_for_its_turn() {
        let server = servers::Redis::start().expect("a Redis");
        let proxy = Proxy::start(server.addr()).expect("a proxy");
        let redis = Redis::builder(format!("redis://{}", proxy.addr()))
            .timeout(Duration::from_secs(5))
            .max_in_flight(1)
            .build()
            .expect("a URL of Redis");
        let quota: Quota = "10/day".parse().expect("a quota");
        let keys = Keyspace::new("give-back", "rule", quota.algorithm()).expect("short names");
        let check = |name: &str, cost| Check { key: keys.key(name.as_bytes()), quota, cost };
        let one = |name, cost| Request::one(check(name, cost)).expect("one check");
        let taken = redis.trips.take(&one("a", 3)).await.expect("an answer");

        proxy.delay(Direction::ToServer, Duration::from_millis(200));
        let busy = {
            let (redis, other) = (redis.clone(), one("b", 1));
            tokio::spawn(async move { redis.decide(&[other]).await.remove(0) })
        };
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!busy.is_finished());
        assert!(redis.decide(&[one("c", 1)]).await[0].is_err(), "no more than one");
        redis.trips.give_back(&check("a", 3), None, &taken).await.expect("its turn");
        assert!(busy.await.expect("a task").is_ok());
        let left = redis.decide(&[one("a", 0)]).await.remove(0).expect("an answer").decisions()[0].remaining;
        assert_eq!(left, 10);
    }

    /// A key that is taken from, and given back to, in any order, while windows turn, clocks step and quotas change: each
    /// time it stands as core's own function leaves it.
    async fn gives_back_as_core_does<S: Step>(redis: &Redis, algorithm: Algorithm, seed: u64) {
        let mut rng = Rng::with_seed(seed);
        let quotas = ["5/s", "7/1300ms", "9/s"].map(|text| format!("{text} {algorithm}").parse::<Quota>());
        let quotas = quotas.map(|quota| quota.expect("a quota"));
        let key =
            Keyspace::new("give-back", "core", algorithm).expect("short names").key(&seed.to_be_bytes());
        let (mut quota, mut state, mut now) = (quotas[0], S::State::default(), 0);
        let mut taken = Vec::new();
        for step in 0..300 {
            now = match rng.u8(..12) {
                0 => now + rng.u64(..3_000_000),
                1 => now.saturating_sub(rng.u64(..400_000)),
                2..=5 => now,
                _ => now + rng.u64(..150_000),
            };
            let here: Timestamp = at(now);
            if rng.u8(..40) == 0 {
                quota = quotas[rng.usize(..quotas.len())];
            }
            let request =
                |cost| Request::one(Check { key: key.clone(), quota, cost }).expect("one check").at(here);
            if rng.bool() || taken.is_empty() {
                let cost = rng.u64(1..4);
                let answer = redis.trips.take(&request(cost)).await.expect("an answer");
                let reading = S::read(&state, &quota, cost, here);
                if S::decide(&reading, &quota, cost, here).allowed {
                    S::take(&mut state, &reading, &quota, cost);
                    taken.push((quota, cost, answer, reading, here));
                }
            } else {
                let (quota, cost, answer, reading, taken_at) = taken.swap_remove(rng.usize(..taken.len()));
                let check = Check { key: key.clone(), quota, cost };
                redis.trips.give_back(&check, Some(here), &answer).await.expect("an answer");
                S::give_back(&mut state, &quota, cost, &reading, taken_at, here);
            }
            for cost in [0, 1, quota.capacity()] {
                let looked = redis.trips.look(&request(cost)).await.expect("an answer").answer;
                let said = looked.readings[0].decide(&quota, cost, looked.now).expect("a reading of its own");
                let expected = S::decide(&S::read(&state, &quota, cost, here), &quota, cost, here);
                assert_eq!(said, expected, "seed {seed}, step {step}: {cost} of {quota} at {now} us");
            }
        }
    }

    #[tokio::test]
    async fn a_key_that_something_is_given_back_to_stands_as_core_says() {
        let server = servers::Redis::start().expect("a Redis");
        let redis = Redis::builder(server.url()).timeout(Duration::from_secs(5)).build().expect("a URL");
        for seed in 0..5 {
            gives_back_as_core_does::<TokenBucket>(&redis, Algorithm::TokenBucket, seed).await;
            gives_back_as_core_does::<LeakyBucket>(&redis, Algorithm::LeakyBucket, seed).await;
            gives_back_as_core_does::<FixedWindow>(&redis, Algorithm::FixedWindow, seed).await;
            gives_back_as_core_does::<SlidingLog>(&redis, Algorithm::SlidingLog, seed).await;
            gives_back_as_core_does::<SlidingCounter>(&redis, Algorithm::SlidingCounter, seed).await;
        }
    }
}
