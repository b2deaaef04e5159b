//! One server: its connections, what it has said of itself, and whether it is of use to ask it.

use crate::error::{Class, NAME, classify, failed, unsent};
use crate::stats::{Skew, Stats};
use limiter_core::{BackendError, Effect, ErrorKind};
use memcache::exp::{AsyncMetaClient, Error, MetaClientBuilder, Operation};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// How a server is spoken to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// How long a reply may take.
    pub(crate) timeout: Duration,
    /// How long connecting may take, name resolution and the first question included.
    pub(crate) connect_timeout: Duration,
    /// The most connections.
    pub(crate) connections: usize,
    /// How often it is asked how it is.
    pub(crate) ask_every: Duration,
}

/// Why a command failed.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// What the driver said; `None`: it was not asked.
    pub(crate) class: Option<Class>,
    pub(crate) error: BackendError,
}

impl From<Failure> for BackendError {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

pub(crate) struct Server {
    /// Host and port, by which it is known to every instance.
    address: String,
    manner: Manner,
    link: Mutex<Link>,
    /// Held while a connection is made, so that one attempt serves all.
    connecting: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Link {
    client: Option<AsyncMetaClient>,
    /// Calls in a row without a reply.
    silent: u32,
    /// Why nobody is to ask, how often in a row, and until when.
    down: Option<(BackendError, u32, Instant)>,
    said: Option<Said>,
    /// Somebody is asking.
    is_asking: bool,
}

/// What a server said of itself, and when.
#[derive(Clone, Debug)]
struct Said {
    stats: Stats,
    at: Instant,
    /// Its evictions when it was asked before.
    evictions_before: u64,
}

/// So many calls in a row without a reply, and the server counts as down.
const SILENCE: u32 = 3;

/// Wait before the second attempt to connect; twice as long each time.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// An item's head, its key, flags and version: what a value has less than an item, with room for what later versions
/// add.
pub(crate) const OVERHEAD: u64 = 512;

impl Server {
    pub(crate) fn new(address: String, manner: Manner) -> Self {
        Self { address, manner, link: Mutex::default(), connecting: tokio::sync::Mutex::default() }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// What was measured last.
    pub(crate) fn skew(&self) -> Option<Skew> {
        self.link.lock().said.as_ref()?.stats.skew()
    }

    /// How far ahead its clock can be.
    pub(crate) fn ahead(&self) -> Duration {
        self.skew().map_or(Duration::ZERO, |skew| skew.most_ahead())
    }

    /// Evictions that it has counted since it was started.
    pub(crate) fn evictions(&self) -> u64 {
        self.link.lock().said.as_ref().map_or(0, |said| said.stats.evictions())
    }

    /// The most bytes of a value, once it is known.
    pub(crate) fn most_bytes(&self) -> Option<u64> {
        let size = self.link.lock().said.as_ref()?.stats.item_size_max()?;
        Some(size.saturating_sub(OVERHEAD))
    }

    /// The most bytes of a value, by what it said when it was connected, which it is if it was not; `None`: it did not say.
    pub(crate) async fn limit(
        self: &Arc<Self>,
        operation: &'static str,
    ) -> Result<Option<u64>, BackendError> {
        self.client(operation).await.map(|_connected| self.most_bytes())
    }

    /// What became of each of these, in order, in one exchange.
    pub(crate) async fn run<O: Operation<Output: Send> + Send + Sync>(
        self: &Arc<Self>,
        operation: &'static str,
        commands: Vec<O>,
    ) -> Vec<Result<O::Output, Failure>> {
        let count = commands.len();
        let all = |error: &BackendError| {
            let failure = Failure { class: None, error: error.clone() };
            std::iter::repeat_with(|| Err(failure.clone())).take(count).collect()
        };
        let client = match self.client(operation).await {
            Ok(client) => client,
            Err(error) => return all(&error),
        };
        match client.run_many(commands).await {
            Ok(results) => self.judge(operation, results),
            // Refused as a whole, and nothing sent.
            Err(error) => all(&failed(operation, &self.address, classify(&error, true), &error)),
        }
    }

    /// One failed exchange is one error, however many commands it carried.
    fn judge<T>(&self, operation: &'static str, results: Vec<Result<T, Error>>) -> Vec<Result<T, Failure>> {
        let mut failures: Vec<Failure> = Vec::new();
        let mut judge = |error: Error| {
            let class = classify(&error, failures.is_empty());
            if let Some(known) = failures.iter().find(|known| known.class == Some(class)) {
                return known.clone();
            }
            let error = failed(operation, &self.address, class, &error);
            failures.push(Failure { class: Some(class), error });
            failures[failures.len() - 1].clone()
        };
        let judged = results.into_iter().map(|result| result.map_err(&mut judge)).collect();
        self.heard(failures.first());
        judged
    }

    /// Notes how an exchange went.
    fn heard(&self, failure: Option<&Failure>) {
        let mut link = self.link.lock();
        let silence = failure.filter(|failure| failure.class.is_some_and(|class| class.is_silence));
        let Some(Failure { error, .. }) = silence else {
            (link.silent, link.down) = (0, None);
            if failure.is_some_and(|failure| failure.class.is_some_and(Class::contradicts_what_it_said)) {
                // Connected anew it is asked, before the next write.
                link.client = None;
            }
            return;
        };
        link.silent = link.silent.saturating_add(1);
        if error.kind() == ErrorKind::Timeout && link.silent < SILENCE {
            return;
        }
        // What failed together, or left before the wait began, is one failure.
        if link.down.as_ref().is_some_and(|(_, _, until)| Instant::now() < *until) {
            return;
        }
        // Connected anew, where its name may lead elsewhere by now.
        link.client = None;
        let failures = link.down.as_ref().map_or(0, |(_, failures, _)| *failures).saturating_add(1);
        let longest = FIRST_WAIT.saturating_mul(1 << failures.min(8)).min(LONGEST_WAIT);
        let wait = longest.mul_f64(0.5 + fastrand::f64() / 2.0);
        let down = BackendError::new(
            error.kind(),
            Effect::NotApplied,
            NAME,
            "connect",
            format!("{}: it is down, and was not asked", self.address),
        )
        .with_source(error.clone());
        link.down = Some((down, failures, Instant::now() + wait));
    }

    /// The client, connected if it is not.
    async fn client(self: &Arc<Self>, operation: &'static str) -> Result<AsyncMetaClient, BackendError> {
        if let Some(client) = self.known()? {
            return Ok(client);
        }
        let _turn = self.connecting.lock().await;
        if let Some(client) = self.known()? {
            return Ok(client);
        }
        let connected = timeout(self.manner.connect_timeout, self.connect()).await;
        let connected = connected.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
        match connected {
            Ok((client, stats)) => {
                if let Some(message) = stats.is_too_old() {
                    return Err(unsent(ErrorKind::Config, operation, &self.address, message));
                }
                let mut link = self.link.lock();
                link.client = Some(client.clone());
                link.say(stats);
                Ok(client)
            }
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                let message = "the server does not say how it is set: does it want authentication?";
                Err(unsent(ErrorKind::Config, operation, &self.address, message))
            }
            Err(error) => {
                let error = Error::Io(error);
                let class = classify(&error, true);
                let error = failed(operation, &self.address, class, &error);
                self.heard(Some(&Failure { class: Some(class), error: error.clone() }));
                Err(error)
            }
        }
    }

