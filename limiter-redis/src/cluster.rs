//! A Redis Cluster: which server has which slot, learnt from the servers and from their redirections.

use crate::error::unsent;
use crate::link::Link;
use crate::route::Slot;
use crate::server::{Advice, Call, CallError, Patience, Server};
use crate::target::{Node, Seeds};
use limiter_core::{BackendError, ErrorKind, Request, Shard};
use redis::Value;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

/// The servers of a cluster. Each has a connection of its own, so that one that is down fails only its own keys.
#[derive(Clone)]
pub(crate) struct Cluster {
    shared: Arc<Shared>,
}

struct Shared {
    /// How every server is reached, but for its address.
    pattern: Node,
    seeds: Vec<Node>,
    connect_timeout: Duration,
    most_in_flight: usize,
    /// Old maps serve until there is a new one.
    map: watch::Sender<Arc<Map>>,
    is_learning: AtomicBool,
}

/// Who has which slot.
#[derive(Clone, Default)]
struct Map {
    /// In the order in which they became known; a server keeps its place.
    members: Vec<Member>,
    /// The place of the server that has a slot, by slot; empty as long as none is known.
    slots: Vec<Option<u16>>,
}

#[derive(Clone)]
struct Member {
    node: Node,
    server: Arc<Server>,
}

/// How often a call follows redirections in a row.
const MOST_REDIRECTIONS: usize = 5;

/// Between two looks whether a request's keys are together again, which are on their way to another server.
const TRY_AGAIN_PAUSE: Duration = Duration::from_millis(5);

/// From so many members on, those that left long ago are forgotten: a cluster has at most 1,000.
const MOST_MEMBERS: usize = 2_000;

/// Between two looks at who has which slot.
const LEARNING_PAUSE: Duration = Duration::from_millis(50);

/// How long a server may take to say who has which slot.
const LEARNING_TIMEOUT: Duration = Duration::from_millis(500);

impl Cluster {
    pub(crate) fn new(seeds: Seeds, connect_timeout: Duration, most_in_flight: usize) -> Self {
        let Seeds { pattern, nodes: seeds } = seeds;
        let map = watch::Sender::new(Arc::default());
        let is_learning = AtomicBool::new(false);
        Self {
            shared: Arc::new(Shared { pattern, seeds, connect_timeout, most_in_flight, map, is_learning }),
        }
    }

    /// Runs a script on the server that has the slot, following redirections: what is redirected was not applied.
    ///
    /// Where some of its keys are here and some there, it is for the caller to send them apart; who cannot, `waits`.
    pub(crate) async fn call(
        &self,
        slot: Slot,
        call: &Call<'_>,
        patience: Patience,
        waits: bool,
    ) -> Result<Value, CallError> {
        let give_up = Instant::now() + patience.reply_within;
        let mut server = self.server(slot, call.operation, patience).await?;
        let (mut asking, mut redirections) = (false, 0);
        loop {
            let left = give_up.saturating_duration_since(Instant::now());
            let failed = match server.call(call, Patience { reply_within: left, ..patience }, asking).await {
                Ok(value) => return Ok(value),
                Err(failed) => failed,
            };
            (asking, redirections) = (false, redirections + 1);
            match &failed.advice {
                Some(_) if redirections == MOST_REDIRECTIONS => {
                    let message = "the slot was redirected too often";
                    return Err(unsent(ErrorKind::Unavailable, call.operation, message).into());
                }
                Some(Advice::Moved(address)) => {
                    self.learn();
                    server = self.server_at(address);
                }
                Some(Advice::Ask(address)) => {
                    asking = true;
                    server = self.server_at(address);
                }
                Some(Advice::TryAgain) => {
                    let pause = TRY_AGAIN_PAUSE.mul_f64(0.5 + fastrand::f64());
                    if !waits || Instant::now() + pause >= give_up {
                        return Err(failed);
                    }
                    sleep(pause).await;
                    // From the start: the slot may have arrived meanwhile.
                    server = self.server(slot, call.operation, patience).await?;
                    redirections = 0;
                }
                None => {
                    if failed.error.is_outage() {
                        self.learn();
                    }
                    return Err(failed);
                }
            }
        }
    }

