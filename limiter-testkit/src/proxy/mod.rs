//! A TCP proxy that does to a connection what networks do.

mod connection;

use crate::servers::listener;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::watch;

/// A way through a [`Proxy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server: requests.
    ToServer,
    /// From the server to the client: replies.
    ToClient,
    /// One and the other.
    Both,
}

/// A TCP proxy between a client and a server, whose faults a test turns on and off.
///
/// Faults take effect at once, on open connections as on new ones. It runs on a thread and a runtime of its own, so that
/// a test's paused or blocked runtime does not stop it. Dropping it closes all connections.
///
/// # Example
/// ```
/// use limiter_testkit::{Direction, Proxy};
/// use limiter_testkit::servers::{Memcached, ServerError};
/// use std::io::{Read, Write};
/// use std::net::TcpStream;
/// use std::time::Duration;
///
/// let memcached = Memcached::start()?;
/// let proxy = Proxy::start(memcached.addr()).expect("a free port");
/// let mut client = TcpStream::connect(proxy.addr()).expect("a connection");
/// client.set_read_timeout(Some(Duration::from_millis(50))).expect("a socket");
/// let mut answer = [0; 4];
///
/// proxy.blackhole(Direction::ToClient); // the server gets the request, the client no reply
/// client.write_all(b"mn\r\n").expect("room in the socket");
/// assert!(client.read_exact(&mut answer).is_err());
///
/// proxy.heal();
/// client.read_exact(&mut answer).expect("the reply, late");
/// assert_eq!(&answer, b"MN\r\n");
/// # Ok::<(), ServerError>(())
/// ```
pub struct Proxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Faults that strike at random, for each piece that is carried (what one read finds, 16 KiB at most).
///
/// A connection's luck is drawn from the seed and its number, so that a client that connects and talks alike meets alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RandomFaults {
    /// What all luck is drawn from.
    pub seed: u64,
    /// Each piece is up to so late.
    pub delay: Duration,
    /// Of 1,000 pieces so many end their connection in their middle.
    pub cuts: u32,
    /// Of 1,000 pieces so many reset their connection.
    pub resets: u32,
}

#[derive(Clone, Copy)]
struct Faults {
    upstream: SocketAddr,
    ways: [Way; 2],
    refuse: bool,
    random: Option<RandomFaults>,
    /// How often all connections have been reset.
    resets: u64,
    /// The proxy was dropped.
    over: bool,
}

/// What holds in one direction.
#[derive(Clone, Copy, Default)]
struct Way {
    delay: Duration,
    /// So many bytes at a time, and the pause after them.
    drip: Option<(usize, Duration)>,
    /// Nothing passes of the connections of smaller numbers.
    blackhole_below: u64,
}

struct Shared {
    faults: watch::Sender<Faults>,
    /// How many bytes of replies still pass before a connection is closed.
    cut: Mutex<Option<usize>>,
    listening: Mutex<bool>,
    listening_changed: Condvar,
    accepted: AtomicU64,
    open: AtomicU64,
    bytes: [AtomicU64; 2],
}

impl Proxy {
    /// A proxy before `upstream`, without faults.
    ///
    /// # Errors
    /// No port is free, or no thread can be started.
    pub fn start(upstream: SocketAddr) -> io::Result<Self> {
        let listener = listener()?;
        let addr = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let ways = [Way::default(); 2];
        let faults = Faults { upstream, ways, refuse: false, random: None, resets: 0, over: false };
        let shared = Arc::new(Shared {
            faults: watch::Sender::new(faults),
            cut: Mutex::new(None),
            listening: Mutex::new(true),
            listening_changed: Condvar::new(),
            accepted: AtomicU64::new(0),
            open: AtomicU64::new(0),
            bytes: [AtomicU64::new(0), AtomicU64::new(0)],
        });
        let run = accept(listener, addr, Arc::clone(&shared));
        let thread = std::thread::Builder::new().name("proxy".to_owned());
        let thread = thread.spawn(move || runtime.block_on(run))?;
        Ok(Self { addr, shared, thread: Some(thread) })
    }

    /// Where clients connect to.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Leads new connections to another server.
    pub fn set_upstream(&self, upstream: SocketAddr) {
        self.change(|faults| faults.upstream = upstream);
    }

    /// All bytes come so much later than they would; zero ends it.
    pub fn delay(&self, direction: Direction, delay: Duration) {
        self.change_ways(direction, |way| way.delay = delay);
    }

    /// Only so many bytes pass at a time, and then none for `pause`.
    ///
    /// # Panics
    /// `bytes` is zero.
    pub fn drip(&self, direction: Direction, bytes: usize, pause: Duration) {
        assert!(bytes > 0, "a drip lets bytes pass; a blackhole lets none");
        self.change_ways(direction, |way| way.drip = Some((bytes, pause)));
    }

