use super::ServerError;
use super::keeper::Keeper;
use super::process::{Home, Kind, Process};
use super::program::{Program, unprivileged};
use rustix::process::Signal;
use std::ops::Deref;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// A PostgreSQL server: a [`Process`] with one superuser, `limiter`, who needs no password.
///
/// By default it does not wait for its disk: a killed server keeps its data, a machine that loses power does not.
/// `.config("fsync", "on").config("full_page_writes", "on")` is how it runs in production. A restart finds its data.
#[derive(Debug)]
pub struct Postgres {
    process: Process,
    programs: PathBuf,
}

/// How a [`Postgres`] is started.
#[derive(Clone, Debug, Default)]
#[must_use = "a builder starts nothing until it is told to"]
pub struct PostgresBuilder {
    programs: Option<PathBuf>,
    options: Vec<(String, String)>,
}

const PROGRAM: Program = Program {
    name: "postgres",
    hint: "on Debian `apt-get install postgresql`, on macOS `brew install postgresql@17`; or set \
           LIMITER_TEST_POSTGRES_URL, which serves the tests that need no server of their own",
    folders: packaged,
};

/// Where Debian and Homebrew put the programs, by rising version.
fn packaged() -> Vec<PathBuf> {
    let version = |folder: &Path| {
        let digits = |c: char| c.is_ascii_digit();
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.trim_start_matches(|c| !digits(c))
            .split(|c| !digits(c))
            .next()
            .and_then(|n| n.parse::<u32>().ok())
    };
    let mut found = Vec::new();
    for parent in ["/usr/lib/postgresql", "/opt/homebrew/opt", "/usr/local/opt"] {
        let entries = std::fs::read_dir(parent).into_iter().flatten().flatten().map(|entry| entry.path());
        let of_postgres = |folder: &PathBuf| folder.to_string_lossy().contains("/postgresql");
        found.extend(entries.filter(of_postgres).filter_map(|folder| Some((version(&folder)?, folder))));
    }
    found.sort();
    found.into_iter().map(|(_, folder)| folder.join("bin")).collect()
}

impl Postgres {
    /// A server with default options.
    ///
    /// # Errors
    /// It is not on this machine, or does not come up.
    pub fn start() -> Result<Self, ServerError> {
        Self::builder().start()
    }

    /// A server with options.
    pub fn builder() -> PostgresBuilder {
        PostgresBuilder::default()
    }

    /// Its URL: the user `limiter` and the database `postgres`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://limiter@{}/postgres", self.addr())
    }

    /// The folder of its Unix socket.
    #[must_use]
    pub fn unix_socket_folder(&self) -> &Path {
        self.folder()
    }

    /// Runs statements through `psql`; what they print, a line per row, fields split by `|`.
    ///
    /// # Errors
    /// [`ServerError::Refused`] with the server's answer, or `psql` cannot be run.
    pub fn sql(&self, statements: &str) -> Result<String, ServerError> {
        let output = Command::new(self.programs.join("psql"))
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "limiter", "-d", "postgres"])
            .args(["-p", &self.port().to_string(), "-c", statements, "-h"])
            .arg(self.folder())
            .output()
            .map_err(ServerError::io("running psql"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned());
        }
        let answer = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
        Err(ServerError::Refused { command: "psql".to_owned(), answer })
    }
}

impl Deref for Postgres {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl PostgresBuilder {
    /// A setting of `postgresql.conf`.
    pub fn config(mut self, setting: impl Into<String>, value: impl Into<String>) -> Self {
        self.options.push((setting.into(), value.into()));
        self
    }

    /// Other programs than those on PATH, Debian's or Homebrew's: the folder of `postgres`, `initdb` and `psql`.
    pub fn programs(self, folder: impl Into<PathBuf>) -> Self {
        Self { programs: Some(folder.into()), ..self }
    }