    /// Which server the request needs, by its place among those known.
    pub(crate) fn shard(&self, request: &Request) -> Shard {
        let map = self.shared.map.borrow();
        let mut places = request.checks().iter().map(|check| map.place(Slot::of(&check.key)));
        let first = places.next().flatten();
        if places.any(|place| place != first) {
            return Shard::Many;
        }
        Shard::One(first.map_or(0, u32::from))
    }

    /// Any server, to ask something that all know; each in turn.
    pub(crate) async fn servers(
        &self,
        operation: &'static str,
        patience: Patience,
    ) -> Result<Vec<Arc<Server>>, BackendError> {
        let map = self.map(operation, patience).await?;
        let mut places: Vec<u16> = map.slots.iter().flatten().copied().collect();
        places.sort_unstable();
        places.dedup();
        Ok(places
            .iter()
            .filter_map(|place| map.member(*place))
            .map(|member| Arc::clone(&member.server))
            .collect())
    }

    async fn server(
        &self,
        slot: Slot,
        operation: &'static str,
        patience: Patience,
    ) -> Result<Arc<Server>, BackendError> {
        let map = self.map(operation, patience).await?;
        let Some(member) = map.place(slot).and_then(|place| map.member(place)) else {
            self.learn();
            return Err(unsent(ErrorKind::Unavailable, operation, "no server of the cluster has the slot"));
        };
        Ok(Arc::clone(&member.server))
    }

    /// The map, waiting for the first one.
    async fn map(&self, operation: &'static str, patience: Patience) -> Result<Arc<Map>, BackendError> {
        let known = Arc::clone(&self.shared.map.borrow());
        if !known.slots.is_empty() {
            return Ok(known);
        }
        if Handle::try_current().is_err() {
            return Err(unsent(ErrorKind::Config, operation, "a tokio runtime is needed, and there is none"));
        }
        self.learn();
        let late = Instant::now() + patience.reply_within;
        let until = patience.send_by.map_or(late, |by| by.min(late));
        let mut maps = self.shared.map.subscribe();
        match timeout_at(until, maps.wait_for(|map| !map.slots.is_empty())).await {
            Ok(Ok(map)) => Ok(Arc::clone(&map)),
            _ => Err(unsent(
                ErrorKind::Unavailable,
                operation,
                "no server of the cluster says who has which slot",
            )),
        }
    }

    /// The server at an address that a redirection named.
    fn server_at(&self, address: &str) -> Arc<Server> {
        let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
        let port = port.parse().unwrap_or(0);
        let mut server = None;
        self.shared.map.send_if_modified(|map| {
            if let Some(known) = map.find(host, port) {
                server = Some(Arc::clone(&known.server));
                return false;
            }
            let mut grown = Map::clone(map);
            server = grown
                .place_of(&self.shared, host, port)
                .and_then(|place| grown.member(place))
                .map(|m| Arc::clone(&m.server));
            *map = Arc::new(grown);
            true
        });
        server.unwrap_or_else(|| Arc::new(self.shared.server(&self.shared.node(host, port))))
    }

    /// Looks anew who has which slot, in a task of its own, one at a time.
    fn learn(&self) {
        let Ok(runtime) = Handle::try_current() else { return };
        if self.shared.is_learning.swap(true, Ordering::AcqRel) {
            return;
        }
        // Also when the task is lost with its runtime.
        let done = Learning(Arc::clone(&self.shared));
        runtime.spawn(async move {
            let shared = &done.0;
            if let Some(slots) = shared.ask().await {
                shared.map.send_modify(|map| *map = Arc::new(map.with(shared, &slots)));
            }
            sleep(LEARNING_PAUSE.mul_f64(0.5 + fastrand::f64())).await;
        });
    }
}

