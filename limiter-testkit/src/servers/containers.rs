//! Containers of `compose.yaml`, with addresses of their own: what runs on one machine's loopback cannot be cut off.
//!
//! Needs a Docker engine on Linux, which has a route to those addresses. Where none answers, that is an error.

use super::process::wait_until;
use super::resp::{Connection, Value};
use super::{ServerError, redis};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Services of a project and a network of their own; all of it is removed when this is dropped, and also when the test
/// process is killed: a small shell waits for that.
pub struct Containers {
    containers: Vec<Container>,
    remover: Child,
}

/// A service's container.
///
/// It keeps its address, whatever is done to it.
#[derive(Debug)]
pub struct Container {
    service: String,
    id: String,
    network: String,
    ip: Ipv4Addr,
}

impl Containers {
    /// Brings up services, and those that they depend on, of a profile; returns when all are healthy, or have ended well
    /// where that is what they are for.
    ///
    /// # Errors
    /// No Docker engine answers, an image is missing, or a container does not become healthy within 30 seconds.
    pub fn start(profile: &str, services: &[&str]) -> Result<Self, ServerError> {
        // One at a time, as long as a network that is free is not taken.
        static STARTING: Mutex<()> = Mutex::new(());
        docker(&["version", "--format", "{{.Server.Version}}"])?;
        let starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        let project = format!("limiter-test-{:016x}", fastrand::u64(..));
        let subnet = free_subnet(&project)?;
        let mut compose = compose();
        compose.args(["--project-name", &project, "--profile", profile]).env("LIMITER_SUBNET", &subnet);
        let remover = Command::new("sh")
            .args(["-c", "read -r _; exec \"$@\"", "remover"])
            .arg(compose.get_program())
            .args(compose.get_args())
            .args(["down", "--volumes", "--remove-orphans", "--timeout", "0"])
            .env("LIMITER_SUBNET", &subnet)
            // Out of reach of the terminal's Ctrl-C, which ends this process.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(ServerError::io("starting sh"))?;
        // From here on, whatever fails, the remover is dropped with this.
        let mut these = Self { containers: Vec::new(), remover };
        run(compose.args(["up", "-d"]).args(services))?;
        drop(starting);
        let label = format!("label=com.docker.compose.project={project}");
        let ids = docker(&["ps", "--all", "--quiet", "--filter", &label])?;
        these.containers = ids.lines().map(Container::inspect).collect::<Result<_, _>>()?;
        these.wait_until_healthy()?;
        Ok(these)
    }

    /// The container of a service.
    ///
    /// # Panics
    /// It was not started.
    #[must_use]
    pub fn service(&self, name: &str) -> &Container {
        let container = self.containers.iter().find(|container| container.service == name);
        container.unwrap_or_else(|| panic!("{name} is none of {:?}", self.containers))
    }

    fn wait_until_healthy(&self) -> Result<(), ServerError> {
        const STATE: &str =
            "{{with .State.Health}}{{.Status}}{{else}}{{.State.Status}} {{.State.ExitCode}}{{end}}";
        wait_until("all containers are healthy", || {
            for container in &self.containers {
                let state = docker(&["inspect", "--format", STATE, &container.id])?;
                if !["healthy", "exited 0"].contains(&&*state) {
                    return Ok(false);
                }
            }
            Ok(true)
        })
    }
}

impl Drop for Containers {
    /// Returns when all are gone.
    fn drop(&mut self) {
        drop(self.remover.stdin.take());
        let _ended = self.remover.wait();
    }
}

impl fmt::Debug for Containers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.containers).finish()
    }
}

impl Container {
    fn inspect(id: &str) -> Result<Self, ServerError> {
        let format = "{{index .Config.Labels \"com.docker.compose.service\"}}\
                      {{range $name, $network := .NetworkSettings.Networks}} {{$name}} {{$network.IPAddress}}{{end}}";
        let text = docker(&["inspect", "--format", format, id])?;
        let mut words = text.split(' ');
        let mut word = || words.next().unwrap_or_default().to_owned();
        let (service, network, ip) = (word(), word(), word());
        // One that has ended has none, and is spoken to by nobody.
        let ip = ip.parse().unwrap_or(Ipv4Addr::UNSPECIFIED);
        Ok(Self { service, id: id.to_owned(), network, ip })
    }

