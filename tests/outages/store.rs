//! The stores: a row each.

use distributed_rate_limiter::{Backend, Memcached, Postgres, Redis};
use limiter_testkit::servers::{self, Process};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::runtime::Runtime;

pub(crate) struct Store {
    pub(crate) name: &'static str,
    /// The most connections that one instance has.
    pub(crate) connections: usize,
    pub(crate) start: fn(&Runtime) -> Box<dyn Server>,
}

pub(crate) const ALL: &[Store] = &[
    Store { name: "redis", connections: 1, start: |_| Box::new(servers::Redis::start().expect("a Redis")) },
    Store {
        name: "postgres",
        connections: 8,
        start: |runtime| {
            let server = servers::Postgres::start().expect("a PostgreSQL");
            let setup = Postgres::connect(server.url()).expect("a URL of PostgreSQL");
            runtime.block_on(setup.migrate()).expect("a schema");
            Box::new(server)
        },
    },
    Store {
        name: "memcached",
        connections: 8,
        start: |_| Box::new(servers::Memcached::start().expect("a Memcached")),
    },
];

/// A server, which any number of backends ask.
pub(crate) trait Server {
    fn process(&self) -> &Process;

    /// A backend with connections of its own, to the server or what stands before it.
    fn backend(&self, addr: SocketAddr) -> Arc<dyn Backend>;
}

impl Server for servers::Redis {
    fn process(&self) -> &Process {
        self
    }

    fn backend(&self, addr: SocketAddr) -> Arc<dyn Backend> {
        Arc::new(Redis::connect(format!("redis://{addr}")).expect("a URL of Redis"))
    }
}

impl Server for servers::Postgres {
    fn process(&self) -> &Process {
        self
    }

    fn backend(&self, addr: SocketAddr) -> Arc<dyn Backend> {
        let url = self.url().replace(&self.addr().to_string(), &addr.to_string());
        Arc::new(Postgres::connect(url).expect("a URL of PostgreSQL"))
    }
}

impl Server for servers::Memcached {
    fn process(&self) -> &Process {
        self
    }

    fn backend(&self, addr: SocketAddr) -> Arc<dyn Backend> {
        Arc::new(Memcached::connect(format!("memcached://{addr}")).expect("a URL of Memcached"))
    }
}
