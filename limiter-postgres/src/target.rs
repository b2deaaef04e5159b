//! Where the server is, and how it is connected to.

use crate::builder::{Certificates, ConfigError};
use deadpool_postgres::{Manager, ManagerConfig, RecyclingMethod};
use std::time::Duration;
use tokio_postgres::config::{Config, SslMode};

/// How long what was sent may stay unacknowledged before the system gives a connection up.
const UNACKNOWLEDGED: Duration = Duration::from_secs(5);

/// Connects as a URL says; see [`PostgresBuilder`](crate::PostgresBuilder) for its forms.
pub(crate) fn manager(
    url: &str,
    certificates: &Certificates,
    connect_timeout: Duration,
) -> Result<Manager, ConfigError> {
    let mut config = parse(url, certificates)?;
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(connect_timeout);
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(UNACKNOWLEDGED);
    }
    if config.get_application_name().is_none() {
        config.application_name("limiter-postgres");
    }
    config.keepalives_idle(Duration::from_secs(15));
    let fast = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    if config.get_ssl_mode() == SslMode::Disable {
        return Ok(Manager::from_config(config, tokio_postgres::NoTls, fast));
    }
    certificates.manager(config, fast)
}

/// TLS that is asked for is verified, and never given up for less; one that is not asked for is not tried.
fn parse(url: &str, certificates: &Certificates) -> Result<Config, ConfigError> {
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(ConfigError::Scheme);
    }
    // What other clients call verified is what we call required.
    let mut plain = url.to_owned();
    for mode in ["verify-full", "verify-ca"] {
        for mark in ['?', '&'] {
            plain = plain.replace(&format!("{mark}sslmode={mode}"), &format!("{mark}sslmode=require"));
        }
    }
    let mut config: Config = plain.parse().map_err(|_quotes_what_it_read| ConfigError::Url)?;
    if config.get_ssl_mode() == SslMode::Prefer {
        config.ssl_mode(if certificates.are_given() { SslMode::Require } else { SslMode::Disable });
    }
    Ok(config)
}

impl Certificates {
    #[cfg(feature = "tls")]
    fn manager(&self, config: Config, fast: ManagerConfig) -> Result<Manager, ConfigError> {
        use rustls::pki_types::CertificateDer;
        use rustls::pki_types::pem::PemObject;
        use std::sync::Arc;

        let mut roots = rustls::RootCertStore::empty();
        if let Some(pem) = &self.root {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let refused = |error: &dyn std::fmt::Display| ConfigError::Certificate(error.to_string());
                let certificate = certificate.map_err(|error| refused(&error))?;
                roots.add(certificate).map_err(|error| refused(&error))?;
            }
        } else {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        if roots.is_empty() {
            return Err(ConfigError::Certificate("there is none".to_owned()));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| ConfigError::Certificate(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Manager::from_config(config, tokio_postgres_rustls::MakeRustlsConnect::new(tls), fast))
    }

    #[cfg(not(feature = "tls"))]
    #[expect(clippy::unused_self, reason = "used with the feature")]
    fn manager(&self, _config: Config, _fast: ManagerConfig) -> Result<Manager, ConfigError> {
        Err(ConfigError::NoTls)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(url: &str, root: Option<Vec<u8>>) -> Option<SslMode> {
        parse(url, &Certificates { root }).ok().map(|config| config.get_ssl_mode())
    }

    #[test]
    fn tls_is_used_if_asked_for_and_then_never_given_up() {
        assert_eq!(mode("postgres://h/d", None), Some(SslMode::Disable));
        assert_eq!(mode("postgres://h/d?sslmode=prefer", None), Some(SslMode::Disable));
        assert_eq!(mode("postgres://h/d", Some(vec![])), Some(SslMode::Require));
        for required in ["require", "verify-ca", "verify-full"] {
            assert_eq!(mode(&format!("postgresql://h/d?a=b&sslmode={required}"), None), None);
            assert_eq!(mode(&format!("postgresql://h/d?sslmode={required}"), None), Some(SslMode::Require));
        }
    }

    #[test]
    fn a_url_that_is_refused_is_not_quoted() {
        for url in ["secret", "mysql://secret@h", "postgres://u:secret@h:port", "postgres://h?secret=1"] {
            let error = parse(url, &Certificates::default()).map(|_| ()).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("secret"), "{error}");
        }
    }
}
