//! Redis, through the suite that every backend passes.

use limiter_redis::Redis;
use limiter_testkit::Harness;
use std::process::ExitCode;

fn main() -> ExitCode {
    limiter_testkit::main([Harness::new("redis", async || {
        Redis::connect(std::env::var("LIMITER_TEST_REDIS_URL").expect("a URL")).expect("a store")
    })])
}
