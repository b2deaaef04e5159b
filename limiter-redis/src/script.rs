//! The scripts, assembled from the files in `lua/`.

use redis::Script;
use std::sync::LazyLock;

/// A script: its text, and the digest by which a server that has seen it knows it.
pub(crate) struct Source {
    pub(crate) text: &'static str,
    script: LazyLock<Script>,
}

impl Source {
    pub(crate) fn sha(&self) -> &str {
        self.script.get_hash()
    }
}

macro_rules! source {
    ($($file:literal),+) => {{
        const TEXT: &str = concat!($(include_str!(concat!("lua/", $file))),+);
        Source { text: TEXT, script: LazyLock::new(|| Script::new(TEXT)) }
    }};
}

/// Decides a batch.
pub(crate) static DECIDE: Source = source!(
    "batch.lua",
    "bucket.lua",
    "fixed_window.lua",
    "sliding_counter.lua",
    "sliding_log.lua",
    "quotas.lua",
    "decide.lua"
);

/// Gives back what one check has taken.
pub(crate) static GIVE_BACK: Source = source!(
    "batch.lua",
    "bucket.lua",
    "fixed_window.lua",
    "sliding_counter.lua",
    "sliding_log.lua",
    "quotas.lua",
    "give_back.lua"
);

/// Forgets states.
pub(crate) static RESET: Source = source!("reset.lua");
