use super::ServerError;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A program of this machine's, and how to get it.
pub(super) struct Program {
    pub(super) name: &'static str,
    pub(super) hint: &'static str,
    /// Folders beside those of PATH, the best last.
    pub(super) folders: fn() -> Vec<PathBuf>,
}

impl Program {
    /// Where it is; `instead` is another program to run in its place.
    pub(super) fn find(&self, instead: Option<&Path>) -> Result<PathBuf, ServerError> {
        let wanted = instead.unwrap_or_else(|| Path::new(self.name));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&path).chain((self.folders)().into_iter().rev());
        let mut places = folders.map(|folder| folder.join(wanted));
        let missing = || ServerError::Missing { program: wanted.to_owned(), hint: self.hint.to_owned() };
        places.find(|place| place.is_file()).ok_or_else(missing)
    }
}

/// The user and group that servers run as which refuse to be root's; `None` where this process is not root's.
pub(super) fn unprivileged() -> Result<Option<(u32, u32)>, ServerError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let id = |flag: &str| {
        let output = Command::new("id").args([flag, "nobody"]).output();
        let output = output.map_err(ServerError::io("asking for the user nobody"))?;
        let refused = || ServerError::Refused {
            command: "id nobody".to_owned(),
            answer: String::from_utf8_lossy(&output.stderr).into_owned(),
        };
        String::from_utf8_lossy(&output.stdout).trim().parse().map_err(|_| refused())
    };
    Ok(Some((id("-u")?, id("-g")?)))
}