    /// Its address, with a port.
    #[must_use]
    pub fn addr(&self, port: u16) -> SocketAddr {
        SocketAddr::from((self.ip, port))
    }

    /// Takes it off the network: it runs on, and nobody reaches it nor is reached by it.
    ///
    /// # Errors
    /// As Docker says.
    pub fn cut_off(&self) -> Result<(), ServerError> {
        docker(&["network", "disconnect", &self.network, &self.id]).map(drop)
    }

    /// Puts it back on the network, at its address.
    ///
    /// # Errors
    /// As Docker says.
    pub fn reconnect(&self) -> Result<(), ServerError> {
        docker(&["network", "connect", "--ip", &self.ip.to_string(), &self.network, &self.id]).map(drop)
    }

    /// Stops its processes: connections stay open and new ones are made by the system, and nothing is answered.
    ///
    /// # Errors
    /// As Docker says.
    pub fn pause(&self) -> Result<(), ServerError> {
        let mut tries = 0;
        loop {
            // Under control groups of version 1 a container on a busy machine may escape being frozen; it runs on then.
            match docker(&["pause", &self.id]) {
                Err(_) if tries < 10 => tries += 1,
                done => return done.map(drop),
            }
        }
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// As Docker says.
    pub fn resume(&self) -> Result<(), ServerError> {
        docker(&["unpause", &self.id]).map(drop)
    }

    /// Kills it as a crash does (SIGKILL); its address leads nowhere then.
    ///
    /// # Errors
    /// As Docker says.
    pub fn kill(&self) -> Result<(), ServerError> {
        docker(&["kill", &self.id]).map(drop)
    }

    /// Starts it again, with the files that it had.
    ///
    /// # Errors
    /// As Docker says.
    pub fn restart(&self) -> Result<(), ServerError> {
        docker(&["start", &self.id]).map(drop)
    }

    /// Sends a command of Redis to one of its ports, on a connection of its own.
    ///
    /// # Errors
    /// The server's error, or what the connection meets.
    pub fn command<A: AsRef<[u8]>>(&self, port: u16, words: &[A]) -> Result<Value, ServerError> {
        let step = || format!("connecting to {}", self.service);
        let connection = Connection::tcp(self.addr(port), PATIENCE).map_err(ServerError::io(step()));
        connection?.command(words)
    }

    /// The value of a field of Redis' `INFO`.
    ///
    /// # Errors
    /// As [`command`](Self::command).
    pub fn info(&self, port: u16, field: &str) -> Result<Option<String>, ServerError> {
        let info = self.command(port, &["INFO", "everything"])?;
        Ok(redis::info_field(&info, field).map(str::to_owned))
    }
}

const PATIENCE: Duration = Duration::from_secs(5);

/// `docker compose`, or the older `docker-compose`, with the files.
fn compose() -> Command {
    let mut has_plugin = Command::new("docker");
    has_plugin.args(["compose", "version"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut command = if has_plugin.status().is_ok_and(|status| status.success()) {
        let mut docker = Command::new("docker");
        docker.arg("compose");
        docker
    } else {
        Command::new("docker-compose")
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_owned);
    for file in ["compose.yaml", "docker/addresses.yaml"] {
        command.arg("--file").arg(root.join(file));
    }
    command
}

/// The first three numbers of a network that is in nobody's way: Docker is asked for one, and gives it back.
fn free_subnet(project: &str) -> Result<String, ServerError> {
    docker(&["network", "create", project])?;
    let format = "{{range .IPAM.Config}}{{.Subnet}}{{end}}";
    let subnet = docker(&["network", "inspect", "--format", format, project]);
    docker(&["network", "rm", project])?;
    let subnet = subnet?;
    let numbers: Vec<&str> = subnet.split('.').take(3).collect();
    Ok(numbers.join("."))
}

fn docker(words: &[&str]) -> Result<String, ServerError> {
    run(Command::new("docker").args(words))
}

/// Runs a command to its end; what it printed.
fn run(command: &mut Command) -> Result<String, ServerError> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => ServerError::Missing {
            program: PathBuf::from(&name),
            hint: "on Debian `apt-get install docker.io docker-compose`".to_owned(),
        },
        _ => ServerError::io(format!("running {name}"))(error),
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    Err(ServerError::Refused {
        command: format!("{name} {}", words.join(" ")),
        answer: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}
