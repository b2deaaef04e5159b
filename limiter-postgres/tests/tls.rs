//! TLS that is asked for is TLS that is verified, and there is no way back to plain text.
#![cfg(feature = "tls")]
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::{ask, is, migrated, patient, sql, start, taken};
use limiter_core::{Effect, ErrorKind};
use limiter_postgres::PostgresBuilder;
use limiter_testkit::servers;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

const TEN: &str = "10/day";

/// What a client is to trust: the server has a certificate of this authority, or of another.
fn secure(server: &servers::Postgres, host: &str, is_expired: bool) -> String {
    let authority = || {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        (params.self_signed(&key).expect("a certificate").pem(), Issuer::new(params, key))
    };
    let (ca, issuer) = authority();
    let mut params = CertificateParams::new(vec![host.to_owned()]).expect("a name");
    if is_expired {
        (params.not_before, params.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(2000, 12, 31));
    }
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, &issuer).expect("a certificate").pem();
    let owner = std::fs::metadata(server.folder()).expect("a folder");
    for (name, text) in [("server.crt", certificate), ("server.key", key.serialize_pem())] {
        let path = server.folder().join("data").join(name);
        std::fs::write(&path, text).expect("a file");
        chown(&path, Some(owner.uid()), Some(owner.gid())).expect("a file of the server's");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("permissions");
    }
    sql(server, "ALTER SYSTEM SET ssl = on");
    sql(server, "SELECT pg_reload_conf()");
    let began = std::time::Instant::now();
    while sql(server, "SHOW ssl") != "on" {
        assert!(began.elapsed() < std::time::Duration::from_secs(10), "no TLS: {}", server.log());
    }
    ca
}

fn trusting(server: &servers::Postgres, ca: &str) -> PostgresBuilder {
    patient(server.url()).root_certificate(ca)
}

#[tokio::test]
async fn a_trusted_server_answers() {
    let server = start();
    let ca = secure(&server, "127.0.0.1", false);
    let postgres = migrated(trusting(&server, &ca)).await;
    assert!(ask(&postgres, TEN, "a").await.expect("an answer").allowed());
    assert_eq!(taken(&postgres, TEN, "a").await, 1);
    let plain = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                 WHERE application_name = 'limiter-postgres' AND NOT ssl";
    assert_eq!(sql(&server, plain), "0");
}

#[tokio::test]
async fn any_other_server_is_refused() {
    let server = start();
    let plain = patient(server.url() + "?sslmode=require").build().expect("a store");
    let error = ask(&plain, TEN, "a").await.expect_err("a server without TLS");
    is(&error, ErrorKind::Config, Effect::NotApplied, "");
    for (host, is_expired) in [("elsewhere.test", false), ("127.0.0.1", true)] {
        let ca = secure(&server, host, is_expired);
        let error = ask(&trusting(&server, &ca).build().expect("a store"), TEN, "a").await;
        is(&error.expect_err(host), ErrorKind::Config, Effect::NotApplied, "");
    }
    let other = secure(&server, "127.0.0.1", false);
    let _ca = secure(&server, "127.0.0.1", false);
    let error = ask(&trusting(&server, &other).build().expect("a store"), TEN, "a").await;
    is(&error.expect_err("another authority"), ErrorKind::Config, Effect::NotApplied, "");
}
