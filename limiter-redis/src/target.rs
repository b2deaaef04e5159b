//! Where the store is: a server, a cluster, or whatever Sentinel names; and how to reach it.

use crate::builder::{Certificates, ConfigError};
use crate::link::Dial;
use async_trait::async_trait;
use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::aio::MultiplexedConnection;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion,
    RedisError, parse_redis_url,
};
use std::fmt;
use std::time::Duration;
use tokio::time::timeout;

/// Where the store is.
#[derive(Clone)]
pub(crate) enum Target {
    /// One server.
    Node(Client),
    /// The servers that know the others, and how all are reached.
    Cluster(Seeds),
    /// The primary that Sentinel names.
    Sentinel(Sentinel),
}

/// Some servers of a cluster, and how every one is reached but for its address.
#[derive(Clone)]
pub(crate) struct Seeds {
    pub(crate) pattern: Node,
    pub(crate) nodes: Vec<Node>,
}

/// A server that can be dialled.
#[derive(Clone)]
pub(crate) struct Node {
    info: ConnectionInfo,
    certificates: Certificates,
}

/// Sentinels, the service that they watch, and how its primary is reached.
#[derive(Clone)]
pub(crate) struct Sentinel {
    sentinels: Vec<ConnectionAddr>,
    /// How the sentinels are logged in to.
    login: Login,
    service: String,
    primary: Node,
}

/// What a sentinel may ask for, which is no server's that it names.
#[derive(Clone, Default)]
struct Login {
    username: Option<String>,
    password: Option<String>,
}

impl Target {
    /// The server of a client that is ready.
    pub(crate) fn of_client(client: &Client) -> Result<Self, ConfigError> {
        let info = tuned(client.get_connection_info().clone());
        Ok(Self::Node(Client::open(info).map_err(ConfigError::driver)?))
    }

    #[cfg(feature = "tls")]
    pub(crate) fn speaks_tls(&self) -> bool {
        let address = match self {
            Self::Node(client) => client.get_connection_info().addr(),
            Self::Cluster(seeds) => seeds.pattern.info.addr(),
            Self::Sentinel(sentinel) => sentinel.primary.info.addr(),
        };
        matches!(address, ConnectionAddr::TcpTls { .. })
    }

    /// The target of a URL; see [`RedisBuilder`](crate::RedisBuilder) for their forms.
    pub(crate) fn parse(url: &str, certificates: &Certificates) -> Result<Self, ConfigError> {
        let (scheme, rest) = url.split_once("://").ok_or(ConfigError::NoScheme)?;
        if scheme.starts_with("rediss") && !cfg!(feature = "tls") {
            return Err(ConfigError::NoTls);
        }
        match scheme {
            "redis-cluster" => Ok(Self::Cluster(seeds("redis", rest, certificates)?)),
            "rediss-cluster" => Ok(Self::Cluster(seeds("rediss", rest, certificates)?)),
            "redis-sentinel" => Ok(Self::Sentinel(sentinel("redis", rest, certificates)?)),
            "rediss-sentinel" => Ok(Self::Sentinel(sentinel("rediss", rest, certificates)?)),
            "redis" | "rediss" | "redis+unix" | "unix" => {
                Ok(Self::Node(Node::parse(url, certificates)?.client().map_err(ConfigError::driver)?))
            }
            _ => Err(ConfigError::UnknownScheme),
        }
    }
}

/// `user:password@a:1,b:2/path?query` as one URL per host.
fn split(scheme: &str, rest: &str) -> Vec<String> {
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (user, hosts) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
    hosts.split(',').map(|host| format!("{scheme}://{user}{host}{path}")).collect()
}

fn nodes(scheme: &str, rest: &str, certificates: &Certificates) -> Result<Vec<Node>, ConfigError> {
    split(scheme, rest).iter().map(|url| Node::parse(url, certificates)).collect()
}

fn seeds(scheme: &str, rest: &str, certificates: &Certificates) -> Result<Seeds, ConfigError> {
    let nodes = nodes(scheme, rest, certificates)?;
    let pattern = nodes.first().cloned().ok_or(ConfigError::NoScheme)?;
    Ok(Seeds { pattern, nodes })
}

/// `user:password@a:26379,b:26379/service?db=0&sentinel_password=..`: the sentinels, and after the slash what they watch.
fn sentinel(scheme: &str, rest: &str, certificates: &Certificates) -> Result<Sentinel, ConfigError> {
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, service) = rest.rsplit_once('/').ok_or(ConfigError::NoService)?;
    if service.is_empty() {
        return Err(ConfigError::NoService);
    }
    let (login, query) = login(query);
    let nodes = nodes(scheme, &format!("{authority}?{query}"), certificates)?;
    let primary = nodes.first().cloned().ok_or(ConfigError::NoScheme)?;
    let sentinels = nodes.into_iter().map(|node| node.info.addr().clone()).collect();
    Ok(Sentinel { sentinels, login, service: service.to_owned(), primary })
}

/// How a query says that sentinels are logged in to, and what else it says.
fn login(query: &str) -> (Login, String) {
    let (own, rest): (Vec<&str>, Vec<&str>) =
        query.split('&').partition(|pair| pair.starts_with("sentinel_"));
    let mut login = Login::default();
    if let Some(url) = parse_redis_url(&format!("redis://sentinel?{}", own.join("&"))) {
        for (name, value) in url.query_pairs() {
            match &*name {
                "sentinel_username" => login.username = Some(value.into_owned()),
                "sentinel_password" => login.password = Some(value.into_owned()),
                _ => {}
            }
        }
    }
    (login, rest.join("&"))
}

