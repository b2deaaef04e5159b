//! What is wrong with a server, in words that an operator can act on.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::bend;
use limiter_core::{Backend, ErrorKind};
use limiter_redis::Redis;
use limiter_testkit::servers::{self, RedisCluster, RedisSentinel};

fn connect(server: &servers::Redis) -> Redis {
    Redis::connect(server.url()).expect("a URL of Redis")
}

async fn says(redis: &Redis, words: &[&str]) {
    let error = redis.ready().await.expect_err("something is wrong");
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    for word in words {
        assert!(error.to_string().contains(word), "{error} does not say {word}");
    }
}

#[tokio::test]
async fn a_server_as_it_should_be_is_ready() {
    let server = servers::Redis::start().expect("a Redis");
    connect(&server).ready().await.expect("a server that is ready");
    connect(&server).ready().await.expect("twice");
}

#[tokio::test]
async fn one_that_evicts_says_so_unless_that_is_accepted() {
    let server = servers::Redis::builder()
        .config("maxmemory", "100mb")
        .config("maxmemory-policy", "allkeys-lru")
        .start()
        .expect("a Redis");
    says(&connect(&server), &["maxmemory-policy allkeys-lru", "noeviction", "allow_eviction"]).await;
    let accepting = Redis::builder(server.url()).allow_eviction().build().expect("a URL of Redis");
    accepting.ready().await.expect("eviction was accepted");
    bend(&server, &["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    connect(&server).ready().await.expect("a server that evicts nothing");
}

#[tokio::test]
async fn a_missing_permission_is_named() {
    let server = servers::Redis::start().expect("a Redis");
    let commands = ["+@connection", "+evalsha", "+eval", "+mget", "+set", "+time", "+getrange", "+append"];
    let mut words = vec!["ACL", "SETUSER", "weak", "on", ">pw", "~*rl1:*"];
    words.extend(commands);
    bend(&server, &words);
    let redis =
        Redis::connect(format!("redis://weak:pw@127.0.0.1:{}", server.port())).expect("a URL of Redis");
    says(&redis, &["refuses a command that the scripts need", "+pexpire", "+unlink"]).await;
    let cause = redis.ready().await.map_err(|error| format!("{:?}", std::error::Error::source(&error)));
    assert!(cause.as_ref().is_err_and(|cause| cause.contains("can't run this command")), "{cause:?}");
    bend(&server, &["ACL", "SETUSER", "weak", "+pexpire", "+unlink"]);
    redis.ready().await.expect("all that the scripts need");
}

/// Whichever it is.
#[tokio::test]
async fn every_command_that_the_scripts_need_is_tried() {
    let server = servers::Redis::start().expect("a Redis");
    for command in ["evalsha", "mget", "set", "time", "getrange", "append", "pexpire", "unlink"] {
        let redis = connect(&server);
        bend(&server, &["ACL", "SETUSER", "default", &format!("-{command}")]);
        // That of the script itself is refused before it begins.
        says(
            &redis,
            &[if command == "evalsha" { "NOPERM" } else { "refuses a command that the scripts need" }],
        )
        .await;
        bend(&server, &["ACL", "SETUSER", "default", &format!("+{command}")]);
        redis.ready().await.expect("all that the scripts need");
    }
}

/// Whichever of its servers it is.
#[tokio::test]
async fn a_permission_that_one_server_of_a_cluster_withholds_is_named() {
    let cluster = RedisCluster::start(3, 0).expect("a cluster");
    let url = cluster.urls()[0].replace("redis://", "redis-cluster://");
    for server in cluster.nodes() {
        let redis = Redis::connect(url.clone()).expect("a URL");
        // The one gives back what was taken on another server.
        for command in ["append", "pttl"] {
            bend(server, &["ACL", "SETUSER", "default", &format!("-{command}")]);
            says(&redis, &["refuses a command that the scripts need"]).await;
            bend(server, &["ACL", "SETUSER", "default", &format!("+{command}")]);
            redis.ready().await.expect("all that the scripts need");
        }
    }
}

/// What a server refuses to tell about itself is none of the store.
#[tokio::test]
async fn a_server_that_does_not_say_what_it_is_is_ready() {
    let server = servers::Redis::start().expect("a Redis");
    bend(&server, &["ACL", "SETUSER", "default", "-info"]);
    connect(&server).ready().await.expect("all that the scripts need");
}

#[tokio::test]
async fn a_replica_is_named() {
    let primary = servers::Redis::start().expect("a Redis");
    let server = servers::Redis::start().expect("a Redis");
    bend(&server, &["REPLICAOF", "127.0.0.1", &primary.port().to_string()]);
    says(&connect(&server), &["replica", "primary"]).await;
}

#[tokio::test]
async fn a_server_that_is_down_is_an_outage() {
    let server = servers::Redis::start().expect("a Redis");
    server.kill();
    let error = connect(&server).ready().await.expect_err("no server");
    assert!(error.is_outage(), "{error}");
}

#[tokio::test]
async fn a_cluster_and_a_sentinel_are_ready() {
    let cluster = RedisCluster::start(3, 0).expect("a cluster");
    let url = cluster.urls()[1].replace("redis://", "redis-cluster://");
    Redis::connect(url).expect("a URL").ready().await.expect("a cluster that is ready");
    let sentinel = RedisSentinel::start().expect("sentinels");
    let hosts: Vec<String> = sentinel.sentinel_urls().iter().map(|url| url.replace("redis://", "")).collect();
    let url = format!("redis-sentinel://{}/{}", hosts.join(","), RedisSentinel::SERVICE);
    Redis::connect(url).expect("a URL").ready().await.expect("a primary that is ready");
}
