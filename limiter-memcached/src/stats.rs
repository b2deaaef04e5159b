//! What a server says of itself. The driver speaks the meta commands only, and `stats` is none of them.

use limiter_core::Timestamp;
use std::collections::HashMap;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How far a server's clock is from this process's, which decides.
///
/// A server tells whole seconds, and its clock ticks once a second: what is less than two seconds may be nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Skew {
    /// Microseconds that the server is ahead; negative: behind.
    pub ahead_micros: i64,
    /// What the truth can differ by, either way.
    pub uncertain_by: Duration,
}

impl Skew {
    /// The most that the server can be ahead.
    pub(crate) fn most_ahead(self) -> Duration {
        let Self { ahead_micros, uncertain_by } = self;
        let ahead = Duration::from_micros(ahead_micros.unsigned_abs());
        if ahead_micros < 0 { uncertain_by.saturating_sub(ahead) } else { uncertain_by.saturating_add(ahead) }
    }
}

/// What a server said of itself.
#[derive(Clone, Debug)]
pub(crate) struct Stats {
    general: HashMap<String, String>,
    settings: HashMap<String, String>,
    skew: Option<Skew>,
}

/// The oldest version with the meta commands as they are now.
const OLDEST: (u32, u32) = (1, 6);

/// More than all lines of `stats` have together.
const MOST_BYTES: usize = 64 * 1_024;

impl Stats {
    /// Asks on a connection of its own.
    ///
    /// # Errors
    /// No connection, no reply in time, or one that is none.
    pub(crate) async fn ask(address: &str, patience: Duration) -> io::Result<Self> {
        timeout(patience, Self::talk(address)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn talk(address: &str) -> io::Result<Self> {
        let mut stream = TcpStream::connect(address).await?;
        let asked = Timestamp::now();
        let general = command(&mut stream, b"stats\r\n").await?;
        let answered = Timestamp::now();
        let settings = command(&mut stream, b"stats settings\r\n").await?;
        let skew = general.get("time").and_then(|time| skew(time.parse().ok()?, asked, answered));
        Ok(Self { general, settings, skew })
    }

    pub(crate) fn skew(&self) -> Option<Skew> {
        self.skew
    }

    pub(crate) fn evictions(&self) -> u64 {
        self.general.get("evictions").and_then(|count| count.parse().ok()).unwrap_or_default()
    }

    /// What is wrong with its version, if anything is.
    pub(crate) fn is_too_old(&self) -> Option<String> {
        let version = self.general.get("version")?;
        let mut parts = version.split('.');
        let known = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let (major, minor) = OLDEST;
        (known < OLDEST).then(|| {
            format!("Memcached {version} is older than {major}.{minor}, which has the meta commands")
        })
    }

    /// The most bytes of an item, its key and head included.
    pub(crate) fn item_size_max(&self) -> Option<u64> {
        self.settings.get("item_size_max")?.parse().ok()
    }

    pub(crate) fn has_cas(&self) -> bool {
        self.settings.get("cas_enabled").is_none_or(|enabled| enabled == "yes")
    }
}

async fn command(stream: &mut TcpStream, command: &[u8]) -> io::Result<HashMap<String, String>> {
    stream.write_all(command).await?;
    let mut reply = Vec::new();
    while !reply.ends_with(b"END\r\n") {
        if reply.starts_with(b"ERROR Too many") {
            return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "it has connections enough (-c)"));
        }
        if reply.ends_with(b"\r\n") && (reply.starts_with(b"CLIENT_ERROR") || reply.starts_with(b"ERROR")) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        if reply.len() > MOST_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if stream.read_buf(&mut reply).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let text = String::from_utf8_lossy(&reply);
    let line = |line: &str| {
        let (name, value) = line.strip_prefix("STAT ")?.split_once(' ')?;
        Some((name.to_owned(), value.to_owned()))
    };
    Ok(text.lines().filter_map(line).collect())
}

/// The server's second may have ended by now, and its clock stands still between ticks: it is up to two seconds later
/// than it says.
fn skew(seconds: i64, asked: Timestamp, answered: Timestamp) -> Option<Skew> {
    const SECOND: i64 = 1_000_000;
    let [asked, answered] = [asked, answered].map(|instant| i64::try_from(instant.as_micros()).ok());
    let (asked, answered) = (asked?, answered?);
    let earliest = seconds.checked_mul(SECOND)?.checked_sub(answered)?;
    let latest = seconds.checked_add(2)?.checked_mul(SECOND)?.checked_sub(asked)?;
    let ahead_micros = earliest.checked_add(latest)? / 2;
    let uncertain_by = Duration::from_micros(latest.checked_sub(earliest)?.unsigned_abs() / 2);
    Some(Skew { ahead_micros, uncertain_by })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_second_is_up_to_two_seconds_ago() {
        let at = |micros| Timestamp::from_micros(micros).unwrap();
        let measured = skew(1_000, at(1_001_000_000), at(1_001_000_000)).unwrap();
        assert_eq!((measured.ahead_micros, measured.uncertain_by), (0, Duration::from_secs(1)));
        assert_eq!(measured.most_ahead(), Duration::from_secs(1));
        let measured = skew(2_000, at(1_000_000_000), at(1_000_200_000)).unwrap();
        assert_eq!((measured.ahead_micros, measured.uncertain_by.as_millis()), (1_000_900_000, 1_100));
        assert_eq!(measured.most_ahead(), Duration::from_secs(1_002));
        let measured = skew(0, at(1_000_000_000), at(1_000_000_000)).unwrap();
        assert_eq!(measured.ahead_micros, -999_000_000);
        assert_eq!(measured.most_ahead(), Duration::ZERO);
        assert_eq!(skew(i64::MAX, at(0), at(0)), None);
    }
}
