//! TLS that is asked for is TLS that is verified, and there is no way back to plain text.
#![cfg(feature = "tls")]
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::{ask, taken};
use limiter_core::Effect;
use limiter_redis::Redis;
use limiter_testkit::servers::{self, Certificate};

const TEN: &str = "10/day";

fn secure(certificate: Certificate) -> servers::Redis {
    servers::Redis::builder().tls(certificate).start().expect("a Redis that speaks TLS")
}

fn trusting(server: &servers::Redis) -> Redis {
    let ca = server.ca_pem().expect("a server that speaks TLS");
    Redis::builder(server.url()).root_certificate(ca).build().expect("a URL of Redis")
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
