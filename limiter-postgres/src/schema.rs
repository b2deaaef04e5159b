//! The tables and functions, assembled from the files in `sql/`, under names of the user's choice.

use crate::builder::{ConfigError, Durability};
use std::sync::Arc;

/// The version of the tables and functions; each instance works with its own alone.
pub(crate) const VERSION: i32 = 1;

/// What PostgreSQL's names can have, less the longest suffix that is put behind a table's.
const MAX_NAME: usize = 63;
const LONGEST_SUFFIX: &str = "_look_log";

/// The statements that are sent, and the script that makes what they name.
#[derive(Debug)]
pub(crate) struct Schema {
    pub(crate) take: Arc<str>,
    pub(crate) decide: Arc<str>,
    pub(crate) held: Arc<str>,
    pub(crate) one: Arc<str>,
    pub(crate) reset: Arc<str>,
    pub(crate) sweep: Arc<str>,
    pub(crate) version: Arc<str>,
    pub(crate) persistence: Arc<str>,
    pub(crate) script: String,
}

impl Schema {
    pub(crate) fn new(schema: &str, table: &str, durability: Durability) -> Result<Self, ConfigError> {
        check("schema", schema, MAX_NAME)?;
        check("table", table, MAX_NAME - LONGEST_SUFFIX.len())?;
        let names = Names { schema, table };
        Ok(Self {
            take: filled(include_str!("sql/take.sql"), &names, durability).into(),
            decide: format!("SELECT {}($1, $2, $3, $4, $5, $6)", names.quoted("_decide")).into(),
            held: filled(include_str!("sql/held.sql"), &names, durability).into(),
            one: format!(
                "SELECT {}($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
                names.quoted("_one")
            )
            .into(),
            reset: format!("SELECT {}($1)", names.quoted("_reset")).into(),
            sweep: format!("SELECT deleted, is_last FROM {}($1)", names.quoted("_sweep")).into(),
            version: format!("SELECT max(version) FROM {}", names.quoted("_meta")).into(),
            persistence: format!(
                "SELECT relpersistence = '{}' FROM pg_class WHERE oid = {}::regclass",
                durability.persistence(),
                names.literal("")
            )
            .into(),
            script: script(&names, durability),
        })
    }
}

/// A name as a user gives it, any text: it is quoted wherever it stands.
fn check(what: &'static str, name: &str, max: usize) -> Result<(), ConfigError> {
    if name.is_empty() || name.len() > max || name.contains('\0') {
        return Err(ConfigError::Name { what, name: name.to_owned(), max });
    }
    Ok(())
}

struct Names<'a> {
    schema: &'a str,
    table: &'a str,
}

impl Names<'_> {
    fn quoted(&self, suffix: &str) -> String {
        format!("{}.{}", identifier(self.schema), identifier(&format!("{}{suffix}", self.table)))
    }

    /// What a function's body stands between, which no name may hold.
    fn body(&self) -> String {
        let mut tag = "$body".to_owned();
        while self.schema.contains(&tag) || self.table.contains(&tag) {
            tag.push('y');
        }
        tag + "$"
    }

    fn literal(&self, suffix: &str) -> String {
        literal(&self.quoted(suffix))
    }
}

fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// An E-string, which means the same whatever the server's settings.
fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

const ALGORITHMS: [(&str, &str); 4] = [
    ("bucket", include_str!("sql/bucket.sql")),
    ("fixed_window", include_str!("sql/fixed_window.sql")),
    ("sliding_log", include_str!("sql/sliding_log.sql")),
    ("sliding_counter", include_str!("sql/sliding_counter.sql")),
];

const CLOCK: &str = "(date_part('epoch', clock_timestamp()) * 1000000)::bigint";

/// Where `decide` takes up a quota's numbers.
const QUOTA: &str = include_str!("sql/quota.sql");

fn script(names: &Names<'_>, durability: Durability) -> String {
    let decide = with_algorithms(include_str!("sql/decide.sql"), ["sa[k]", "sb[k]", "sc[k]"]);
    let body = [
        include_str!("sql/schema.sql"),
        include_str!("sql/sliding_log_entries.sql"),
        &decide.replace("{quota}", QUOTA.trim_end()),
        &with_algorithms(include_str!("sql/one.sql"), ["sa", "sb", "sc"]),
        include_str!("sql/reset.sql"),
        include_str!("sql/sweep.sql"),
    ]
    .join("\n");
    let head = include_str!("sql/begin.sql");
    filled(&format!("{head}\n{body}\nCOMMIT;\n"), names, durability)
}

