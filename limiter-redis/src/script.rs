//! The scripts, assembled from the files in `lua/`.

use limiter_core::Algorithm;
use redis::Script;
use std::sync::LazyLock;

/// A script: its text, and the digest by which a server that has seen it knows it.
pub(crate) struct Source {
    pub(crate) text: String,
    script: Script,
}

impl Source {
    fn of(files: &[&str]) -> Self {
        let text = files.concat();
        Self { script: Script::new(&text), text }
    }

    pub(crate) fn sha(&self) -> &str {
        self.script.get_hash()
    }
}

/// What a batch needs of the script. A server makes all of a script's functions anew for each call, which costs more
/// than a decision: it gets no more of them than are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs(usize);

impl Needs {
    /// The algorithms' files, each a bit.
    const FILES: [&str; 4] = [
        include_str!("lua/bucket.lua"),
        include_str!("lua/fixed_window.lua"),
        include_str!("lua/sliding_log.lua"),
        include_str!("lua/sliding_counter.lua"),
    ];

    /// Requests that are not taken one check at a time.
    const ALL_OR_NOTHING: usize = 1 << Self::FILES.len();

    const COUNT: usize = 2 * Self::ALL_OR_NOTHING;

    pub(crate) fn algorithm(&mut self, algorithm: Algorithm) {
        self.0 |= match algorithm {
            Algorithm::TokenBucket | Algorithm::LeakyBucket => 1,
            Algorithm::FixedWindow => 2,
            Algorithm::SlidingLog => 4,
            Algorithm::SlidingCounter => 8,
        };
    }

    pub(crate) fn all_or_nothing(&mut self) {
        self.0 |= Self::ALL_OR_NOTHING;
    }

    fn algorithms(self) -> impl Iterator<Item = &'static str> {
        Self::FILES.into_iter().enumerate().filter(move |(i, _)| self.0 & 1 << i != 0).map(|(_, file)| file)
    }

    /// The script that decides a batch of these needs.
    pub(crate) fn decide(self) -> &'static Source {
        static DECIDE: LazyLock<Vec<Source>> = LazyLock::new(|| {
            (0..Needs::COUNT)
                .map(|needs| {
                    let all = if needs & Needs::ALL_OR_NOTHING == 0 {
                        ""
                    } else {
                        include_str!("lua/decide_all.lua")
                    };
                    let mut files = vec![include_str!("lua/batch.lua")];
                    files.extend(Needs(needs).algorithms());
                    files.extend([
                        include_str!("lua/quotas.lua"),
                        include_str!("lua/reply.lua"),
                        all,
                        include_str!("lua/decide.lua"),
                    ]);
                    Source::of(&files)
                })
                .collect()
        });
        &DECIDE[self.0 % Self::COUNT]
    }
}

/// Gives back what one check has taken.
pub(crate) static GIVE_BACK: LazyLock<Source> = LazyLock::new(|| {
    let mut files = vec![include_str!("lua/batch.lua")];
    files.extend(Needs::FILES);
    files.extend([include_str!("lua/quotas.lua"), include_str!("lua/give_back.lua")]);
    Source::of(&files)
});

/// Forgets states.
pub(crate) static RESET: LazyLock<Source> = LazyLock::new(|| Source::of(&[include_str!("lua/reset.lua")]));
