use super::process::wait_until;
use super::resp::Value;
use super::{Redis, RedisBuilder, ServerError, port};
use std::thread::scope;

/// A Redis Cluster, formed by the test itself.
///
/// Its nodes miss each other after a second, and a replica takes over a second or two later.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<Redis>,
    primaries: usize,
}

const SLOTS: usize = 16_384;

impl RedisCluster {
    /// A cluster of so many primaries, which share the slots evenly, and so many replicas of each.
    ///
    /// It takes about three seconds: a node that has just started waits two before it serves.
    ///
    /// # Errors
    /// Redis is not on this machine, or the cluster does not form.
    pub fn start(primaries: usize, replicas: usize) -> Result<Self, ServerError> {
        Self::start_with(Redis::builder(), primaries, replicas)
    }

    /// The same of nodes with options; where they speak TLS, also with each other.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_with(options: RedisBuilder, primaries: usize, replicas: usize) -> Result<Self, ServerError> {
        let count = primaries * (1 + replicas);
        let options = options.among_others()?;
        let options = if options.speaks_tls() { options.config("tls-cluster", "yes") } else { options };
        let nodes = all(count, |_| {
            options
                .clone()
                .config("cluster-enabled", "yes")
                .config("cluster-config-file", "nodes.conf")
                .config("cluster-node-timeout", "1000")
                // Replicas may take over also where nothing was written for a while.
                .config("cluster-replica-validity-factor", "0")
                .config("cluster-port", port::free()?.to_string())
                .start()
        })?;
        let cluster = Self { nodes, primaries };
        cluster.form()?;
        Ok(cluster)
    }

    /// All nodes: at first the primaries, in the order of their slots, then each one's replicas in turn.
    #[must_use]
    pub fn nodes(&self) -> &[Redis] {
        &self.nodes
    }

    /// The URLs of all nodes.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(Redis::url).collect()
    }

    /// Waits until all nodes that run agree that all slots are served, and replicas follow their primaries.
    ///
    /// # Errors
    /// They do not within 30 seconds.
    pub fn wait_until_ok(&self) -> Result<(), ServerError> {
        wait_until("the cluster is served", || {
            let running = self.nodes.iter().filter(|node| node.pid().is_some());
            for node in running {
                let info = node.command(&["CLUSTER", "INFO"])?;
                let is_ok = info.text().is_some_and(|text| {
                    text.contains("cluster_state:ok") && text.contains("cluster_slots_ok:16384")
                });
                let follows = node.info("master_link_status")?.is_none_or(|status| status == "up");
                if !(is_ok && follows) {
                    return Ok(false);
                }
            }
            Ok(true)
        })
    }

    fn form(&self) -> Result<(), ServerError> {
        let (first, others) = self.nodes.split_first().ok_or_else(|| ServerError::Refused {
            command: "a cluster".to_owned(),
            answer: "it has at least one primary".to_owned(),
        })?;
        for (i, node) in self.nodes[..self.primaries].iter().enumerate() {
            let [from, to] = [i, i + 1].map(|i| SLOTS * i / self.primaries);
            node.command(&["CLUSTER", "ADDSLOTSRANGE", &from.to_string(), &(to - 1).to_string()])?;
        }
        for (i, node) in self.nodes.iter().enumerate() {
            // Two nodes of one epoch would settle first who keeps it.
            node.command(&["CLUSTER", "SET-CONFIG-EPOCH", &(i + 1).to_string()])?;
        }
        for node in others {
            let bus = node.command(&["CONFIG", "GET", "cluster-port"])?;
            let bus = bus.field("cluster-port").and_then(Value::text).unwrap_or_default().to_owned();
            first.command(&["CLUSTER", "MEET", "127.0.0.1", &node.port().to_string(), &bus])?;
        }
        wait_until("the nodes have met", || {
            for node in &self.nodes {
                let nodes = node.command(&["CLUSTER", "NODES"])?;
                let lines = nodes.text().unwrap_or_default().lines();
                if lines.filter(|line| !line.contains("handshake")).count() != self.nodes.len() {
                    return Ok(false);
                }
            }
            Ok(true)
        })?;
        for (i, replica) in self.nodes[self.primaries..].iter().enumerate() {
            let id = self.nodes[i % self.primaries].command(&["CLUSTER", "MYID"])?;
            replica.command(&["CLUSTER", "REPLICATE", id.text().unwrap_or_default()])?;
        }
        self.wait_until_ok()
    }
}

/// Starts servers side by side.
pub(super) fn all(
    count: usize,
    start: impl Fn(usize) -> Result<Redis, ServerError> + Sync,
) -> Result<Vec<Redis>, ServerError> {
    scope(|scope| {
        let start = &start;
        let starting: Vec<_> = (0..count).map(|i| scope.spawn(move || start(i))).collect();
        starting.into_iter().map(|thread| thread.join().expect("starting does not panic")).collect()
    })
}
