//! What happens to a container, and how it ends.

use limiter_testkit::servers::ServerError;
use limiter_testkit::servers::containers::Container;
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Off the network: it runs on, and nobody reaches it.
    Cut,
    /// Stopped: connections stay open, and nothing is answered.
    Pause,
    /// Gone, with all that it held in memory.
    Kill,
}

impl Fault {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cut => "a_primary_that_is_cut_off_the_network",
            Self::Pause => "a_primary_that_is_paused",
            Self::Kill => "a_primary_that_is_killed",
        }
    }

    pub(crate) fn begin(self, container: &Container) -> Result<(), ServerError> {
        match self {
            Self::Cut => container.cut_off(),
            Self::Pause => container.pause(),
            Self::Kill => container.kill(),
        }
    }

    pub(crate) fn end(self, container: &Container) -> Result<(), ServerError> {
        match self {
            Self::Cut => container.reconnect(),
            Self::Pause => container.resume(),
            Self::Kill => container.restart(),
        }
    }
}

/// How long servers may take to put a replica in a primary's place, and to take it back as a replica.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether a Redis is a replica that has all that its primary has; it may not be listening yet.
pub(crate) fn follows(server: &Container, port: u16) -> bool {
    let is = |field, value| server.info(port, field).is_ok_and(|found| found.as_deref() == Some(value));
    is("role", "slave") && is("master_link_status", "up")
}