    /// The client there is; an error while nobody is to ask. Once a minute somebody asks how the server is.
    fn known(self: &Arc<Self>) -> Result<Option<AsyncMetaClient>, BackendError> {
        let mut link = self.link.lock();
        if let Some((error, _, until)) = &link.down
            && Instant::now() < *until
        {
            return Err(error.clone());
        }
        let is_due = link.said.as_ref().is_some_and(|said| said.at.elapsed() >= self.manner.ask_every);
        if is_due && !link.is_asking && link.client.is_some() {
            link.is_asking = true;
            let asking = Asking(Arc::clone(self));
            drop(tokio::spawn(asking.ask()));
        }
        Ok(link.client.clone())
    }

    async fn connect(&self) -> std::io::Result<(AsyncMetaClient, Stats)> {
        let Manner { timeout, connect_timeout, connections, .. } = self.manner;
        // Before the first write it is known how large it may be.
        let stats = Stats::ask(&self.address, connect_timeout).await?;
        let client = MetaClientBuilder::new()
            .io_timeout(Some(timeout))
            .connect_timeout(Some(connect_timeout))
            .max_connections(Some(connections))
            .max_idle(connections)
            .connect_async(self.address.as_str())
            .await;
        client.map(|client| (client, stats)).map_err(|error| match error {
            Error::Io(error) => error,
            _ => std::io::ErrorKind::InvalidInput.into(),
        })
    }

