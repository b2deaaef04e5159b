//! TLS that is asked for is TLS that is verified, and there is no way back to plain text.
#![cfg(feature = "tls")]
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::{ask, taken, until_answered};
use limiter_core::{Backend, Effect};
use limiter_redis::redis::{Client, TlsCertificates};
use limiter_redis::{Redis, RedisBuilder};
use limiter_testkit::servers::{self, Certificate, RedisCluster, RedisSentinel};
use rustls::crypto::CryptoProvider;
use std::process::Command;
use std::time::Duration;

const TEN: &str = "10/day";

/// A busy machine may take long, also to read whom the system trusts.
const PATIENCE: Duration = Duration::from_secs(10);

fn patient(url: &str) -> RedisBuilder {
    Redis::builder(url).timeout(PATIENCE).connect_timeout(PATIENCE)
}

fn secure(certificate: Certificate) -> servers::Redis {
    servers::Redis::builder().tls(certificate).start().expect("a Redis that speaks TLS")
}

fn trusting(server: &servers::Redis) -> Redis {
    let ca = server.ca_pem().expect("a server that speaks TLS");
    patient(&server.url()).root_certificate(ca).build().expect("a URL of Redis")
}

#[tokio::test]
async fn a_trusted_server_answers() {
    let server = secure(Certificate::Good);
    assert!(server.url().starts_with("rediss://"));
    let redis = trusting(&server);
    assert!(ask(&redis, TEN, "a").await.expect("an answer").allowed());
    assert_eq!(taken(&redis, TEN, "a").await, 1);
}

#[tokio::test]
async fn a_certificate_that_does_not_hold_is_refused() {
    for certificate in [Certificate::OtherCa, Certificate::OtherHost, Certificate::Expired] {
        let server = secure(certificate);
        let error = ask(&trusting(&server), TEN, "a").await.expect_err("a certificate that is refused");
        assert_eq!(error.effect(), Effect::NotApplied, "{certificate:?}: {error}");
    }
}

#[tokio::test]
async fn a_plain_server_is_refused() {
    let server = servers::Redis::start().expect("a Redis");
    let redis = Redis::connect(server.url().replace("redis://", "rediss://")).expect("a URL of Redis");
    let error = ask(&redis, TEN, "a").await.expect_err("no TLS there");
    assert_eq!(error.effect(), Effect::NotApplied, "{error}");
}

#[tokio::test]
async fn a_certificate_that_is_none_is_said_at_once() {
    let refused = Redis::builder("rediss://127.0.0.1:1").root_certificate("no certificate").build();
    let error = refused.err().map(|error| error.to_string());
    assert!(error.is_some_and(|error| error.contains("certificate")));
}

fn secure_cluster(certificate: Certificate) -> RedisCluster {
    RedisCluster::start_with(servers::Redis::builder().tls(certificate), 3, 0)
        .expect("a cluster that speaks TLS")
}

#[tokio::test]
async fn a_cluster_is_reached_through_tls_alone() {
    let cluster = secure_cluster(Certificate::Good);
    let ca = cluster.nodes()[0].ca_pem().expect("a cluster that speaks TLS");
    let url = cluster.urls()[0].replace("rediss://", "rediss-cluster://");
    let redis = patient(&url).root_certificate(ca).build().expect("a URL of Redis");
    redis.ready().await.expect("a cluster that is ready");
    // Of all three servers, whose addresses the first has told.
    for i in 0..20 {
        let name = i.to_string();
        assert!(ask(&redis, TEN, &name).await.expect("an answer").allowed());
        assert_eq!(taken(&redis, TEN, &name).await, 1);
    }
    refuses_the_certificate(patient(&url)).await;
    let plain = url.replace("rediss-", "redis-");
    let error = ask(&Redis::connect(plain).expect("a URL"), TEN, "a").await.expect_err("no plain text there");
    assert_eq!(error.effect(), Effect::NotApplied, "{error}");
}

#[tokio::test]
async fn a_cluster_whose_certificate_does_not_hold_says_so() {
    let cluster = secure_cluster(Certificate::OtherHost);
    let ca = cluster.nodes()[0].ca_pem().expect("a cluster that speaks TLS");
    let url = cluster.urls()[0].replace("rediss://", "rediss-cluster://");
    refuses_the_certificate(patient(&url).root_certificate(ca)).await;
}