    /// Nothing passes, not even the end of a connection, and nobody is told; new connections are made, since the system
    /// makes them. What was sent meanwhile arrives after [`heal`](Self::heal), as TCP sends again what was lost.
    pub fn blackhole(&self, direction: Direction) {
        self.change_ways(direction, |way| way.blackhole_below = u64::MAX);
    }

    /// The same for the connections that have been accepted so far; new ones are carried, as by a gateway that has
    /// forgotten what it led where.
    pub fn blackhole_accepted(&self, direction: Direction) {
        let accepted = self.accepted();
        self.change_ways(direction, |way| way.blackhole_below = accepted);
    }

    /// Lets so many bytes of replies pass, over whichever connections, and closes the one that carried the last; 0 closes
    /// it before the next reply. Once.
    pub fn cut_reply_after(&self, bytes: usize) {
        *self.shared.cut() = Some(bytes);
    }

    /// Resets all open connections (RST); new ones are made.
    pub fn reset(&self) {
        self.change(|faults| faults.resets += 1);
    }

    /// Refuses new connections, as a server does that is not there, and leaves open ones alone.
    pub fn refuse(&self) {
        self.change(|faults| faults.refuse = true);
        self.wait_until_listening(false);
    }

    /// Faults at random, until [`heal`](Self::heal).
    pub fn randomize(&self, random: RandomFaults) {
        self.change(|faults| faults.random = Some(random));
    }

    /// Ends all faults.
    pub fn heal(&self) {
        *self.shared.cut() = None;
        self.change(|faults| {
            faults.ways = [Way::default(); 2];
            faults.refuse = false;
            faults.random = None;
        });
        self.wait_until_listening(true);
    }

    /// How many connections it has accepted.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// How many connections are open.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// How many bytes have passed.
    #[must_use]
    pub fn bytes(&self, direction: Direction) -> u64 {
        direction.ways().iter().map(|way| self.shared.bytes[*way].load(Ordering::SeqCst)).sum()
    }

    fn change(&self, change: impl FnOnce(&mut Faults)) {
        self.shared.faults.send_modify(change);
    }

    fn change_ways(&self, direction: Direction, change: impl Fn(&mut Way)) {
        self.change(|faults| direction.ways().iter().for_each(|way| change(&mut faults.ways[*way])));
    }

    fn wait_until_listening(&self, wanted: bool) {
        let listening = self.shared.listening.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = Duration::from_secs(10);
        let wait = self.shared.listening_changed.wait_timeout_while(listening, limit, |is| *is != wanted);
        let (listening, _) = wait.unwrap_or_else(PoisonError::into_inner);
        assert_eq!(
            *listening, wanted,
            "whether the proxy listens on {}, which another may have taken",
            self.addr
        );
    }
}

impl Direction {
    /// Positions in [`Faults::ways`].
    fn ways(self) -> &'static [usize] {
        match self {
            Self::ToServer => &[0],
            Self::ToClient => &[1],
            Self::Both => &[0, 1],
        }
    }
}

impl Shared {
    fn cut(&self) -> MutexGuard<'_, Option<usize>> {
        self.cut.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.change(|faults| faults.over = true);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("addr", &self.addr).field("open", &self.open()).finish_non_exhaustive()
    }
}

/// Accepts until the proxy is over. While it refuses, there is no socket that listens.
async fn accept(listener: TcpListener, addr: SocketAddr, shared: Arc<Shared>) {
    let mut faults = shared.faults.subscribe();
    let mut listener = Some(listener).and_then(|listener| adopt(listener).ok());
    loop {
        let Faults { refuse, over, .. } = *faults.borrow_and_update();
        if over {
            return;
        }
        if refuse {
            listener = None;
        } else if listener.is_none() {
            listener = TcpListener::bind(addr).and_then(adopt).ok();
        }
        *shared.listening.lock().unwrap_or_else(PoisonError::into_inner) = listener.is_some();
        shared.listening_changed.notify_all();

        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None if refuse => std::future::pending().await,
                None => Err(io::ErrorKind::AddrInUse.into()),
            }
        };
        tokio::select! {
            _ = faults.changed() => {}
            accepted = accepted => match accepted {
                Ok((client, _)) => {
                    let number = shared.accepted.fetch_add(1, Ordering::SeqCst);
                    tokio::spawn(connection::carry(client, number, Arc::clone(&shared)));
                }
                // The port is taken, or there is no file descriptor left.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }
}

fn adopt(listener: TcpListener) -> io::Result<tokio::net::TcpListener> {
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
}