    /// What it says of itself now, and its evictions when it was asked before.
    pub(crate) async fn ask(&self) -> Result<(Stats, u64), BackendError> {
        let asked = Stats::ask(&self.address, self.manner.connect_timeout).await;
        let stats = asked.map_err(|error| {
            if error.kind() == std::io::ErrorKind::PermissionDenied {
                let message = "the server does not say how it is set: does it want authentication?";
                return unsent(ErrorKind::Config, "ready", &self.address, message);
            }
            let error = Error::Io(error);
            failed("ready", &self.address, classify(&error, true), &error)
        })?;
        let before = self.link.lock().said.as_ref().map_or(stats.evictions(), |said| said.evictions_before);
        Ok((stats, before))
    }
}

impl Link {
    fn say(&mut self, stats: Stats) {
        let evictions_before = self.said.as_ref().map_or(stats.evictions(), |said| said.stats.evictions());
        self.said = Some(Said { stats, at: Instant::now(), evictions_before });
    }
}

/// The question how a server is, on its way.
struct Asking(Arc<Server>);

impl Asking {
    async fn ask(self) {
        let server = &self.0;
        if let Ok(stats) = Stats::ask(&server.address, server.manner.connect_timeout).await {
            server.link.lock().say(stats);
        }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.link.lock().is_asking = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use limiter_testkit::servers::Memcached;
    use memcache::exp::Get;

    /// As many exchanges as were on their way when the connections were lost.
    #[tokio::test(start_paused = true)]
    async fn what_fails_together_is_waited_for_once() {
        let second = Duration::from_secs(1);
        let manner = Manner { timeout: second, connect_timeout: second, connections: 1, ask_every: second };
        let server = Server::new("a:1".to_owned(), manner);
        let error = Error::Io(std::io::ErrorKind::ConnectionReset.into());
        let class = classify(&error, true);
        let error = failed("test", "a:1", class, &error);
        let lost = Failure { class: Some(class), error };
        let fails = || {
            (0..4).for_each(|_| server.heard(Some(&lost)));
            server.link.lock().down.as_ref().map(|(_, failures, until)| (*failures, *until))
        };
        for failures in 1..=3 {
            let (counted, until) = fails().unwrap();
            assert_eq!(counted, failures);
            tokio::time::sleep_until(until).await;
        }
        server.heard(None);
        assert_eq!(fails().unwrap().0, 1);
    }

    /// While it is used, and not more often than that.
    #[tokio::test]
    async fn a_server_is_asked_again_how_it_is() {
        let memcached = Memcached::start().unwrap();
        let asked = || memcached.stat("total_connections").unwrap().unwrap().parse::<u64>().unwrap();
        let server = |ask_every| {
            let second = Duration::from_secs(1);
            let manner = Manner { timeout: second, connect_timeout: second, connections: 1, ask_every };
            Arc::new(Server::new(memcached.addr().to_string(), manner))
        };
        let (often, seldom) = (server(Duration::from_millis(20)), server(Duration::from_secs(60)));
        let said_at = |server: &Server| server.link.lock().said.as_ref().map(|said| said.at);
        for server in [&often, &seldom] {
            assert!(server.run("test", vec![Get::new("a")]).await[0].is_ok());
        }
        let before = [&often, &seldom].map(|server| said_at(server));
        let connections = asked();
        while said_at(&often) == before[0] {
            assert!(often.run("test", vec![Get::new("a")]).await[0].is_ok());
            assert!(seldom.run("test", vec![Get::new("a")]).await[0].is_ok());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(said_at(&seldom), before[1]);
        // Those of this test itself, and one or two to ask.
        assert!(asked() - connections <= 4, "{} connections", asked() - connections);
    }
}
