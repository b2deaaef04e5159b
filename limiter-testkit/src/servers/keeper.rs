use super::ServerError;
use std::fs::DirBuilder;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// A folder of its own, and a shell that outlives this process to clean up behind it.
///
/// The shell reads process ids from a pipe. When the pipe ends, because the keeper was dropped or this process is gone,
/// however it went, the shell kills the last process that it was told of, with its children, and removes the folder.
#[derive(Debug)]
pub(super) struct Keeper {
    folder: PathBuf,
    shell: Mutex<Child>,
}

/// An empty line: nothing to kill. A stopped process's children are stopped too, and outlive it unless killed.
const SCRIPT: &str = r#"
while read -r line; do pid=$line; done
if [ -n "$pid" ]; then
    kill -STOP "$pid"
    children=$(ps -A -o pid= -o ppid= | while read -r child parent; do
        if [ "$parent" = "$pid" ]; then echo "$child"; fi
    done)
    kill -KILL $children "$pid"
fi
rm -rf -- "$1"
"#;

impl Keeper {
    /// A folder, which belongs to `owner` if one is given.
    pub(super) fn new(name: &str, owner: Option<(u32, u32)>) -> Result<Self, ServerError> {
        let folder = std::env::temp_dir().join(format!("limiter-{name}-{:016x}", fastrand::u64(..)));
        let making = || format!("making {}", folder.display());
        DirBuilder::new().mode(0o700).create(&folder).map_err(ServerError::io(making()))?;
        if let Some((user, group)) = owner {
            chown(&folder, Some(user), Some(group)).map_err(ServerError::io(making()))?;
        }
        let shell = Command::new("sh")
            .args(["-c", SCRIPT, "keeper"])
            .arg(&folder)
            // Out of reach of the terminal's Ctrl-C, which ends this process.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(ServerError::io("starting sh"))?;
        Ok(Self { folder, shell: Mutex::new(shell) })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// What to kill when this process is gone.
    pub(super) fn watch(&self, pid: Option<u32>) {
        let mut shell = self.shell.lock().unwrap_or_else(PoisonError::into_inner);
        let line = pid.map_or_else(String::new, |pid| pid.to_string()) + "\n";
        let stdin = shell.stdin.as_mut().expect("the shell's standard input is a pipe");
        stdin.write_all(line.as_bytes()).expect("the shell reads until this process is gone");
    }
}

impl Drop for Keeper {
    /// Returns when all is cleaned up.
    fn drop(&mut self) {
        let shell = self.shell.get_mut().unwrap_or_else(PoisonError::into_inner);
        drop(shell.stdin.take());
        let _exited = shell.wait();
    }
}