    /// Starts it, and returns when it answers. The first of a process takes about a second longer.
    ///
    /// # Errors
    /// It is not on this machine, or does not come up.
    pub fn start(self) -> Result<Postgres, ServerError> {
        let wanted = self.programs.map(|folder| folder.join(PROGRAM.name));
        let program = PROGRAM.find(wanted.as_deref())?;
        // On PATH there may be but a link to it, without the others beside it.
        let program = program.canonicalize().map_err(ServerError::io("finding initdb beside postgres"))?;
        let programs = program.parent().map(Path::to_path_buf).unwrap_or_default();
        let kind = PostgresKind { programs: programs.clone(), options: self.options, owner: unprivileged()? };
        Ok(Postgres { process: Process::start(kind)?, programs })
    }
}

struct PostgresKind {
    programs: PathBuf,
    options: Vec<(String, String)>,
    owner: Option<(u32, u32)>,
}

/// A data folder per folder of programs, which every server starts with a copy of.
static TEMPLATES: Mutex<Vec<(PathBuf, Keeper)>> = Mutex::new(Vec::new());

impl PostgresKind {
    fn run(&self, mut command: Command) -> Result<(), ServerError> {
        if let Some((user, group)) = self.owner {
            command.uid(user).gid(group);
        }
        let name = command.get_program().to_string_lossy().into_owned();
        let output = command.current_dir("/").output().map_err(ServerError::io(format!("running {name}")))?;
        if output.status.success() {
            return Ok(());
        }
        let answer = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(ServerError::Refused { command: name, answer })
    }

    /// A data folder as `initdb` makes it.
    fn template(&self) -> Result<PathBuf, ServerError> {
        let mut templates = TEMPLATES.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((_, keeper)) = templates.iter().find(|(programs, _)| *programs == self.programs) {
            return Ok(data(keeper.folder()));
        }
        let keeper = Keeper::new("initdb", self.owner)?;
        let folder = data(keeper.folder());
        let mut initdb = Command::new(self.programs.join("initdb"));
        initdb
            .args(["--no-sync", "-A", "trust", "-U", "limiter", "-E", "UTF8", "--locale", "C", "-D"])
            .arg(&folder);
        self.run(initdb)?;
        templates.push((self.programs.clone(), keeper));
        Ok(folder)
    }
}

impl Kind for PostgresKind {
    fn name(&self) -> &'static str {
        PROGRAM.name
    }

    fn owner(&self) -> Option<(u32, u32)> {
        self.owner
    }

    fn prepare(&self, home: &Home) -> Result<(), ServerError> {
        let mut copy = Command::new("cp");
        copy.arg("-Rp").arg(self.template()?).arg(data(&home.folder));
        self.run(copy)
    }

    fn command(&self, home: &Home) -> Command {
        let mut command = Command::new(self.programs.join(PROGRAM.name));
        command.arg("-D").arg(data(&home.folder)).args(["-h", "127.0.0.1", "-p", &home.port.to_string()]);
        command.arg("-k").arg(&home.folder);
        let defaults = [("fsync", "off"), ("full_page_writes", "off")];
        let options = self.options.iter().map(|(setting, value)| (setting.as_str(), value.as_str()));
        for (setting, value) in defaults.into_iter().chain(options) {
            command.args(["-c", &format!("{setting}={value}")]);
        }
        command
    }

    /// A fast shutdown; at a SIGTERM it would wait for its clients.
    fn ending(&self) -> Signal {
        Signal::INT
    }

    /// As `pg_ctl` asks: the first line of this file is the process, the eighth its state.
    fn answers(&self, home: &Home, pid: u32) -> Result<(), String> {
        let file = std::fs::read_to_string(data(&home.folder).join("postmaster.pid"));
        let file = file.map_err(|error| error.to_string())?;
        let lines: Vec<&str> = file.lines().map(str::trim).collect();
        match (lines.first(), lines.get(7)) {
            (Some(line), Some(&"ready")) if *line == pid.to_string() => Ok(()),
            (_, state) => Err(format!("its state is {state:?}")),
        }
    }
}

fn data(folder: &Path) -> PathBuf {
    folder.join("data")
}
