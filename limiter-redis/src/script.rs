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
    fn of(text: String) -> Self {
        Self { script: Script::new(&text), text }
    }

    pub(crate) fn sha(&self) -> &str {
        self.script.get_hash()
    }
}

/// An algorithm whose state is one value: what its folder in `lua/` fills in where a template has capitals.
struct Plain {
    name: &'static str,
    load: &'static str,
    look: &'static str,
    take: &'static str,
    write: &'static str,
    /// How many numbers a quota has.
    numbers: usize,
}

macro_rules! plain {
    ($name:literal, $numbers:literal) => {
        Plain {
            name: $name,
            load: include_str!(concat!("lua/", $name, "/load.lua")),
            look: include_str!(concat!("lua/", $name, "/look.lua")),
            take: include_str!(concat!("lua/", $name, "/take.lua")),
            write: include_str!(concat!("lua/", $name, "/write.lua")),
            numbers: $numbers,
        }
    };
}

const BUCKET: Plain = plain!("bucket", 6);
const FIXED_WINDOW: Plain = plain!("fixed_window", 2);
const SLIDING_COUNTER: Plain = plain!("sliding_counter", 2);

impl Plain {
    fn fill(&self, template: &str) -> String {
        let names: Vec<String> = (1..=self.numbers).map(|number| format!("q{number}")).collect();
        template
            .replace("QUOTAS", &names.join(", "))
            .replace("QUOTA", &"d".repeat(self.numbers))
            .replace("NAME", self.name)
            .replace("LOAD\n", self.load)
            .replace("LOOK\n", self.look)
            .replace("TAKE\n", self.take)
            .replace("WRITE\n", self.write)
    }

    fn in_a_batch(&self) -> String {
        self.fill(include_str!("lua/plain.lua"))
    }

    fn alone(&self) -> Source {
        Source::of(self.fill(include_str!("lua/one.lua")))
    }
}

/// What a batch needs of the script. A server makes all of a script's functions and tables anew for each call, which
/// costs more than a decision: it gets no more of them than are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs(usize);

impl Needs {
    /// Requests that are not taken one check at a time. The algorithms are the bits below.
    const ALL_OR_NOTHING: usize = 16;

    const COUNT: usize = 2 * Self::ALL_OR_NOTHING;

    pub(crate) fn algorithm(&mut self, algorithm: Algorithm) {
        self.0 |= match algorithm {
            Algorithm::TokenBucket | Algorithm::LeakyBucket => 1,
            Algorithm::FixedWindow => 2,
            Algorithm::SlidingCounter => 4,
            Algorithm::SlidingLog => 8,
        };
    }

    pub(crate) fn all_or_nothing(&mut self) {
        self.0 |= Self::ALL_OR_NOTHING;
    }

    /// What a batch begins with, for these needs.
    fn head(self) -> String {
        let algorithms = [&BUCKET, &FIXED_WINDOW, &SLIDING_COUNTER].into_iter().enumerate();
        let needed = algorithms.filter(|(i, _)| self.0 & 1 << i != 0).map(|(_, plain)| plain.in_a_batch());
        let log = if self.0 & 8 == 0 { "" } else { include_str!("lua/sliding_log.lua") };
        let batch = include_str!("lua/batch.lua");
        [batch, &needed.collect::<String>(), log, include_str!("lua/quotas.lua")].concat()
    }

    /// The script that decides a batch of these needs.
    pub(crate) fn decide(self) -> &'static Source {
        static DECIDE: LazyLock<Vec<Source>> =
            LazyLock::new(|| (0..Needs::COUNT).map(Needs::source).collect());
        &DECIDE[self.0 % Self::COUNT]
    }

    fn source(needs: usize) -> Source {
        let all = if needs & Self::ALL_OR_NOTHING == 0 { "" } else { include_str!("lua/decide_all.lua") };
        let (reply, decide) = (include_str!("lua/reply.lua"), include_str!("lua/decide.lua"));
        Source::of([&Self(needs).head(), reply, all, decide].concat())
    }
}

/// The script that decides equal requests in a row, of one check, where nothing else is in the batch; `None` for logs,
/// which have no shorter one.
pub(crate) fn decide_alone(algorithm: Algorithm) -> Option<&'static Source> {
    static BUCKETS: LazyLock<Source> = LazyLock::new(|| BUCKET.alone());
    static WINDOWS: LazyLock<Source> = LazyLock::new(|| FIXED_WINDOW.alone());
    static COUNTERS: LazyLock<Source> = LazyLock::new(|| SLIDING_COUNTER.alone());
    match algorithm {
        Algorithm::TokenBucket | Algorithm::LeakyBucket => Some(&BUCKETS),
        Algorithm::FixedWindow => Some(&WINDOWS),
        Algorithm::SlidingCounter => Some(&COUNTERS),
        Algorithm::SlidingLog => None,
    }
}

/// Gives back what one check has taken.
pub(crate) static GIVE_BACK: LazyLock<Source> = LazyLock::new(|| {
    let all = Needs(Needs::ALL_OR_NOTHING - 1);
    Source::of([&all.head(), include_str!("lua/give_back.lua")].concat())
});

/// Forgets states.
pub(crate) static RESET: LazyLock<Source> =
    LazyLock::new(|| Source::of(include_str!("lua/reset.lua").to_owned()));
