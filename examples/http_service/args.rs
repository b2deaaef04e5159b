//! What the examples take from the command line and the environment.

use distributed_rate_limiter::{Backend, connect};
use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

/// Why an example ends early.
pub(crate) enum Failure {
    /// It was asked for something that it does not do.
    Usage(String),
    /// It was asked for something that did not work out.
    Failed(String),
}

impl Failure {
    /// Says why on stderr.
    pub(crate) fn report(self, example: &str) -> ExitCode {
        match self {
            Self::Usage(why) => {
                eprintln!("{example}: {why} (--help says what there is)");
                ExitCode::from(2)
            }
            Self::Failed(why) => {
                eprintln!("{example}: {why}");
                ExitCode::FAILURE
            }
        }
    }
}

/// The flags of a command line, each with its value.
#[derive(Debug, PartialEq)]
pub(crate) struct Flags(Vec<(String, String)>);

impl Flags {
    /// `--flag value` or `--flag=value`, of those `known`; `None`: `--help` is asked for.
    pub(crate) fn parse(
        args: impl IntoIterator<Item = OsString>,
        known: &[&str],
    ) -> Result<Option<Self>, String> {
        let mut args =
            args.into_iter().map(|arg| arg.into_string().map_err(|arg| format!("{arg:?} is no text")));
        let mut flags = Vec::new();
        while let Some(arg) = args.next().transpose()? {
            if arg == "--help" || arg == "-h" {
                return Ok(None);
            }
            let (flag, value) = match arg.split_once('=') {
                Some((flag, value)) => (flag.to_owned(), Some(value.to_owned())),
                None => (arg, None),
            };
            if !known.contains(&&*flag) {
                return Err(format!("{flag:?} is no flag of this example"));
            }
            let value = match value {
                Some(value) => value,
                None => args.next().transpose()?.ok_or_else(|| format!("{flag} needs a value"))?,
            };
            flags.push((flag, value));
        }
        Ok(Some(Self(flags)))
    }

    /// The value of a flag; of one given twice, the last.
    pub(crate) fn get(&self, flag: &str) -> Option<&str> {
        self.0.iter().rev().find(|(name, _)| name == flag).map(|(_, value)| &**value)
    }

    /// The store: `--store`, else `LIMITER_STORE`, else this process's memory.
    pub(crate) fn store(&self) -> Result<Arc<dyn Backend>, Failure> {
        // The URL itself is not shown: it may hold a password.
        let open =
            |source: &str, url: &str| connect(url).map_err(|e| Failure::Usage(format!("{source}: {e}")));
        match (self.get("--store"), std::env::var("LIMITER_STORE")) {
            (Some(url), _) => open("--store", url),
            (None, Ok(url)) => open("LIMITER_STORE", &url),
            (None, Err(std::env::VarError::NotPresent)) => open("the default", "memory://"),
            (None, Err(std::env::VarError::NotUnicode(_))) => {
                Err(Failure::Usage("LIMITER_STORE: the URL is no text".to_owned()))
            }
        }
    }
}
