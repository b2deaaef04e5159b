//! A backend from a URL.

use crate::Backend;
use std::error::Error;
use std::sync::Arc;

/// A URL that names no store of this build.
///
/// It quotes the scheme alone: the rest of a URL may hold a password.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The text has no scheme.
    #[error("a store's URL starts with a scheme, such as memory://")]
    NoScheme,
    /// The scheme is no store's.
    #[error("scheme {scheme:?} is no store's; there are {}", known())]
    UnknownScheme {
        /// The scheme that was asked for.
        scheme: String,
    },
    /// The store is there, and its cargo feature is off.
    #[error("{scheme}:// needs the cargo feature {feature:?} of distributed-rate-limiter")]
    FeatureOff {
        /// The scheme that was asked for.
        scheme: &'static str,
        /// The feature to turn on.
        feature: &'static str,
    },
    /// The store does not understand what follows the scheme.
    #[error("{scheme}://: {reason}")]
    Store {
        /// The scheme that was asked for.
        scheme: &'static str,
        /// Why.
        #[source]
        reason: Arc<dyn Error + Send + Sync>,
    },
}

type Opened = Result<Arc<dyn Backend>, Box<dyn Error + Send + Sync>>;

/// A store: its feature, its schemes, and how it is made of a URL; `None` where the feature is off.
struct Store {
    feature: &'static str,
    schemes: &'static [&'static str],
    open: Option<fn(&str) -> Opened>,
}

const STORES: [Store; 4] = [
    Store { feature: "memory", schemes: &["memory"], open: MEMORY },
    Store {
        feature: "redis",
        schemes: &[
            "redis",
            "rediss",
            "redis+unix",
            "redis-cluster",
            "rediss-cluster",
            "redis-sentinel",
            "rediss-sentinel",
        ],
        open: REDIS,
    },
    Store { feature: "memcached", schemes: &["memcached"], open: MEMCACHED },
    Store { feature: "postgres", schemes: &["postgres", "postgresql"], open: POSTGRES },
];

#[cfg(not(feature = "memory"))]
const MEMORY: Option<fn(&str) -> Opened> = None;
#[cfg(feature = "memory")]
const MEMORY: Option<fn(&str) -> Opened> = Some(|url| {
    if url == "memory://" {
        Ok(Arc::new(crate::Memory::new()))
    } else {
        Err("it takes nothing after it".into())
    }
});

#[cfg(not(feature = "redis"))]
const REDIS: Option<fn(&str) -> Opened> = None;
#[cfg(feature = "redis")]
const REDIS: Option<fn(&str) -> Opened> = Some(|url| Ok(Arc::new(crate::Redis::connect(url)?)));

#[cfg(not(feature = "memcached"))]
const MEMCACHED: Option<fn(&str) -> Opened> = None;
#[cfg(feature = "memcached")]
const MEMCACHED: Option<fn(&str) -> Opened> = Some(|url| Ok(Arc::new(crate::Memcached::connect(url)?)));

#[cfg(not(feature = "postgres"))]
const POSTGRES: Option<fn(&str) -> Opened> = None;
#[cfg(feature = "postgres")]
const POSTGRES: Option<fn(&str) -> Opened> = Some(|url| Ok(Arc::new(crate::Postgres::connect(url)?)));

fn known() -> String {
    let schemes = STORES.iter().flat_map(|store| store.schemes).map(|scheme| format!("{scheme}://"));
    schemes.collect::<Vec<_>>().join(", ")
}

