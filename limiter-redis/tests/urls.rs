//! URLs: what they name, what is refused, and that nothing shows a password.

use limiter_redis::{ConfigError, Redis};

fn refused(url: &str) -> ConfigError {
    Redis::connect(url).err().unwrap_or_else(|| panic!("{url} is accepted"))
}

#[test]
fn every_form_is_accepted_and_shows_no_password() {
    for (url, shown) in [
        ("redis://user:canary@h1:7", "h1:7"),
        ("redis://:canary@h1:7/3?protocol=resp2", "h1:7"),
        ("redis+unix:///run/r.sock?pass=canary", "Link"),
        ("unix:///run/r.sock", "Link"),
        ("redis-cluster://user:canary@h1:7,h2:8,[::1]:9", "h2:8"),
        ("redis-sentinel://user:canary@h1:7,h2:8/mymaster?db=2", "mymaster by h1:7,h2:8"),
    ] {
        let redis = Redis::connect(url).unwrap_or_else(|error| panic!("{url}: {error}"));
        let debug = format!("{redis:?} {:?}", Redis::builder(url));
        assert!(!debug.contains("canary"), "{debug}");
        assert!(debug.contains(shown) || shown == "h1:7", "{debug} does not show {shown}");
    }
}

#[test]
fn what_is_no_url_of_redis_is_refused_without_quoting_it() {
    for url in [
        "canary",
        "http://canary",
        "redis://user:canary@host:port",
        "redis-cluster://",
        "redis-sentinel://user:canary@host:1",
        "redis-sentinel://user:canary@host:1/",
        "redis-sentinel:///canary",
    ] {
        let error = refused(url);
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("canary"), "{url}: {shown}");
    }
}

#[test]
#[cfg(not(feature = "tls"))]
fn tls_without_its_feature_names_the_feature() {
    assert!(refused("rediss://host:1").to_string().contains("\"tls\""));
}

#[test]
fn a_client_of_ones_own_is_taken() {
    let client = limiter_redis::redis::Client::open("redis://host:1").expect("a URL");
    assert!(Redis::from_client(client).build().is_ok());
}
