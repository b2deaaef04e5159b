//! What befalls a store.

use limiter_testkit::servers::{Process, ServerError};
use limiter_testkit::{Direction, Proxy};
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// SIGSTOP: connections stay, new ones are made by the system, and nothing is answered.
    Stopped,
    /// SIGKILL; down until the fault ends.
    Killed,
    /// Nothing passes, either way; what was sent arrives late.
    Blackholed,
    /// Ended in good order and started again, at its begin and at its end.
    Restarted,
    /// Replies that come, and too late for any deadline.
    Slow,
}

impl Fault {
    pub(crate) const ALL: [Self; 5] =
        [Self::Stopped, Self::Killed, Self::Blackholed, Self::Restarted, Self::Slow];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Killed => "killed",
            Self::Blackholed => "blackholed",
            Self::Restarted => "restarted",
            Self::Slow => "slow",
        }
    }

    pub(crate) fn begin(self, server: &Process, proxy: &Proxy) -> Result<(), ServerError> {
        match self {
            Self::Stopped => server.pause(),
            Self::Killed => {
                proxy.refuse();
                server.kill();
            }
            Self::Blackholed => proxy.blackhole(Direction::Both),
            Self::Restarted => restart(server, proxy)?,
            // Six deadlines.
            Self::Slow => proxy.delay(Direction::ToClient, Duration::from_millis(300)),
        }
        Ok(())
    }

    /// Ends the fault; returns when nothing stands against an answer.
    pub(crate) fn end(self, server: &Process, proxy: &Proxy) -> Result<(), ServerError> {
        match self {
            Self::Stopped => server.resume(),
            Self::Killed => {
                server.restart()?;
                proxy.heal();
            }
            Self::Blackholed | Self::Slow => proxy.heal(),
            Self::Restarted => restart(server, proxy)?,
        }
        Ok(())
    }

    /// Whether no answer can come while it lasts.
    pub(crate) fn is_silent(self) -> bool {
        self != Self::Restarted
    }

    /// How often the store may have lost what it held.
    pub(crate) fn losses(self) -> u64 {
        match self {
            Self::Killed => 1,
            Self::Restarted => 2,
            Self::Stopped | Self::Blackholed | Self::Slow => 0,
        }
    }
}

fn restart(server: &Process, proxy: &Proxy) -> Result<(), ServerError> {
    proxy.refuse();
    server.terminate();
    server.restart()?;
    proxy.heal();
    Ok(())
}
