//! Traffic from the access log of a web server, in common or combined log format: the client's address is the key.
//!
//! Source of the formats: Apache HTTP Server's `mod_log_config`, which nginx and others write too.

use super::trace::{Arrival, Trace};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use time::OffsetDateTime;
use time::format_description::StaticFormatDescription;
use time::macros::format_description;

/// A trace, and how many lines were none of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// The requests.
    pub trace: Trace,
    /// Lines that are not in the format, or of a time before 1970.
    pub skipped: u64,
}

/// Why a log cannot be replayed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// It cannot be read.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: String,
        /// What the system says.
        error: io::Error,
    },
    /// No line of it is in the format.
    #[error("{path}: none of {lines} lines is in common or combined log format")]
    NoLine {
        /// The file.
        path: String,
        /// Its lines.
        lines: u64,
    },
}

const TIME: StaticFormatDescription = format_description!(
    "[day]/[month repr:short]/[year]:[hour]:[minute]:[second] [offset_hour sign:mandatory][offset_minute]"
);

/// Reads a log, of which nothing is kept but an instant and an index per line.
///
/// Servers write a line when the answer is sent, so that lines are sorted by the instants in them. These are whole
/// seconds: requests of one second come at once, in the order of their clients' first appearance.
///
/// # Errors
/// The file cannot be read, or has no line in the format.
pub fn read(path: &Path) -> Result<Parsed, LogError> {
    let failed = |error| LogError::Io { path: path.display().to_string(), error };
    let file = BufReader::new(File::open(path).map_err(failed)?);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let (parsed, lines) = parse(file, &name).map_err(failed)?;
    if parsed.trace.arrivals.is_empty() {
        return Err(LogError::NoLine { path: path.display().to_string(), lines });
    }
    Ok(parsed)
}

/// Parses a log; also how many lines it has. Bytes that are not UTF-8 are as good as others.
fn parse(mut log: impl BufRead, name: &str) -> io::Result<(Parsed, u64)> {
    let (mut keys, mut arrivals, mut lines) = (HashMap::new(), Vec::new(), 0);
    let mut line = Vec::new();
    while log.read_until(b'\n', &mut line)? > 0 {
        lines += 1;
        let text = String::from_utf8_lossy(&line);
        if let Some((host, at)) = client_and_instant(&text) {
            let next = keys.len();
            let key = *keys.entry(host.to_owned()).or_insert(next);
            arrivals.push(Arrival { at, key });
        }
        line.clear();
    }
    let skipped = lines - arrivals.len() as u64;
    let about = format!("an access log of {} requests by {} clients", arrivals.len(), keys.len());
    Ok((Parsed { trace: Trace::new(name, &about, keys.len(), arrivals), skipped }, lines))
}

/// The client and the instant, in us since the epoch, of a line such as
/// `192.0.2.7 - - [10/Oct/2026:13:55:36 -0700] "GET / HTTP/1.1" 200 2326`.
fn client_and_instant(line: &str) -> Option<(&str, u64)> {
    let (host, rest) = line.split_once(' ')?;
    // The name of a user may hold brackets; the request comes after the time, in quotes.
    let (before, rest) = rest.split_once("] \"")?;
    let (_, time) = before.rsplit_once('[')?;
    let seconds = OffsetDateTime::parse(time, TIME).ok()?.unix_timestamp();
    let at = u64::try_from(seconds).ok()?.checked_mul(1_000_000)?;
    (!host.is_empty() && !rest.is_empty()).then_some((host, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMON: &str = r#"192.0.2.7 - frank [10/Oct/2026:13:55:36 -0700] "GET /a.gif HTTP/1.0" 200 2326"#;
    const COMBINED: &str = r#"2001:db8::1 - - [10/Oct/2026:22:55:37 +0200] "GET / HTTP/1.1" 304 - "https://example.org/" "a [b] \"c\"""#;

    #[test]
    fn both_formats_and_any_zone() {
        // 20:55:36 in UTC.
        assert_eq!(client_and_instant(COMMON), Some(("192.0.2.7", 1_791_665_736_000_000)));
        assert_eq!(client_and_instant(COMBINED), Some(("2001:db8::1", 1_791_665_737_000_000)));
    }

    #[test]
    fn what_is_no_line_of_a_log() {
        for line in [
            "",
            "\n",
            "192.0.2.7",
            "192.0.2.7 - - [10/Oct/2026:13:55:36 -0700]",
            r#"192.0.2.7 - - [31/Feb/2026:13:55:36 -0700] "GET / HTTP/1.0" 200 1"#,
            r#"192.0.2.7 - - [10/Oct/1926:13:55:36 -0700] "GET / HTTP/1.0" 200 1"#,
            r#"192.0.2.7 - - [10/Oct/2026 13:55:36 -0700] "GET / HTTP/1.0" 200 1"#,
            r#" - - [10/Oct/2026:13:55:36 -0700] "GET / HTTP/1.0" 200 1"#,
        ] {
            assert_eq!(client_and_instant(line), None, "{line:?}");
        }
    }

    #[test]
    fn sorted_counted_and_keyed_by_client() -> io::Result<()> {
        let log = format!("{COMBINED}\nnonsense \u{fffd}\n{COMMON}\n{COMBINED}\n");
        let mut log = log.into_bytes();
        log.extend_from_slice(b"\xff\xfe not text\n");
        let (Parsed { trace, skipped }, lines) = parse(&log[..], "log")?;
        assert_eq!((trace.keys, skipped, lines), (2, 2, 5));
        let later = Arrival { at: 1_791_665_737_000_000, key: 0 };
        assert_eq!(trace.arrivals, [Arrival { at: 1_791_665_736_000_000, key: 1 }, later, later]);
        Ok(())
    }

    #[test]
    fn a_file_without_lines_is_an_error() {
        let error = read(Path::new(file!())).map(|parsed| parsed.skipped);
        assert!(matches!(error, Err(LogError::Io { .. } | LogError::NoLine { .. })), "{error:?}");
        let error =
            read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).map(|parsed| parsed.skipped);
        assert!(matches!(error, Err(LogError::NoLine { lines: 1.., .. })), "{error:?}");
    }
}
