//! PostgreSQL as production runs it, and a bare upsert of one row.

use super::{Fallible, Store};
use crate::load::Contestant;
use async_trait::async_trait;
use limiter_core::{Backend, Coalesce, CoalesceConfig};
use limiter_postgres::deadpool_postgres::{Config, Pool, PoolConfig, Runtime};
use limiter_postgres::{Durability, PostgresBuilder};
use limiter_testkit::servers;
use std::sync::Arc;
use std::time::Duration;
use tokio_postgres::NoTls;

/// Connections of each pool, the library's and the bare one.
pub const CONNECTIONS: usize = 16;

/// The bare command.
pub const UPSERT: &str = "upsert";

const WEIGHED: &str = "weighed";

/// The server, which waits for its disk where the durability says so, and the keys that it is asked about.
#[derive(Debug)]
pub struct Postgres {
    server: servers::Postgres,
    names: Arc<[String]>,
}

impl Postgres {
    /// Starts a server.
    ///
    /// # Errors
    /// It is not on this machine, or does not come up.
    pub fn start(names: Arc<[String]>) -> Fallible<Self> {
        let server = servers::Postgres::builder()
            .config("fsync", "on")
            .config("full_page_writes", "on")
            .config("shared_buffers", "256MB")
            .config("max_connections", "200")
            .start()?;
        Ok(Self { server, names })
    }

    /// The keys, by their indices.
    #[must_use]
    pub const fn names(&self) -> &Arc<[String]> {
        &self.names
    }

    /// A pool of connections.
    ///
    /// # Errors
    /// None: the URL is the server's own.
    pub fn pool(&self) -> Fallible<Pool> {
        let config = Config {
            url: Some(self.server.url()),
            pool: Some(PoolConfig::new(CONNECTIONS)),
            ..Config::default()
        };
        Ok(config.create_pool(Some(Runtime::Tokio1), NoTls)?)
    }

    /// The library with a pool of its own.
    pub fn builder(&self) -> PostgresBuilder {
        // A busy machine is no outage.
        limiter_postgres::Postgres::builder(self.server.url())
            .connections(CONNECTIONS)
            .timeout(Duration::from_secs(5))
    }

    /// A bare upsert of one row per question, as durable as this.
    ///
    /// # Errors
    /// The server cannot be reached.
    ///
    /// # Panics
    /// The caller that an error answers.
    pub async fn upsert(&self, durability: Durability) -> Fallible<Contestant> {
        let pool = self.pool()?;
        let (kind, commit) = match durability {
            Durability::Unlogged => ("UNLOGGED", "off"),
            Durability::Asynchronous => ("", "off"),
            Durability::Full => ("", "on"),
        };
        let setup = format!(
            "DROP TABLE IF EXISTS bare; \
             CREATE {kind} TABLE bare (key bytea PRIMARY KEY, n bigint NOT NULL) WITH (fillfactor = 50); \
             ALTER ROLE limiter SET synchronous_commit = {commit}"
        );
        pool.get().await?.batch_execute(&setup).await?;
        // Its sessions have the role's new setting.
        let (pool, names) = (self.pool()?, Arc::clone(&self.names));
        Ok(Contestant::new(UPSERT, move |key: usize| {
            let (pool, names) = (pool.clone(), Arc::clone(&names));
            async move {
                let client = pool.get().await.unwrap_or_else(|error| panic!("{error}"));
                let statement = client.prepare_cached(
                    "INSERT INTO bare AS b (key, n) VALUES ($1, $2) \
                     ON CONFLICT (key) DO UPDATE SET n = b.n + excluded.n RETURNING n",
                );
                let statement = statement.await.unwrap_or_else(|error| panic!("{error}"));
                let row = client.query_one(&statement, &[&names[key].as_bytes(), &1_i64]).await;
                assert!(row.is_ok(), "{row:?}");
            }
        }))
    }
}

#[async_trait]
impl Store for Postgres {
    fn name(&self) -> &'static str {
        "postgres"
    }

    async fn version(&self) -> Fallible<String> {
        let version = self.server.sql("SHOW server_version")?;
        Ok(format!("PostgreSQL {}", version.split_whitespace().next().unwrap_or_default()))
    }

    async fn bare(&self) -> Fallible<Vec<Contestant>> {
        Ok(vec![self.upsert(Durability::default()).await?])
    }

    async fn backend(&self, weighed: bool) -> Fallible<Arc<dyn Backend>> {
        let mut builder = self.builder();
        if weighed {
            self.server.sql(&format!("DROP TABLE IF EXISTS {WEIGHED}, {WEIGHED}_log, {WEIGHED}_meta"))?;
            builder = builder.table(WEIGHED);
        }
        let postgres = builder.build()?;
        postgres.migrate().await?;
        Ok(Arc::new(Coalesce::new(postgres, CoalesceConfig::new())))
    }

    async fn bytes_per_key(&self, keys: u64) -> Fallible<f64> {
        let sizes =
            format!("SELECT pg_total_relation_size('{WEIGHED}') + pg_total_relation_size('{WEIGHED}_log')");
        let bytes: u64 = self.server.sql(&sizes)?.parse()?;
        Ok(crate::float(bytes) / crate::float(keys))
    }

    fn counts_bytes_by(&self) -> &'static str {
        "pg_total_relation_size: tables, half-empty pages and indices"
    }
}