struct Learning(Arc<Shared>);

impl Drop for Learning {
    fn drop(&mut self) {
        self.0.is_learning.store(false, Ordering::Release);
    }
}

impl Shared {
    fn server(&self, node: &Node) -> Server {
        Server::new(Link::new(node.clone(), self.connect_timeout), self.most_in_flight)
    }

    fn node(&self, host: &str, port: u16) -> Node {
        self.pattern.at(host, port)
    }

    /// Asks the servers in random order, the known ones first, until one says who has which slot.
    async fn ask(&self) -> Option<Vec<Range>> {
        let map = Arc::clone(&self.map.borrow());
        let mut members = map.members.clone();
        fastrand::shuffle(&mut members);
        let seeds =
            self.seeds.iter().map(|node| Member { node: node.clone(), server: Arc::new(self.server(node)) });
        members.extend(seeds);
        let patience = Patience { send_by: None, reply_within: LEARNING_TIMEOUT };
        for member in members {
            let command = redis::cmd("CLUSTER").arg("SLOTS").to_owned();
            if let Ok(reply) = member.server.command("learn", &command, patience).await
                && let Some(ranges) = ranges(reply, member.node.address().0)
            {
                return Some(ranges);
            }
        }
        None
    }
}

/// Slots that one server has.
struct Range {
    from: usize,
    to: usize,
    host: String,
    port: u16,
}

/// The reply to CLUSTER SLOTS; a server that does not know its own name is where it was asked.
fn ranges(reply: Value, asked: &str) -> Option<Vec<Range>> {
    let Value::Array(ranges) = reply else { return None };
    let range = |value: Value| {
        let Value::Array(parts) = value else { return None };
        let [Value::Int(from), Value::Int(to), Value::Array(primary), ..] = &parts[..] else { return None };
        let [host, Value::Int(port), ..] = &primary[..] else { return None };
        let host = match host {
            Value::BulkString(name) if !name.is_empty() && name != b"?" => {
                String::from_utf8(name.clone()).ok()?
            }
            _ => asked.to_owned(),
        };
        let (from, to) = (usize::try_from(*from).ok()?, usize::try_from(*to).ok()?);
        Some(Range { from, to, host, port: u16::try_from(*port).ok()? })
    };
    let ranges: Vec<Range> = ranges.into_iter().map(range).collect::<Option<_>>()?;
    (!ranges.is_empty()).then_some(ranges)
}

impl Map {
    fn place(&self, slot: Slot) -> Option<u16> {
        self.slots.get(slot.index()).copied().flatten()
    }

    fn member(&self, place: u16) -> Option<&Member> {
        self.members.get(usize::from(place))
    }

    fn find(&self, host: &str, port: u16) -> Option<&Member> {
        self.members.iter().find(|member| member.node.address() == (host, port))
    }

    /// The place of a server, which becomes a member if it is none.
    fn place_of(&mut self, shared: &Shared, host: &str, port: u16) -> Option<u16> {
        let known = self.members.iter().position(|member| member.node.address() == (host, port));
        let place = known.unwrap_or_else(|| {
            let node = shared.node(host, port);
            self.members.push(Member { server: Arc::new(shared.server(&node)), node });
            self.members.len() - 1
        });
        u16::try_from(place).ok()
    }

    /// The same members, and those that are new, with these slots.
    fn with(&self, shared: &Shared, ranges: &[Range]) -> Self {
        let members = if self.members.len() < MOST_MEMBERS { self.members.clone() } else { Vec::new() };
        let mut map = Self { members, slots: vec![None; usize::from(Slot::COUNT)] };
        for Range { from, to, host, port } in ranges {
            let place = map.place_of(shared, host, *port);
            if let Some(slots) = map.slots.get_mut(*from..=*to) {
                slots.fill(place);
            }
        }
        map
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cluster").field(&self.shared.seeds).finish()
    }
}
