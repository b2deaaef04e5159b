use super::ServerError;
use super::certificates::{Certificate, Issued};
use super::process::{Home, Kind, Process};
use super::program::Program;
use super::resp::{Connection, Value};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A `redis-server`: a [`Process`] that speaks Redis.
///
/// It saves nothing, so that a restart finds it empty, unless it is [`persistent`](RedisBuilder::persistent).
#[derive(Debug)]
pub struct Redis {
    process: Process,
    password: Option<String>,
    ca: Option<String>,
}

/// How a [`Redis`] is started.
#[derive(Clone, Debug, Default)]
#[must_use = "a builder starts nothing until it is told to"]
pub struct RedisBuilder {
    program: Option<PathBuf>,
    options: Vec<(String, String)>,
    password: Option<String>,
    certificate: Option<Certificate>,
    /// What was issued already, for servers that are to trust each other.
    issued: Option<Issued>,
    sentinel: bool,
}

const PROGRAM: Program = Program {
    name: "redis-server",
    hint: "on Debian `apt-get install redis-server`, on macOS `brew install redis`; or set LIMITER_TEST_REDIS_URL, \
           which serves the tests that need no server of their own",
    folders: Vec::new,
};

/// How long a command of the test's own may take; a server that is paused takes longer.
const PATIENCE: Duration = Duration::from_secs(10);

impl Redis {
    /// A server with default options.
    ///
    /// # Errors
    /// It is not on this machine, or does not come up.
    pub fn start() -> Result<Self, ServerError> {
        Self::builder().start()
    }

    /// A server with options.
    pub fn builder() -> RedisBuilder {
        RedisBuilder::default()
    }

    /// Its URL over TCP, with its password, and with `rediss` where it speaks TLS.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.ca.is_some() { "rediss" } else { "redis" };
        let password = self.password.as_ref().map_or_else(String::new, |password| format!(":{password}@"));
        format!("{scheme}://{password}{}", self.addr())
    }

    /// Its Unix socket, which it always has.
    #[must_use]
    pub fn unix_socket(&self) -> PathBuf {
        socket(self.process.home())
    }

    /// The CA that clients are to trust, as PEM, where the server speaks TLS.
    #[must_use]
    pub fn ca_pem(&self) -> Option<&str> {
        self.ca.as_deref()
    }

    /// A connection for the test's own use, past proxies and TLS.
    ///
    /// # Errors
    /// What connecting meets.
    pub fn connect(&self) -> Result<Connection, ServerError> {
        connect(self.process.home(), self.password.as_deref())
    }

    /// Sends one command on a connection of its own.
    ///
    /// # Errors
    /// The server's error, or what the connection meets.
    pub fn command<A: AsRef<[u8]>>(&self, words: &[A]) -> Result<Value, ServerError> {
        self.connect()?.command(words)
    }

    /// The value of a field of `INFO`.
    ///
    /// # Errors
    /// As [`command`](Self::command).
    pub fn info(&self, field: &str) -> Result<Option<String>, ServerError> {
        let info = self.command(&["INFO", "everything"])?;
        Ok(info_field(&info, field).map(str::to_owned))
    }
}

impl Deref for Redis {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl RedisBuilder {
    /// An option of `redis.conf`.
    pub fn config(mut self, option: impl Into<String>, value: impl Into<String>) -> Self {
        self.options.push((option.into(), value.into()));
        self
    }

    /// The default user's password, of letters and digits.
    pub fn password(self, password: impl Into<String>) -> Self {
        let password = password.into();
        Self { password: Some(password.clone()), ..self }.config("requirepass", password)
    }

    /// Speaks TLS on its port, and shows this certificate.
    pub fn tls(self, certificate: Certificate) -> Self {
        Self { certificate: Some(certificate), ..self }
    }

    /// Every write is on disk before it is answered, so that what was answered outlives a kill.
    pub fn persistent(self) -> Self {
        self.config("appendonly", "yes").config("appendfsync", "always")
    }

    /// Another program than the `redis-server` on PATH.
    pub fn program(self, program: impl Into<PathBuf>) -> Self {
        Self { program: Some(program.into()), ..self }
    }

    /// It watches other servers and stores nothing; the options are those of `sentinel.conf`.
    pub(super) fn sentinel(self) -> Self {
        Self { sentinel: true, ..self }
    }

    pub(super) fn speaks_tls(&self) -> bool {
        self.certificate.is_some()
    }

