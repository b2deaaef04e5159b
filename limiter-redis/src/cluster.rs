//! A Redis Cluster: which server has which slot, learnt from the servers and from their redirections.

use crate::error::{self, unlearnt, unsent};
use crate::link::Link;
use crate::route::Slot;
use crate::server::{Advice, Call, CallError, Patience, Server};
use crate::target::{Node, Seeds};
use futures_util::stream::{self, StreamExt};
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
    /// Those of the URL. They are members from the start, and asked for the map whether they have slots or not.
    seeds: Vec<Member>,
    connect_timeout: Duration,
    max_in_flight: usize,
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
    /// Why none is known, once all have been asked.
    unknown: Option<BackendError>,
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

/// The part of keys whose server nobody knows: none that a server has, as what fails for them is no server's fault.
const NOWHERE: u32 = 1_023;

/// Between two looks at who has which slot.
const LEARNING_PAUSE: Duration = Duration::from_millis(50);

/// How many servers are asked who has which slot at once: one that hangs holds up none.
const ASKED_AT_ONCE: usize = 3;

/// How long a server may take to say who has which slot.
const LEARNING_TIMEOUT: Duration = Duration::from_millis(500);

pub(crate) const NOBODY_SAYS: &str = "no server of the cluster says who has which slot";

impl Cluster {
    pub(crate) fn new(seeds: Seeds, connect_timeout: Duration, max_in_flight: usize) -> Self {
        let Seeds { pattern, nodes } = seeds;
        let seeds = nodes.into_iter().map(|node| Member::new(node, connect_timeout, max_in_flight));
        let map = Map { members: seeds.collect(), ..Map::default() };
        let seeds = map.members.clone();
        let (map, is_learning) = (watch::Sender::new(Arc::new(map)), AtomicBool::new(false));
        Self { shared: Arc::new(Shared { pattern, seeds, connect_timeout, max_in_flight, map, is_learning }) }
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
        let mut member = self.member(slot, call.operation, patience).await?;
        let (mut asking, mut redirections) = (false, 0);
        loop {
            let failed = match member.server.call(call, patience, asking).await {
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
                    member = self.member_at(address, &member);
                }
                Some(Advice::Ask(address)) => {
                    asking = true;
                    member = self.member_at(address, &member);
                }
                Some(Advice::TryAgain) => {
                    let pause = TRY_AGAIN_PAUSE.mul_f64(0.5 + fastrand::f64());
                    if !waits || Instant::now() + pause >= patience.reply_by {
                        return Err(failed);
                    }
                    sleep(pause).await;
                    // From the start: the slot may have arrived meanwhile.
                    member = self.member(slot, call.operation, patience).await?;
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
        // Also on one server, several slots take several trips, which nobody else should wait for.
        match Slot::of_all(request) {
            Some(slot) => Shard::One(map.place(slot).map_or(NOWHERE, u32::from)),
            None => Shard::Many,
        }
    }

    /// Which server has a slot, by its place among those known.
    pub(crate) fn part(&self, slot: Slot) -> Option<u16> {
        self.shared.map.borrow().place(slot)
    }

    /// All servers that have slots.
    pub(crate) async fn servers(
        &self,
        operation: &'static str,
        patience: Patience,
    ) -> Result<Vec<Arc<Server>>, BackendError> {
        let map = self.map(operation, patience).await?;
        let servers = map.places().into_iter().filter_map(|place| map.member(place));
        Ok(servers.map(|member| Arc::clone(&member.server)).collect())
    }

    async fn member(
        &self,
        slot: Slot,
        operation: &'static str,
        patience: Patience,
    ) -> Result<Member, BackendError> {
        let map = self.map(operation, patience).await?;
        let Some(member) = map.place(slot).and_then(|place| map.member(place)) else {
            self.learn();
            return Err(unsent(ErrorKind::Unavailable, operation, "no server of the cluster has the slot"));
        };
        Ok(member.clone())
    }

    /// The map, waiting for the first one, or for why there is none.
    async fn map(&self, operation: &'static str, patience: Patience) -> Result<Arc<Map>, BackendError> {
        let known = Arc::clone(&self.shared.map.borrow());
        if !known.slots.is_empty() {
            return Ok(known);
        }
        error::runtime(operation)?;
        self.learn();
        let mut maps = self.shared.map.subscribe();
        let is_asked = |map: &Arc<Map>| !map.slots.is_empty() || map.unknown.is_some();
        match timeout_at(patience.send_by(), maps.wait_for(is_asked)).await {
            Ok(Ok(map)) => map.unknown.clone().map_or_else(|| Ok(Arc::clone(&map)), Err),
            _ => Err(unsent(ErrorKind::Timeout, operation, NOBODY_SAYS)),
        }
    }

    /// The server at an address that a redirection named; without a host, it is that of the server who named it.
    fn member_at(&self, address: &str, named_by: &Member) -> Member {
        let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
        let host = if matches!(host, "" | "?") { named_by.node.address().0 } else { host };
        let port = port.parse().unwrap_or(0);
        let mut member = None;
        self.shared.map.send_if_modified(|map| {
            member = map.find(host, port).cloned();
            if member.is_some() {
                return false;
            }
            let mut grown = Map::clone(map);
            member = grown.place_of(&self.shared, host, port).and_then(|place| grown.member(place)).cloned();
            *map = Arc::new(grown);
            true
        });
        member.unwrap_or_else(|| self.shared.member(host, port))
    }

    /// Looks anew who has which slot, in a task of its own, one at a time.
    fn learn(&self) {
        let Ok(runtime) = Handle::try_current() else { return };
        if self.shared.is_learning.swap(true, Ordering::AcqRel) {
            return;
        }
        // Who waits is told what comes of this look, and not of one long ago.
        self.shared.explain(None);
        // Also when the task is lost with its runtime.
        let done = Learning(Arc::clone(&self.shared));
        runtime.spawn(async move {
            let shared = &done.0;
            match shared.ask().await {
                Ok(slots) => shared.map.send_modify(|map| *map = Arc::new(map.with(shared, &slots))),
                Err(error) => shared.explain(Some(error)),
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

impl Member {
    fn new(node: Node, connect_timeout: Duration, max_in_flight: usize) -> Self {
        let link = Link::new(node.clone(), connect_timeout);
        Self { node, server: Arc::new(Server::new(link, max_in_flight)) }
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.node.fmt(f)
    }
}

impl Shared {
    fn member(&self, host: &str, port: u16) -> Member {
        Member::new(self.pattern.at(host, port), self.connect_timeout, self.max_in_flight)
    }

    /// Says why there is no map, where there is none.
    fn explain(&self, unknown: Option<BackendError>) {
        self.map.send_if_modified(|map| {
            let has_none = map.slots.is_empty();
            if has_none {
                Arc::make_mut(map).unknown = unknown;
            }
            has_none
        });
    }

    /// Asks the servers that have slots and the seeds, some at a time in random order, until one says who has which
    /// slot; or why none does.
    async fn ask(&self) -> Result<Vec<Range>, BackendError> {
        let map = Arc::clone(&self.map.borrow());
        let mut asked: Vec<Member> =
            map.places().into_iter().filter_map(|place| map.member(place).cloned()).collect();
        let is_new = |seed: &&Member| asked.iter().all(|member| member.node.address() != seed.node.address());
        let seeds: Vec<Member> = self.seeds.iter().filter(is_new).cloned().collect();
        asked.extend(seeds);
        fastrand::shuffle(&mut asked);
        let answers = asked.into_iter().map(|member| async move {
            let patience =
                Patience { send_by: None, reply_by: Instant::now() + LEARNING_TIMEOUT, queues: false };
            let command = redis::cmd("CLUSTER").arg("SLOTS").to_owned();
            let reply = member.server.command("learn", &command, patience).await.map_err(unlearnt)?;
            let nobody = || unsent(ErrorKind::Unavailable, "learn", NOBODY_SAYS);
            ranges(reply, member.node.address().0).ok_or_else(nobody)
        });
        let mut answers = stream::iter(answers).buffer_unordered(ASKED_AT_ONCE).boxed();
        let mut failed = None;
        while let Some(answer) = answers.next().await {
            let error = match answer {
                Ok(ranges) => return Ok(ranges),
                Err(error) => error,
            };
            // A server that is away tells less than one that is set up otherwise than the URL says.
            if failed.is_none() || !error.is_outage() {
                failed = Some(error);
            }
        }
        Err(failed.unwrap_or_else(|| unsent(ErrorKind::Unavailable, "learn", NOBODY_SAYS)))
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

    /// The places of servers that have slots.
    fn places(&self) -> Vec<u16> {
        let mut places: Vec<u16> = self.slots.iter().flatten().copied().collect();
        places.sort_unstable();
        places.dedup();
        places
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
            self.members.push(shared.member(host, port));
            self.members.len() - 1
        });
        u16::try_from(place).ok()
    }

    /// The same members, and those that are new, with these slots.
    fn with(&self, shared: &Shared, ranges: &[Range]) -> Self {
        let members =
            if self.members.len() < MOST_MEMBERS { self.members.clone() } else { shared.seeds.clone() };
        let mut map = Self { members, slots: vec![None; usize::from(Slot::COUNT)], unknown: None };
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
