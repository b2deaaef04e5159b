//! A backend from a URL.

use crate::Backend;
use std::sync::Arc;

/// A URL that names no store of this build.
///
/// It quotes the scheme alone: the rest of a URL may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The text has no scheme.
    #[error("a store's URL starts with a scheme, such as memory://")]
    NoScheme,
    /// The scheme is no store's.
    #[error("scheme {0:?} is no store's; there is memory://")]
    UnknownScheme(String),
    /// The store is there, and its cargo feature is off.
    #[error("{scheme}:// needs the cargo feature {feature:?} of distributed-rate-limiter")]
    FeatureOff {
        /// The scheme that was asked for.
        scheme: &'static str,
        /// The feature to turn on.
        feature: &'static str,
    },
    /// The URL says more than the store understands.
    #[error("memory:// takes nothing after it")]
    Superfluous,
}

/// The backend that a URL names: `memory://`, the in-process store.
///
/// # Errors
/// No scheme, a scheme that is no store's, or one whose cargo feature is off, which the error names.
///
/// # Example
/// ```
/// use distributed_rate_limiter::connect;
///
/// assert_eq!(connect("memory://")?.name(), "memory");
/// let error = connect("gopher://").err().map(|error| error.to_string());
/// assert_eq!(error.as_deref(), Some("scheme \"gopher\" is no store's; there is memory://"));
/// # Ok::<(), distributed_rate_limiter::ConnectError>(())
/// ```
pub fn connect(url: &str) -> Result<Arc<dyn Backend>, ConnectError> {
    // RFC 3986, section 3.1; what is no scheme may be a password, and is not quoted.
    let is_scheme = |(scheme, _): &(&str, &str)| {
        scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
    };
    let (scheme, rest) = url.split_once("://").filter(is_scheme).ok_or(ConnectError::NoScheme)?;
    match scheme {
        "memory" if !rest.is_empty() => Err(ConnectError::Superfluous),
        "memory" => memory(),
        _ => Err(ConnectError::UnknownScheme(scheme.to_owned())),
    }
}

#[cfg(feature = "memory")]
#[expect(clippy::unnecessary_wraps, reason = "an error where the feature is off")]
fn memory() -> Result<Arc<dyn Backend>, ConnectError> {
    Ok(Arc::new(crate::Memory::new()))
}

#[cfg(not(feature = "memory"))]
fn memory() -> Result<Arc<dyn Backend>, ConnectError> {
    Err(ConnectError::FeatureOff { scheme: "memory", feature: "memory" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_without_a_scheme_is_refused() {
        assert_eq!(connect("memory").err(), Some(ConnectError::NoScheme));
        assert_eq!(connect("user:secret://host").err(), Some(ConnectError::NoScheme));
    }

    #[test]
    fn what_follows_memory_is_refused_and_not_quoted() {
        let error = connect("memory://user:secret@host").err();
        assert_eq!(error, Some(ConnectError::Superfluous));
        assert!(error.is_some_and(|e| !format!("{e} {e:?}").contains("secret")));
    }

    #[test]
    #[cfg(not(feature = "memory"))]
    fn a_store_whose_feature_is_off_names_the_feature() {
        let error = connect("memory://").err().map(|e| e.to_string());
        assert!(error.is_some_and(|e| e.contains("cargo feature \"memory\"")));
    }
}