async fn refuses_the_certificate(builder: RedisBuilder) {
    let redis = builder.build().expect("a URL of Redis");
    for error in [ask(&redis, TEN, "a").await.map(|_| ()), redis.ready().await] {
        let error = error.expect_err("a certificate that is refused");
        assert_eq!(error.effect(), Effect::NotApplied, "{error}");
        let cause = format!("{:?}", std::error::Error::source(&error));
        assert!(cause.contains("certificate"), "{error}: {cause}");
    }
}

fn by_sentinel(sentinel: &RedisSentinel) -> String {
    let hosts: Vec<String> =
        sentinel.sentinel_urls().iter().map(|url| url.replace("rediss://", "")).collect();
    format!("rediss-sentinel://{}/{}", hosts.join(","), RedisSentinel::SERVICE)
}

fn secure_sentinel() -> RedisSentinel {
    RedisSentinel::start_with(servers::Redis::builder().tls(Certificate::Good))
        .expect("sentinels that speak TLS")
}

#[tokio::test]
async fn a_primary_is_found_and_reached_through_tls_alone() {
    let sentinel = secure_sentinel();
    let ca = sentinel.sentinels()[0].ca_pem().expect("sentinels that speak TLS");
    let url = by_sentinel(&sentinel);
    let redis = patient(&url).root_certificate(ca).build().expect("a URL of Redis");
    redis.ready().await.expect("a primary that is ready");
    assert!(ask(&redis, TEN, "a").await.expect("an answer").allowed());
    sentinel.failover().expect("a failover");
    until_answered(&redis, TEN, "b", Duration::from_secs(5)).await;
    refuses_the_certificate(patient(&url)).await;
}

#[test]
fn plain_text_chooses_none() {
    alone("plain_text_chooses_none", async {
        let _redis = Redis::connect("redis://127.0.0.1:1").expect("a URL of Redis");
        assert!(CryptoProvider::get_default().is_none(), "the application may want another");
    });
}

/// Runs a test in a process of its own: who has chosen a provider of cryptography has done it for the whole process.
fn alone(test: &str, run: impl Future<Output = ()>) {
    const VARIABLE: &str = "LIMITER_REDIS_TLS_ALONE";
    if std::env::var_os(VARIABLE).is_none() {
        let program = std::env::current_exe().expect("the path of this test");
        let status = Command::new(program).args([test, "--exact"]).env(VARIABLE, test).status();
        assert!(status.expect("this test's program again").success(), "{test} failed by itself");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(run);
}

/// Where several are compiled in, the driver would panic for want of one.
fn chooses_a_provider(build: impl FnOnce() -> Redis) -> Redis {
    assert!(CryptoProvider::get_default().is_none(), "somebody has chosen one");
    let redis = build();
    assert!(CryptoProvider::get_default().is_some(), "nobody has chosen one");
    redis
}

#[test]
fn a_client_of_ones_own_needs_no_provider_chosen() {
    alone("a_client_of_ones_own_needs_no_provider_chosen", async {
        let server = secure(Certificate::Good);
        let ca = server.ca_pem().expect("a server that speaks TLS").as_bytes().to_vec();
        let certificates = TlsCertificates { client_tls: None, root_cert: Some(ca) };
        let client = Client::build_with_tls(server.url(), certificates).expect("a client");
        let redis =
            chooses_a_provider(|| Redis::from_client(client).timeout(PATIENCE).build().expect("a client"));
        assert!(ask(&redis, TEN, "a").await.expect("an answer").allowed());
    });
}

#[test]
fn sentinels_need_no_provider_chosen() {
    alone("sentinels_need_no_provider_chosen", async {
        let sentinel = secure_sentinel();
        let ca = sentinel.sentinels()[0].ca_pem().expect("sentinels that speak TLS");
        let builder = patient(&by_sentinel(&sentinel)).root_certificate(ca);
        let redis = chooses_a_provider(|| builder.build().expect("a URL"));
        assert!(ask(&redis, TEN, "a").await.expect("an answer").allowed());
    });
}