/// A function's text with what the algorithms look at and take, of a state that it keeps so.
fn with_algorithms(text: &str, [a, b, c]: [&str; 3]) -> String {
    let mut text = text.to_owned();
    for (algorithm, file) in ALGORITHMS {
        let (look, take) = parts(file);
        text = text.replace(&format!("{{look_{algorithm}}}"), look);
        text = text.replace(&format!("{{take_{algorithm}}}"), take);
    }
    text.replace("{a}", a).replace("{b}", b).replace("{c}", c)
}

/// Names in their places, at once: what a user chose is not looked into for more.
fn filled(text: &str, names: &Names<'_>, durability: Durability) -> String {
    let mut filled = String::with_capacity(2 * text.len());
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        let close = rest[open..].find('}').map_or(rest.len(), |length| open + length);
        filled.push_str(&rest[..open]);
        filled.push_str(&value(&rest[open + 1..close], names, durability));
        rest = rest.get(close + 1..).unwrap_or_default();
    }
    filled.push_str(rest);
    filled
}

fn value(place: &str, names: &Names<'_>, durability: Durability) -> String {
    let is_logged = durability != Durability::Unlogged;
    match place {
        "schema" => identifier(names.schema),
        "schema_literal" => literal(names.schema),
        "lock" => literal(&format!("limiter-postgres {}", names.quoted(""))),
        "table" => names.quoted(""),
        "table_name" => names.literal(""),
        "log_name" => names.literal("_log"),
        "log_ids_name" => names.literal("_log_ids"),
        "body" => names.body(),
        "clock" => CLOCK.to_owned(),
        // Of a row `s`, that `take` finds in the place of `excluded`: when its bucket is full again, and the instant.
        "full_at" => "(s.a + (s.b > 0)::int)".to_owned(),
        "now" => format!("CASE WHEN excluded.at < 0 THEN {CLOCK} ELSE excluded.at END"),
        // Whether the numbers of a row `s` can be a state's.
        "sound" => "((s.a | s.b | s.c) >> 53 = 0)".to_owned(),
        "version" => VERSION.to_string(),
        "unlogged" => if is_logged { "" } else { "UNLOGGED" }.to_owned(),
        "logged" => if is_logged { "LOGGED" } else { "UNLOGGED" }.to_owned(),
        "persistence" => format!("'{}'", durability.persistence()),
        suffix => names.quoted(&format!("_{suffix}")),
    }
}

/// What looks and what takes, of an algorithm's file.
fn parts(text: &'static str) -> (&'static str, &'static str) {
    let (_, code) = text.split_once("-- look\n").unwrap_or_default();
    let (look, take) = code.split_once("-- take\n").unwrap_or_default();
    (look.trim_end(), take.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_wherever_they_stand() {
        let schema = Schema::new("a\"b", "it's {table} \\", Durability::Full).unwrap();
        assert_eq!(&*schema.version, "SELECT max(version) FROM \"a\"\"b\".\"it's {table} \\_meta\"");
        assert!(schema.script.contains("nextval(E'\"a\"\"b\".\"it\\'s {table} \\\\_log_ids\"')"));
    }

    #[test]
    fn names_that_cannot_be_are_refused() {
        for (schema, table) in
            [("", "a"), ("a", ""), ("a", "b\0"), (&"a".repeat(64), "a"), ("a", &"a".repeat(55))]
        {
            assert!(Schema::new(schema, table, Durability::Full).is_err(), "{schema:?} {table:?}");
        }
        assert!(Schema::new(&"a".repeat(63), &"a".repeat(54), Durability::Full).is_ok());
    }

    /// `LIMITER_WRITE=1 cargo test -p limiter-postgres --lib` writes it anew.
    #[test]
    fn the_script_in_the_docs_is_what_is_run() {
        let script = Schema::new("public", "rate_limits", Durability::default()).unwrap().script;
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/migration.sql");
        if std::env::var_os("LIMITER_WRITE").is_some() {
            std::fs::write(path, &script).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), script);
    }

    #[test]
    fn nothing_is_left_open_in_the_script() {
        let script = Schema::new("s", "t", Durability::Unlogged).unwrap().script;
        assert!(!script.contains("{"), "{script}");
        assert!(script.contains("CREATE UNLOGGED TABLE"));
    }
}
