use super::keeper::Keeper;
use super::{ServerError, port};
use rustix::process::{Pid, Signal, kill_process};
use std::fmt;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How one sort of server is started and asked.
pub(super) trait Kind: Send + Sync {
    fn name(&self) -> &'static str;

    /// Who it runs as, where not as this process's user.
    fn owner(&self) -> Option<(u32, u32)> {
        None
    }

    /// Fills the folder before the first start.
    fn prepare(&self, _home: &Home) -> Result<(), ServerError> {
        Ok(())
    }

    fn command(&self, home: &Home) -> Command;

    /// What asks it to end soon, whoever is connected.
    fn ending(&self) -> Signal {
        Signal::TERM
    }

    /// Whether this very process answers; if not, why.
    fn answers(&self, home: &Home, pid: u32) -> Result<(), String>;
}

/// Where a server lives.
#[derive(Clone, Debug)]
pub(super) struct Home {
    pub(super) folder: PathBuf,
    pub(super) port: u16,
}

impl Home {
    pub(super) fn log(&self) -> PathBuf {
        self.folder.join("log")
    }
}

/// A server that can be killed, paused and started again, on one port of 127.0.0.1 and one folder; dropping it kills
/// it and removes the folder.
pub struct Process {
    kind: Arc<dyn Kind>,
    home: Home,
    running: Mutex<Option<Child>>,
    keeper: Keeper,
}

/// The machine may be compiling on all cores.
const START: Duration = Duration::from_secs(30);

impl Process {
    pub(super) fn start(kind: impl Kind + 'static) -> Result<Self, ServerError> {
        let kind: Arc<dyn Kind> = Arc::new(kind);
        for _ in 0..5 {
            let keeper = Keeper::new(kind.name(), kind.owner())?;
            let home = Home { folder: keeper.folder().to_owned(), port: port::free()? };
            kind.prepare(&home)?;
            let process = Self { kind: Arc::clone(&kind), home, running: Mutex::new(None), keeper };
            match process.restart() {
                Err(error) if error.is_port_taken() => {}
                done => return done.map(|()| process),
            }
        }
        Err(ServerError::Io {
            step: "finding a free port five times".to_owned(),
            source: std::io::ErrorKind::AddrInUse.into(),
        })
    }

    /// Its address.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.home.port))
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.home.port
    }

    /// Its folder: data, log and sockets.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.home.folder
    }

    /// Its process, unless it was killed.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.running().as_ref().map(Child::id)
    }

    /// What it has logged since it was first started.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.home.log()).unwrap_or_default()).into_owned()
    }

    /// Kills it and its children as a crash does (SIGKILL), and waits until they are gone.
    pub fn kill(&self) {
        let mut running = self.running();
        if let Some(mut child) = running.take() {
            // Stopped first, so that no child is born unseen.
            signal(child.id(), Signal::STOP);
            let children = children(child.id());
            children.iter().for_each(|child| signal(*child, Signal::KILL));
            signal(child.id(), Signal::KILL);
            let _status = child.wait();
            let killed = Instant::now();
            let lives = |line: &Line| children.contains(&line.pid) && !line.dead;
            while killed.elapsed() < START && list().iter().any(lives) {
                sleep(POLL);
            }
            self.keeper.watch(None);
        }
    }

    /// Asks it to end in good order, whoever is connected, and waits until it has.
    pub fn terminate(&self) {
        if let Some(mut child) = self.running().take() {
            signal(child.id(), self.kind.ending());
            let _status = child.wait();
            self.keeper.watch(None);
        }
    }

    /// Stops it and its children (SIGSTOP): connections stay open and new ones are made by the system, and nothing is
    /// answered. One that was killed stays so.
    pub fn pause(&self) {
        if let Some(child) = &*self.running() {
            signal(child.id(), Signal::STOP);
            children(child.id()).into_iter().for_each(|child| signal(child, Signal::STOP));
        }
    }

    /// Lets it go on (SIGCONT).
    pub fn resume(&self) {
        if let Some(child) = &*self.running() {
            children(child.id()).into_iter().for_each(|child| signal(child, Signal::CONT));
            signal(child.id(), Signal::CONT);
        }
    }

    /// Starts it again on its port and its folder, after killing it if it runs; returns when it answers.
    ///
    /// # Errors
    /// It does not come up; the error ends with its log.
    pub fn restart(&self) -> Result<(), ServerError> {
        self.kill();
        let name = self.kind.name();
        let log = self.home.log();
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(ServerError::io("opening its log"))?;
        let errors = file.try_clone().map_err(ServerError::io("opening its log"))?;
        let mut command = self.kind.command(&self.home);
        if let Some((user, group)) = self.kind.owner() {
            command.uid(user).gid(group);
        }
        command.current_dir(&self.home.folder).process_group(0);
        command.stdin(Stdio::null()).stdout(file).stderr(errors);
        let child = command.spawn().map_err(ServerError::io(format!("starting {name}")))?;
        let pid = child.id();
        self.keeper.watch(Some(pid));
        *self.running() = Some(child);

        let started = Instant::now();
        loop {
            let answer = self
                .kind
                .answers(&self.home, pid)
                .and_then(|()| TcpStream::connect(self.addr()).map(drop).map_err(|error| error.to_string()));
            let exited = self.running().as_mut().and_then(|child| child.try_wait().ok().flatten());
            let problem = match (answer, exited) {
                (_, Some(status)) => format!("ended with {status}"),
                (Ok(()), None) => return Ok(()),
                (Err(problem), None) if started.elapsed() > START => {
                    format!("did not answer within {START:?}: {problem}")
                }
                (Err(_), None) => {
                    sleep(POLL);
                    continue;
                }
            };
            self.kill();
            return Err(ServerError::failed(name, problem, &log));
        }
    }

    pub(super) fn home(&self) -> &Home {
        &self.home
    }

    fn running(&self) -> MutexGuard<'_, Option<Child>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(self.kind.name()).field("port", &self.home.port).field("pid", &self.pid()).finish()
    }
}

const POLL: Duration = Duration::from_millis(5);

/// A process that is gone needs no signal.
fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let _gone = kill_process(pid, signal);
    }
}

struct Line {
    pid: u32,
    parent: u32,
    /// Also where nobody has asked for its status yet.
    dead: bool,
}

/// All processes.
fn list() -> Vec<Line> {
    let output = Command::new("ps").args(["-A", "-o", "pid=", "-o", "ppid=", "-o", "stat="]).output();
    let output = output.expect("ps, of Debian's package procps");
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let pid = words.next()?.parse().ok()?;
        let parent = words.next()?.parse().ok()?;
        Some(Line { pid, parent, dead: words.next()?.starts_with('Z') })
    };
    String::from_utf8_lossy(&output.stdout).lines().filter_map(line).collect()
}

fn children(pid: u32) -> Vec<u32> {
    list().iter().filter(|line| line.parent == pid).map(|line| line.pid).collect()
}

/// Asks again and again until the answer is yes.
pub(super) fn wait_until(
    what: &str,
    mut is_so: impl FnMut() -> Result<bool, ServerError>,
) -> Result<(), ServerError> {
    let started = Instant::now();
    while !is_so()? {
        if started.elapsed() > START {
            let step = format!("waiting until {what}");
            return Err(ServerError::Io { step, source: std::io::ErrorKind::TimedOut.into() });
        }
        sleep(4 * POLL);
    }
    Ok(())
}