/// The store that a URL names: `memory://`, the in-process store; `redis://..` and its kin, Redis; `postgres://..`,
/// PostgreSQL; `memcached://a:11211,b:11211`, Memcached. A [`RateLimiter`](crate::RateLimiter) puts around it what makes
/// it fast and safe; who does without one calls [`standard`](crate::standard).
///
/// Nothing is connected yet, so that a store which is down is no error here.
///
/// # Errors
/// No scheme, a scheme that is no store's, one whose cargo feature is off, which the error names, or a URL that the
/// store does not understand.
///
/// # Example
/// ```
/// use distributed_rate_limiter::connect;
///
/// assert_eq!(connect("memory://")?.name(), "memory");
/// let error = connect("gopher://").err().map(|error| error.to_string());
/// assert!(error.is_some_and(|error| error.starts_with("scheme \"gopher\" is no store's; there are memory://")));
/// # Ok::<(), distributed_rate_limiter::ConnectError>(())
/// ```
pub fn connect(url: &str) -> Result<Arc<dyn Backend>, ConnectError> {
    // RFC 3986, section 3.1; what is no scheme may be a password, and is not quoted.
    let is_scheme = |(scheme, _): &(&str, &str)| {
        scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
    };
    let (scheme, rest) = url.split_once("://").filter(is_scheme).ok_or(ConnectError::NoScheme)?;
    let is_it = |known: &&&str| known.eq_ignore_ascii_case(scheme);
    let named = STORES.iter().find_map(|store| Some((store, *store.schemes.iter().find(is_it)?)));
    let Some((store, scheme)) = named else {
        return Err(ConnectError::UnknownScheme { scheme: scheme.to_owned() });
    };
    let open = store.open.ok_or(ConnectError::FeatureOff { scheme, feature: store.feature })?;
    open(&format!("{scheme}://{rest}"))
        .map_err(|reason| ConnectError::Store { scheme, reason: reason.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(url: &str) -> String {
        connect(url).err().map(|error| format!("{error} {error:?}")).unwrap()
    }

    #[test]
    fn a_url_without_a_scheme_is_refused() {
        for url in ["memory", "user:secret://host"] {
            assert!(matches!(connect(url), Err(ConnectError::NoScheme)), "{url}");
        }
    }

    #[test]
    #[cfg(feature = "memory")]
    fn what_follows_memory_is_refused_and_not_quoted() {
        let shown = shown("memory://user:secret@host");
        assert!(shown.contains("takes nothing") && !shown.contains("secret"), "{shown}");
    }

    #[test]
    #[cfg(feature = "redis")]
    fn a_url_that_redis_does_not_understand_is_refused_and_not_quoted() {
        for url in ["redis://user:secret@host:port", "redis-sentinel://user:secret@host:26379"] {
            let shown = shown(url);
            assert!(shown.starts_with("redis") && !shown.contains("secret"), "{shown}");
        }
    }

    #[test]
    #[cfg(feature = "redis")]
    fn redis_that_is_down_is_no_error_yet() {
        for url in ["redis://127.0.0.1:1", "Redis://127.0.0.1:1"] {
            assert_eq!(connect(url).map(|backend| backend.name()).unwrap(), "redis");
        }
    }

    #[test]
    #[cfg(feature = "postgres")]
    fn a_url_that_postgres_does_not_understand_is_refused_and_not_quoted() {
        let shown = shown("postgres://user:secret@host:port");
        assert!(shown.starts_with("postgres") && !shown.contains("secret"), "{shown}");
        assert_eq!(connect("postgres://127.0.0.1:1").map(|backend| backend.name()).unwrap(), "postgres");
    }

    #[test]
    #[cfg(feature = "memcached")]
    fn a_url_that_memcached_does_not_understand_is_refused_and_not_quoted() {
        let shown = shown("memcached://user:secret@host");
        assert!(shown.starts_with("memcached") && !shown.contains("secret"), "{shown}");
        let backend = connect("memcached://127.0.0.1:1,127.0.0.1:2").unwrap();
        assert_eq!(backend.name(), "memcached");
    }

    #[test]
    fn a_store_whose_feature_is_off_names_the_feature() {
        for store in STORES.iter().filter(|store| store.open.is_none()) {
            for scheme in store.schemes {
                assert!(
                    shown(&format!("{scheme}://")).contains(&format!("cargo feature {:?}", store.feature))
                );
            }
        }
    }
}
