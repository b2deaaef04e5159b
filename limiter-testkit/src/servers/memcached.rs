use super::ServerError;
use super::process::{Home, Kind, Process};
use super::program::{Program, unprivileged};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::ops::Deref;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// A `memcached`: a [`Process`] that speaks Memcached's text protocol. A restart finds it empty.
#[derive(Debug)]
pub struct Memcached {
    process: Process,
    authentication: Option<String>,
}

/// How a [`Memcached`] is started.
#[derive(Clone, Debug, Default)]
#[must_use = "a builder starts nothing until it is told to"]
pub struct MemcachedBuilder {
    program: Option<PathBuf>,
    args: Vec<String>,
    authentication: Option<String>,
}

const PROGRAM: Program = Program {
    name: "memcached",
    hint: "on Debian `apt-get install memcached`, on macOS `brew install memcached`; or set \
           LIMITER_TEST_MEMCACHED_URL, which serves the tests that need no server of their own",
    folders: Vec::new,
};

const PATIENCE: Duration = Duration::from_secs(10);

impl Memcached {
    /// A server with default options.
    ///
    /// # Errors
    /// It is not on this machine, or does not come up.
    pub fn start() -> Result<Self, ServerError> {
        Self::builder().start()
    }

    /// A server with options.
    pub fn builder() -> MemcachedBuilder {
        MemcachedBuilder::default()
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("memcached://{}", self.addr())
    }

    /// Sends commands of the text protocol, with their data, on a connection of its own; all that is answered.
    ///
    /// # Errors
    /// What the connection meets.
    ///
    /// # Example
    /// ```
    /// use limiter_testkit::servers::Memcached;
    ///
    /// let memcached = Memcached::start()?;
    /// assert_eq!(memcached.command("set a 0 0 5\r\nhello")?, b"STORED\r\n");
    /// assert_eq!(memcached.command("get a")?, b"VALUE a 0 5\r\nhello\r\nEND\r\n");
    /// # Ok::<(), limiter_testkit::servers::ServerError>(())
    /// ```
    pub fn command(&self, command: impl AsRef<[u8]>) -> Result<Vec<u8>, ServerError> {
        let command = authenticated(self.authentication.as_deref(), command.as_ref());
        let mut answer = Self::command_at(self.addr(), command)?;
        if self.authentication.is_some() && answer.starts_with(AUTHENTICATED) {
            answer.drain(..AUTHENTICATED.len());
        }
        Ok(answer)
    }

    /// Sends commands to a server that this handle is not of, as [`command`](Self::command) does.
    ///
    /// # Errors
    /// What the connection meets.
    pub fn command_at(address: SocketAddr, command: impl AsRef<[u8]>) -> Result<Vec<u8>, ServerError> {
        command_at(address, command.as_ref()).map_err(ServerError::io("the answer to a command"))
    }

    /// The value of a line of `stats`.
    ///
    /// # Errors
    /// As [`command`](Self::command).
    pub fn stat(&self, name: &str) -> Result<Option<String>, ServerError> {
        Ok(stat(&self.command("stats")?, name))
    }
}

impl Deref for Memcached {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl MemcachedBuilder {
    /// Arguments of the program: `.args(["-m", "8"])`.
    pub fn args<A: Into<String>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Wants this user and password, of letters and digits, on every connection.
    pub fn authentication(self, user: &str, password: &str) -> Self {
        Self { authentication: Some(format!("{user}:{password}")), ..self }
    }

    /// Another program than the `memcached` on PATH.
    pub fn program(self, program: impl Into<PathBuf>) -> Self {
        Self { program: Some(program.into()), ..self }
    }

    /// Starts it, and returns when it answers.
    ///
    /// # Errors
    /// It is not on this machine, or does not come up.
    pub fn start(self) -> Result<Memcached, ServerError> {
        let program = PROGRAM.find(self.program.as_deref())?;
        let Self { args, authentication, .. } = self;
        let kind =
            MemcachedKind { program, args, authentication: authentication.clone(), owner: unprivileged()? };
        Ok(Memcached { process: Process::start(kind)?, authentication })
    }
}

struct MemcachedKind {
    program: PathBuf,
    args: Vec<String>,
    authentication: Option<String>,
    owner: Option<(u32, u32)>,
}

impl Kind for MemcachedKind {
    fn name(&self) -> &'static str {
        "memcached"
    }

    fn owner(&self) -> Option<(u32, u32)> {
        self.owner
    }

    fn prepare(&self, home: &Home) -> Result<(), ServerError> {
        match &self.authentication {
            Some(line) => std::fs::write(home.folder.join(USERS), format!("{line}\n"))
                .map_err(ServerError::io(format!("writing {USERS}"))),
            None => Ok(()),
        }
    }

    fn command(&self, home: &Home) -> Command {
        let mut command = Command::new(&self.program);
        if self.authentication.is_some() {
            command.arg("-Y").arg(home.folder.join(USERS));
        }
        command.args(["-l", "127.0.0.1", "-U", "0", "-p", &home.port.to_string()]).args(&self.args);
        command
    }

    fn answers(&self, home: &Home, pid: u32) -> Result<(), String> {
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, home.port));
        let stats = authenticated(self.authentication.as_deref(), b"stats");
        let stats = command_at(addr, &stats).map_err(|error| error.to_string())?;
        if stat(&stats, "pid") == Some(pid.to_string()) {
            Ok(())
        } else {
            Err("another process answers".to_owned())
        }
    }
}

/// The file of those who may use the server.
const USERS: &str = "users";

/// The answer to what [`authenticated`] begins with.
const AUTHENTICATED: &[u8] = b"STORED\r\n";

/// A command behind the one that tells who sends it.
fn authenticated(authentication: Option<&str>, command: &[u8]) -> Vec<u8> {
    let Some(line) = authentication else { return command.to_vec() };
    let words = line.replacen(':', " ", 1);
    [format!("set auth 0 0 {}\r\n{words}\r\n", words.len()).as_bytes(), command].concat()
}

/// An answer has no end that all commands share; that of `mn`, which does nothing, marks it.
const MARK: &[u8] = b"MN\r\n";

fn command_at(addr: SocketAddr, command: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&[command, b"\r\nmn\r\n"].concat())?;
    let (mut answer, mut bytes) = (Vec::new(), [0; 4_096]);
    loop {
        if let Some(answer) = answer.strip_suffix(MARK) {
            return Ok(answer.to_vec());
        }
        match stream.read(&mut bytes) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => answer.extend_from_slice(&bytes[..length]),
            // A read that has a timeout ends with any signal, as when a server that was started has ended.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn stat(stats: &[u8], name: &str) -> Option<String> {
    let text = String::from_utf8_lossy(stats);
    let value =
        |line: &str| Some(line.strip_prefix("STAT ")?.strip_prefix(name)?.strip_prefix(' ')?.to_owned());
    text.lines().find_map(value)
}
