//! Where and when a comparison ran, and with which versions.

use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;
use std::process::Command;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// What a reader must know to weigh the figures, or to run it again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// The command.
    pub command: String,
    /// When it began, in UTC.
    pub date: String,
    /// The commit that was built, and whether files differed from it.
    pub commit: String,
    /// Processor, cores and memory.
    pub machine: String,
    /// The kernel.
    pub system: String,
    /// The load average when it began: whether others were at work.
    pub busy: String,
    /// Compiler, servers and crates, with their versions.
    pub versions: Vec<String>,
}

/// Crates whose versions matter to the figures.
const CRATES: [&str; 5] = ["redis", "tokio-postgres", "memcache", "tokio", "hdrhistogram"];

impl Setting {
    /// This machine, now.
    #[must_use]
    pub fn here(command: String) -> Self {
        let now = OffsetDateTime::now_utc();
        let now = now.replace_nanosecond(0).unwrap_or(now);
        let dirty = output("git", &["status", "--porcelain", "--untracked-files=no"]);
        let commit = output("git", &["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(unknown);
        let changed = if dirty.is_some_and(|files| !files.is_empty()) { ", with changes" } else { "" };
        let lock = include_str!("../../../Cargo.lock");
        let crates = versions(lock, &CRATES);
        Self {
            command,
            date: now.format(&Rfc3339).unwrap_or_default(),
            commit: format!("{commit}{changed}"),
            machine: machine(),
            system: format!(
                "{} {}",
                std::env::consts::OS,
                first_words(&read("/proc/sys/kernel/osrelease"), 1).unwrap_or_else(unknown)
            ),
            busy: first_words(&read("/proc/loadavg"), 3).unwrap_or_else(unknown),
            versions: output("rustc", &["--version"]).into_iter().chain(crates).collect(),
        }
    }
}

fn machine() -> String {
    let value = |file: &str, name: &str| {
        let line = read(file).lines().find(|line| line.starts_with(name))?.to_owned();
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let processor = value("/proc/cpuinfo", "model name").unwrap_or_else(unknown);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let memory =
        value("/proc/meminfo", "MemTotal").and_then(|kib| kib.split(' ').next()?.parse::<u64>().ok());
    let memory = memory.map_or_else(unknown, |kib| format!("{:.0} GiB", crate::float(kib) / 1_048_576.0));
    format!("{processor}, {cores} cores, {memory}")
}

fn unknown() -> String {
    "unknown".to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn first_words(text: &str, number: usize) -> Option<String> {
    let words: Vec<_> = text.split_whitespace().take(number).collect();
    (!words.is_empty()).then(|| words.join(" "))
}

fn output(program: &str, args: &[&str]) -> Option<String> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(program).args(args).current_dir(here).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Names and versions of those of these packages that are in a `Cargo.lock`.
#[must_use]
pub fn versions(lock: &str, names: &[&str]) -> Vec<String> {
    names.iter().filter_map(|name| Some(format!("{name} {}", version(lock, name)?))).collect()
}

/// The version of a package in a `Cargo.lock`.
fn version<'l>(lock: &'l str, name: &str) -> Option<&'l str> {
    let (_, package) = lock.split_once(&format!("name = \"{name}\"\nversion = \""))?;
    Some(package.split_once('"')?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_those_of_the_lock_file() {
        let lock = "[[package]]\nname = \"redis-x\"\nversion = \"9.9.9\"\n\n[[package]]\nname = \"redis\"\nversion = \"1.2.3\"\n";
        assert_eq!(version(lock, "redis"), Some("1.2.3"));
        assert_eq!(version(lock, "tokio"), None);
        let here = Setting::here(String::new());
        for name in CRATES {
            assert!(here.versions.iter().any(|version| version.starts_with(name)), "{name}");
        }
    }
}