    /// The same for servers that talk to each other: with TLS they do it through TLS, and show and trust one certificate.
    pub(super) fn among_others(self) -> Result<Self, ServerError> {
        let Some(certificate) = self.certificate else { return Ok(self) };
        let issued = Some(certificate.issue()?);
        Ok(Self { issued, ..self }.config("tls-replication", "yes"))
    }

    /// Starts it, and returns when it answers.
    ///
    /// # Errors
    /// It is not on this machine, or does not come up.
    pub fn start(self) -> Result<Redis, ServerError> {
        let program = PROGRAM.find(self.program.as_deref())?;
        let issued = match (&self.issued, self.certificate) {
            (None, Some(certificate)) => Some(certificate.issue()?),
            (issued, _) => issued.clone(),
        };
        let ca = issued.as_ref().map(|issued| issued.ca.clone());
        let password = self.password.clone();
        let process = Process::start(RedisKind { program, options: self, issued })?;
        Ok(Redis { process, password, ca })
    }
}

struct RedisKind {
    program: PathBuf,
    options: RedisBuilder,
    issued: Option<Issued>,
}

impl RedisKind {
    /// The lines of its configuration file; later ones win.
    fn configuration(&self, home: &Home) -> String {
        let port = home.port.to_string();
        let folder = home.folder.display().to_string();
        let socket = socket(home).display().to_string();
        let mut lines = vec![("bind", "127.0.0.1"), ("dir", &folder), ("unixsocket", &socket)];
        match &self.issued {
            None => lines.push(("port", &port)),
            Some(_) => lines.extend([
                ("port", "0"),
                ("tls-port", port.as_str()),
                ("tls-cert-file", "server.crt"),
                ("tls-key-file", "server.key"),
                ("tls-ca-cert-file", "ca.crt"),
                ("tls-auth-clients", "no"),
            ]),
        }
        if !self.options.sentinel {
            // A replica is of use at once, and the server needs no memory for a fork that it never makes.
            lines.extend([("save", ""), ("appendonly", "no"), ("repl-diskless-sync-delay", "0")]);
        }
        let options = self.options.options.iter().map(|(option, value)| (option.as_str(), value.as_str()));
        let line = |(option, value): (&str, &str)| match value {
            "" => format!("{option} \"\"\n"),
            value => format!("{option} {value}\n"),
        };
        lines.into_iter().chain(options).map(line).collect()
    }
}

impl Kind for RedisKind {
    fn name(&self) -> &'static str {
        if self.options.sentinel { "redis-sentinel" } else { "redis-server" }
    }

    fn prepare(&self, home: &Home) -> Result<(), ServerError> {
        let write = |name: &str, text: &str| {
            std::fs::write(home.folder.join(name), text).map_err(ServerError::io(format!("writing {name}")))
        };
        if let Some(Issued { ca, certificate, key }) = &self.issued {
            write("ca.crt", ca)?;
            write("server.crt", certificate)?;
            write("server.key", key)?;
        }
        write("redis.conf", &self.configuration(home))
    }

    fn command(&self, home: &Home) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(home.folder.join("redis.conf"));
        if self.options.sentinel {
            command.arg("--sentinel");
        }
        command
    }

    fn answers(&self, home: &Home, pid: u32) -> Result<(), String> {
        let ask = || connect(home, self.options.password.as_deref())?.command(&["INFO"]);
        let info = ask().map_err(|error| format!("{error:?}"))?;
        if info_field(&info, "process_id") != Some(&pid.to_string()) {
            return Err("another process answers".to_owned());
        }
        if info_field(&info, "loading").is_some_and(|loading| loading != "0") {
            return Err("it is loading its data".to_owned());
        }
        Ok(())
    }
}

fn socket(home: &Home) -> PathBuf {
    home.folder.join("redis.sock")
}

fn connect(home: &Home, password: Option<&str>) -> Result<Connection, ServerError> {
    let socket: &Path = &socket(home);
    let mut connection = Connection::unix(socket, PATIENCE).map_err(ServerError::io("connecting"))?;
    if let Some(password) = password {
        connection.command(&["AUTH", password])?;
    }
    Ok(connection)
}

pub(super) fn info_field<'a>(info: &'a Value, field: &str) -> Option<&'a str> {
    let lines = info.text()?.lines();
    lines.filter_map(|line| line.split_once(':')).find(|(name, _)| *name == field).map(|(_, value)| value)
}
