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
    /// Whether an integer that was read and is to be `x` need not be told when it expires.
    keeps: &'static str,
    /// How many numbers a quota has.
    numbers: usize,
    /// How a script knows the algorithm by its number, that of [`Algorithm::ALL`].
    is_it: &'static str,
}

macro_rules! plain {
    ($name:literal, $numbers:literal, $is_it:literal, $keeps:expr) => {
        Plain {
            name: $name,
            load: include_str!(concat!("lua/", $name, "/load.lua")),
            look: include_str!(concat!("lua/", $name, "/look.lua")),
            take: include_str!(concat!("lua/", $name, "/take.lua")),
            write: include_str!(concat!("lua/", $name, "/write.lua")),
            keeps: $keeps,
            numbers: $numbers,
            is_it: $is_it,
        }
    };
}

const BUCKET: Plain = plain!("bucket", 6, "algorithm < 2", include_str!("lua/bucket/keeps.lua"));
const FIXED_WINDOW: Plain = plain!("fixed_window", 2, "algorithm == 2", "false");
const SLIDING_COUNTER: Plain = plain!("sliding_counter", 2, "algorithm == 4", "false");

impl Plain {
    fn fill(&self, template: &str) -> String {
        let names: Vec<String> = (1..=self.numbers).map(|number| format!("q{number}")).collect();
        template
            .replace("QUOTAS", &names.join(", "))
            .replace("QUOTA", &"d".repeat(self.numbers))
            .replace("NAME", self.name)
            .replace("IS_IT", self.is_it)
            .replace("LOAD\n", self.load)
            .replace("LOOK\n", self.look)
            .replace("TAKE\n", self.take)
            .replace("WRITE\n", self.write)
            .replace("KEEPS", self.keeps.trim_end())
    }

    fn in_order(&self) -> String {
        self.fill(include_str!("lua/in_order/plain.lua"))
    }

    fn in_groups(&self) -> String {
        self.fill(include_str!("lua/in_groups/plain.lua"))
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

    /// Of the algorithms of plain states that are needed, what makes them of a template.
    fn plain(self, fill: fn(&Plain) -> String) -> String {
        let algorithms = [&BUCKET, &FIXED_WINDOW, &SLIDING_COUNTER].into_iter().enumerate();
        algorithms.filter(|(i, _)| self.0 & 1 << i != 0).map(|(_, plain)| fill(plain)).collect()
    }

    /// This text, if logs are needed.
    fn for_logs(self, text: &'static str) -> &'static str {
        if self.0 & 8 == 0 { "" } else { text }
    }

    /// What a batch begins with, for these needs.
    fn head(self) -> String {
        let (batch, quotas) =
            (include_str!("lua/in_order/batch.lua"), include_str!("lua/in_order/quotas.lua"));
        [batch, &self.plain(Plain::in_order), self.for_logs(SLIDING_LOG), quotas].concat()
    }

    /// The script that decides a batch of these needs in order.
    pub(crate) fn decide_in_order(self) -> &'static Source {
        static DECIDE: LazyLock<Vec<Source>> =
            LazyLock::new(|| (0..Needs::COUNT).map(|needs| Needs(needs).in_order()).collect());
        &DECIDE[self.0 % Self::COUNT]
    }

    fn in_order(self) -> Source {
        let all = if self.0 & Self::ALL_OR_NOTHING == 0 {
            ""
        } else {
            include_str!("lua/in_order/all_or_nothing.lua")
        };
        let (reply, decide) =
            (include_str!("lua/in_order/reply.lua"), include_str!("lua/in_order/decide.lua"));
        Source::of([&self.head(), reply, all, decide, PACK].concat())
    }

    /// The script that decides a batch of these needs in groups.
    pub(crate) fn decide_in_groups(self) -> &'static Source {
        static DECIDE: LazyLock<Vec<Source>> =
            LazyLock::new(|| (0..Needs::ALL_OR_NOTHING).map(|needs| Needs(needs).in_groups()).collect());
        &DECIDE[self.0 % Self::ALL_OR_NOTHING]
    }

    fn in_groups(self) -> Source {
        let groups = include_str!("lua/in_groups/batch.lua")
            .replace("LOGS\n", self.for_logs(SLIDING_LOG))
            .replace("PLAIN_GROUPS\n", &self.plain(Plain::in_groups))
            .replace("LOG_GROUPS\n", self.for_logs(include_str!("lua/in_groups/log.lua")));
        Source::of([&groups, PACK].concat())
    }
}

const SLIDING_LOG: &str = include_str!("lua/sliding_log.lua");

/// What a script ends with.
const PACK: &str = include_str!("lua/pack.lua");

/// Gives back what one check has taken.
pub(crate) static GIVE_BACK: LazyLock<Source> = LazyLock::new(|| {
    let all = Needs(Needs::ALL_OR_NOTHING - 1);
    Source::of([&all.head(), include_str!("lua/give_back.lua")].concat())
});

/// Forgets states.
pub(crate) static RESET: LazyLock<Source> =
    LazyLock::new(|| Source::of(include_str!("lua/reset.lua").to_owned()));
