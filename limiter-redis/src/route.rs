//! Which server a key is on.

use crate::cluster::Cluster;
use crate::server::{Call, CallError, Patience, Server};
use limiter_core::{BackendError, Request, Shard, StorageKey};
use redis::Value;

/// The server, or the servers of a cluster.
#[derive(Debug)]
pub(crate) enum Route {
    One(Server),
    Cluster(Cluster),
}

/// One of the 16,384 parts that a cluster moves between its servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Slot(u16);

impl Slot {
    pub(crate) const COUNT: u16 = 16_384;

    /// The slot of a key as [`text`] writes it.
    pub(crate) fn of(key: &StorageKey) -> Self {
        Self(crc16::State::<crc16::XMODEM>::calculate(&tag(key)) % Self::COUNT)
    }

    /// The slot that all keys of a request are in; `None` if there are several.
    pub(crate) fn of_all(request: &Request) -> Option<Self> {
        let mut slots = request.checks().iter().map(|check| Self::of(&check.key));
        let first = slots.next()?;
        slots.all(|slot| slot == first).then_some(first)
    }

    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A key as Redis holds it: a tag in braces, then the key's bytes.
///
/// A cluster hashes what stands in the first braces: the tag is ours, so that no caller's braces steer a key.
pub(crate) fn text(key: &StorageKey) -> Vec<u8> {
    let mut text = Vec::with_capacity(6 + key.prefix().len() + key.bytes().len());
    text.push(b'{');
    text.extend_from_slice(&tag(key));
    text.push(b'}');
    text.extend_from_slice(key.prefix());
    text.extend_from_slice(key.bytes());
    text
}

/// Four hexadecimal digits of the key's place.
fn tag(key: &StorageKey) -> [u8; 4] {
    let [.., high, low] = key.place().as_u64().to_be_bytes();
    [high >> 4, high & 15, low >> 4, low & 15].map(|digit| b"0123456789abcdef"[usize::from(digit)])
}

impl Route {
    /// Runs a script on the server that has the slot of its keys.
    pub(crate) async fn call(
        &self,
        slot: Slot,
        call: &Call<'_>,
        patience: Patience,
    ) -> Result<Value, BackendError> {
        self.call_or_part(slot, call, patience, true).await.map_err(|failed| failed.error)
    }

    /// The same; unless it `waits`, told at once of keys that are not all together, to send them apart.
    pub(crate) async fn call_or_part(
        &self,
        slot: Slot,
        call: &Call<'_>,
        patience: Patience,
        waits: bool,
    ) -> Result<Value, CallError> {
        match self {
            Self::One(server) => server.call(call, patience, false).await,
            Self::Cluster(cluster) => cluster.call(slot, call, patience, waits).await,
        }
    }

    /// Which server a key is on, by its place among those known; `None`: nobody has its slot.
    pub(crate) fn part(&self, key: &StorageKey) -> Option<u16> {
        match self {
            Self::One(_) => Some(0),
            Self::Cluster(cluster) => cluster.part(Slot::of(key)),
        }
    }

    pub(crate) fn shard(&self, request: &Request) -> Shard {
        match self {
            Self::One(_) => Shard::One(0),
            Self::Cluster(cluster) => cluster.shard(request),
        }
    }
}