impl Node {
    fn parse(url: &str, certificates: &Certificates) -> Result<Self, ConfigError> {
        let chooses_protocol = url.contains("protocol=");
        let info = url.into_connection_info().map_err(ConfigError::driver)?;
        let info = if chooses_protocol {
            info
        } else {
            // RESP3 notices a lost connection before the next request has to.
            let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
            info.set_redis_settings(settings)
        };
        Ok(Self { info: tuned(info), certificates: certificates.clone() })
    }

    /// The server at another address that is reached in the same way.
    pub(crate) fn at(&self, host: &str, port: u16) -> Self {
        let address = match self.info.addr() {
            ConnectionAddr::TcpTls { insecure, tls_params, .. } => ConnectionAddr::TcpTls {
                host: host.to_owned(),
                port,
                insecure: *insecure,
                tls_params: tls_params.clone(),
            },
            _ => ConnectionAddr::Tcp(host.to_owned(), port),
        };
        Self { info: self.info.clone().set_addr(address), certificates: self.certificates.clone() }
    }

    /// Host and port.
    pub(crate) fn address(&self) -> (&str, u16) {
        match self.info.addr() {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => (host, *port),
            _ => ("", 0),
        }
    }

    fn client(&self) -> Result<Client, RedisError> {
        self.certificates.client(self.info.clone())
    }
}

/// Small packets go at once, and a connection that leads nowhere ends.
fn tuned(info: ConnectionInfo) -> ConnectionInfo {
    let settings = info.tcp_settings().clone().set_nodelay(true);
    #[cfg(target_os = "linux")]
    let settings = settings.set_user_timeout(UNACKNOWLEDGED);
    info.set_tcp_settings(settings)
}

/// The kernel gives up a connection on which nothing was acknowledged for so long.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: Duration = Duration::from_secs(5);

/// Dials a server, with nothing left to the driver's defaults: deadlines, repeating and connecting are ours.
async fn dial(client: &Client) -> Result<MultiplexedConnection, RedisError> {
    client.get_multiplexed_async_connection_with_config(&settings()).await
}

fn settings() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None)
        .set_pipeline_buffer_size(1_024)
        .set_write_backpressure_boundary(64 * 1_024)
}

#[async_trait]
impl Dial for Client {
    async fn dial(&self) -> Result<MultiplexedConnection, RedisError> {
        dial(self).await
    }
}

#[async_trait]
impl Dial for Node {
    async fn dial(&self) -> Result<MultiplexedConnection, RedisError> {
        dial(&self.client()?).await
    }
}

/// How long a sentinel has for itself, before the next is asked too.
const HEAD_START: Duration = Duration::from_millis(50);

#[async_trait]
impl Dial for Sentinel {
    /// Asks the sentinels one after another; one that hangs holds up the next no longer than its head start.
    async fn dial(&self) -> Result<MultiplexedConnection, RedisError> {
        let mut rest = self.sentinels.iter();
        let (mut asked, mut failed) = (FuturesUnordered::new(), None);
        loop {
            asked.extend(rest.next().map(|sentinel| self.dial_by(sentinel)));
            let answer = if rest.len() == 0 {
                asked.next().await
            } else {
                let Ok(answer) = timeout(HEAD_START, asked.next()).await else { continue };
                answer
            };
            match answer {
                Some(Ok(connection)) => return Ok(connection),
                Some(Err(error)) => failed = failed.into_iter().chain([error]).max_by_key(telling),
                None => return Err(failed.unwrap_or_else(none_named)),
            }
        }
    }
}

/// How much an error tells of why there is no primary: a sentinel, or a primary, that is away, the least.
fn telling(error: &RedisError) -> u8 {
    match error.kind() {
        redis::ErrorKind::Io => 0,
        redis::ErrorKind::MasterNameNotFoundBySentinel => 1,
        _ => 2,
    }
}

fn none_named() -> RedisError {
    RedisError::from((redis::ErrorKind::InvalidClientConfig, "the URL names no sentinel"))
}

impl Sentinel {
    /// The primary that one sentinel names.
    async fn dial_by(&self, sentinel: &ConnectionAddr) -> Result<MultiplexedConnection, RedisError> {
        let info = &self.primary.info;
        let settings = info.redis_settings();
        let mut builder =
            SentinelClientBuilder::new([sentinel.clone()], &self.service, SentinelServerType::Master)?
                .set_client_to_redis_db(settings.db())
                .set_client_to_redis_protocol(settings.protocol())
                .set_client_to_redis_tcp_settings(info.tcp_settings().clone());
        if let Some(username) = settings.username() {
            builder = builder.set_client_to_redis_username(username);
        }
        if let Some(password) = settings.password() {
            builder = builder.set_client_to_redis_password(password);
        }
        if let Some(username) = &self.login.username {
            builder = builder.set_client_to_sentinel_username(username);
        }
        if let Some(password) = &self.login.password {
            builder = builder.set_client_to_sentinel_password(password);
        }
        #[cfg(feature = "tls")]
        if matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
            let certificates = self.primary.certificates.for_driver();
            builder = builder
                .set_client_to_redis_tls_mode(redis::TlsMode::Secure)
                .set_client_to_redis_certificates(certificates.clone())
                .set_client_to_sentinel_tls_mode(redis::TlsMode::Secure)
                .set_client_to_sentinel_certificates(certificates);
        }
        builder.build()?.get_async_connection_with_config(&self::settings()).await
    }
}

/// Addresses alone: the rest of a target holds passwords.
impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.info.addr())
    }
}

impl fmt::Debug for Sentinel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} by {}", self.service, Addresses(&self.sentinels))
    }
}

struct Addresses<'a>(&'a [ConnectionAddr]);

impl fmt::Display for Addresses<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&addresses.join(","))
    }
}
