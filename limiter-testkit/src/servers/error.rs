use std::io;
use std::path::{Path, PathBuf};

/// A server that could not be started or spoken to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// Its program is not on this machine.
    #[error("{} is not on PATH: {hint}", program.display())]
    Missing {
        /// The program that was looked for.
        program: PathBuf,
        /// How to get it.
        hint: String,
    },
    /// It came up, or not, but not as it should have.
    #[error("{program} {problem}; the end of its log:\n{log}")]
    Failed {
        /// The program.
        program: String,
        /// What was wrong.
        problem: String,
        /// The last lines that it wrote.
        log: String,
    },
    /// What the operating system said to a step of starting it.
    #[error("{step}")]
    Io {
        /// The step.
        step: String,
        /// What it said.
        source: io::Error,
    },
    /// The server's own answer to a command.
    #[error("{command}: {answer}")]
    Refused {
        /// The command's first word.
        command: String,
        /// The server's answer.
        answer: String,
    },
}

impl ServerError {
    pub(super) fn io(step: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let step = step.into();
        |source| Self::Io { step, source }
    }

    pub(super) fn failed(program: &str, problem: impl Into<String>, log: &Path) -> Self {
        Self::Failed { program: program.to_owned(), problem: problem.into(), log: tail(log) }
    }

    /// Whether the server's port was taken between its choice and the server's start.
    pub(super) fn is_port_taken(&self) -> bool {
        matches!(self, Self::Failed { log, .. } if log.contains("in use"))
    }
}

fn tail(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
