//! Memcached, and bare commands on it.

use super::{Fallible, Store};
use crate::load::Contestant;
use crate::pipeline::Pipeline;
use async_trait::async_trait;
use limiter_core::Backend;
use limiter_memcached::MemcachedBuilder;
use limiter_memcached::memcache::exp::{AsyncMetaClient, Meta};
use limiter_testkit::servers;
use std::sync::Arc;
use std::time::Duration;

/// One read.
pub const GET: &str = "get";

/// One read, and one write that is applied if nobody else has written in between.
pub const GET_AND_CAS: &str = "get + cas";

/// One increment.
pub const INCR: &str = "incr";

/// What the driver's calls stand between the library and.
pub const PIPELINED: &str = "incr, multiplexed by hand";

/// The server, and the keys that it is asked about.
pub struct Memcached {
    server: servers::Memcached,
    /// Another one, empty for each weighing: what a flush leaves is counted until its place is taken.
    scales: servers::Memcached,
    client: AsyncMetaClient,
    pipeline: Pipeline,
    names: Arc<[String]>,
}

impl std::fmt::Debug for Memcached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memcached").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Memcached {
    /// Starts a server.
    ///
    /// # Errors
    /// It is not on this machine, or does not come up.
    pub async fn start(names: Arc<[String]>) -> Fallible<Self> {
        let server = servers::Memcached::builder().args(["-m", "512"]).start()?;
        let client = AsyncMetaClient::builder().max_connections(Some(32)).max_idle(32);
        let client = client.connect_async(server.addr()).await?;
        let pipeline = Pipeline::connect(server.addr()).await?;
        Ok(Self { server, scales: servers::Memcached::start()?, client, pipeline, names })
    }

    /// The keys, by their indices.
    #[must_use]
    pub const fn names(&self) -> &Arc<[String]> {
        &self.names
    }

    /// The library on it.
    pub fn builder(&self) -> MemcachedBuilder {
        // A busy machine is no outage.
        limiter_memcached::Memcached::builder(self.server.url()).timeout(Duration::from_secs(5))
    }

    /// One read with its version per question.
    ///
    /// # Panics
    /// The caller that an error answers.
    #[must_use]
    pub fn get(&self) -> Contestant {
        let (client, names) = (self.client.clone(), Arc::clone(&self.names));
        Contestant::new(GET, move |key: usize| {
            let (client, names) = (client.clone(), Arc::clone(&names));
            async move {
                let got = client.get(&names[key]).meta(Meta::NONE.cas()).send().await;
                assert!(got.is_ok(), "{got:?}");
            }
        })
    }

    /// One read and one write per question, whether or not the write is applied: what a limiter could not do without.
    ///
    /// # Panics
    /// The caller that an error answers.
    #[must_use]
    pub fn get_and_cas(&self) -> Contestant {
        let (client, names) = (self.client.clone(), Arc::clone(&self.names));
        Contestant::new(GET_AND_CAS, move |key: usize| {
            let (client, names) = (client.clone(), Arc::clone(&names));
            async move {
                let name = format!("cas:{}", names[key]);
                let got = client.get(&name).meta(Meta::NONE.cas()).send().await;
                let version = got.unwrap_or_else(|error| panic!("{error}")).item.cas;
                let set = client.set(&name, b"1795465002435613").ttl_raw(3_600);
                let set = match version {
                    Some(version) => set.compare_cas(version).send().await,
                    None => set.add().send().await,
                };
                assert!(set.is_ok(), "{set:?}");
            }
        })
    }

    /// One increment per question.
    ///
    /// # Panics
    /// The caller that an error answers.
    #[must_use]
    pub fn incr(&self) -> Contestant {
        let (client, names) = (self.client.clone(), Arc::clone(&self.names));
        Contestant::new(INCR, move |key: usize| {
            let (client, names) = (client.clone(), Arc::clone(&names));
            async move {
                let counted = client.increment(&names[key]).initial(1, 3_600).send().await;
                assert!(counted.is_ok(), "{counted:?}");
            }
        })
    }

    /// One increment per question, through one connection on which whatever is asked at the same time goes together.
    ///
    /// # Panics
    /// The caller that no reply answers.
    #[must_use]
    pub fn pipelined(&self) -> Contestant {
        let (pipeline, names) = (self.pipeline.clone(), Arc::clone(&self.names));
        Contestant::new(PIPELINED, move |key: usize| {
            let (pipeline, names) = (pipeline.clone(), Arc::clone(&names));
            async move {
                let command = format!("ma {} N3600 J1\r\n", names[key]).into_bytes();
                assert!(pipeline.ask(command).await, "no reply");
            }
        })
    }

    fn weight(&self, name: &str) -> Fallible<u64> {
        Ok(self.scales.stat(name)?.ok_or_else(|| format!("no {name} in stats"))?.parse()?)
    }
}

#[async_trait]
impl Store for Memcached {
    fn name(&self) -> &'static str {
        "memcached"
    }

    async fn version(&self) -> Fallible<String> {
        Ok(format!("Memcached {}", self.server.stat("version")?.unwrap_or_default()))
    }

    async fn bare(&self) -> Fallible<Vec<Contestant>> {
        Ok(vec![self.get_and_cas(), self.incr(), self.pipelined()])
    }

    async fn backend(&self, weighed: bool) -> Fallible<Arc<dyn Backend>> {
        if weighed {
            self.scales.kill();
            self.scales.restart()?;
            return Ok(Arc::new(limiter_memcached::Memcached::builder(self.scales.url()).build()?));
        }
        Ok(Arc::new(self.builder().build()?))
    }

    async fn bytes_per_key(&self, keys: u64) -> Fallible<f64> {
        let items = self.weight("curr_items")?;
        if items != keys {
            return Err(format!("{items} items, not {keys}").into());
        }
        Ok(crate::float(self.weight("bytes")?) / crate::float(keys))
    }

    fn counts_bytes_by(&self) -> &'static str {
        "stats: bytes by curr_items, without the rest of a slab's chunk"
    }
}
