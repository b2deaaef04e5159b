//! throttlecrab-server over its Redis protocol, as `cargo install throttlecrab-server` leaves it on the PATH, with the
//! adaptive store. It holds its states in its own memory: what it is asked is a round trip and a decision, as a Redis.

use crate::Fallible;
use benches::load::Contestant;
use limiter_redis::redis::{Client, cmd};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const PROGRAM: &str = "throttlecrab-server";

/// How to get it.
pub(crate) const INSTALL: &str =
    "throttlecrab-server (`cargo install throttlecrab-server`, which needs protoc)";

/// How long it may take to come up.
const PATIENCE: Duration = Duration::from_secs(10);

/// The server, which ends with this.
pub(crate) struct Server {
    process: Child,
    port: u16,
}

impl Server {
    /// Starts it on a free port; `None`: it is not on the PATH.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn start() -> Fallible<Option<Self>> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new(PROGRAM);
        command.args(["--redis", "--redis-host", "127.0.0.1", "--redis-port", &port.to_string()]);
        command.args(["--store", "adaptive", "--log-level", "error"]).stdout(Stdio::null());
        match command.spawn() {
            Ok(process) => Ok(Some(Self { process, port })),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("{PROGRAM}: {error}").into()),
        }
    }

    /// Its name and version, as it says them.
    pub(crate) fn version() -> Fallible<String> {
        let output = Command::new(PROGRAM).arg("--version").output()?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// One `THROTTLE` per question, for a quota that admits all of them, through one multiplexed connection.
    pub(crate) async fn contestant(&self, names: &Arc<[String]>) -> Fallible<Contestant> {
        let client = Client::open(format!("redis://127.0.0.1:{}", self.port))?;
        let began = Instant::now();
        let connection = loop {
            match client.get_multiplexed_async_connection().await {
                Ok(connection) => break connection,
                Err(error) if began.elapsed() > PATIENCE => return Err(error.into()),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        let names = Arc::clone(names);
        Ok(Contestant::new(PROGRAM, move |key: usize| {
            let (mut connection, names) = (connection.clone(), Arc::clone(&names));
            async move {
                let mut throttle = cmd("THROTTLE");
                // Key, burst, and a million per second.
                throttle.arg(&names[key]).arg(1_000_000).arg(1_000_000).arg(1);
                let answer: Result<Vec<i64>, _> = throttle.query_async(&mut connection).await;
                assert!(answer.as_ref().is_ok_and(|answer| answer.first() == Some(&1)), "{answer:?}");
            }
        }))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
