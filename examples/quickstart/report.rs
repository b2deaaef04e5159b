//! What was admitted, against what the quotas permit.

use crate::clients::{Script, Tally};
use distributed_rate_limiter::{Quota, Timestamp};

/// The quotas of the service's rules.
#[derive(Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) global: Quota,
    pub(crate) client: Quota,
    pub(crate) endpoint: Quota,
}

/// One line of the table.
pub(crate) struct Row<'a> {
    name: &'static str,
    habit: &'static str,
    tally: &'a Tally,
    permitted: u64,
    by: &'static str,
    /// Whether no denial is right.
    within: bool,
}

/// The most that a token bucket admits in this time: what it holds when full, and what it refills. Exact.
pub(crate) fn permits(quota: &Quota, from: Timestamp, to: Timestamp) -> u64 {
    let elapsed = u128::from(to.as_micros().saturating_sub(from.as_micros()));
    let refilled = elapsed * u128::from(quota.limit()) / quota.window().as_micros().max(1);
    quota.capacity().saturating_add(u64::try_from(refilled).unwrap_or(u64::MAX))
}

impl<'a> Row<'a> {
    /// A client that kept its name: its rule, or those of the endpoints that it used if they permit less.
    pub(crate) fn client(script: Script, tally: &'a Tally, rules: Rules) -> Self {
        let endpoints = u64::try_from(script.paths.len()).unwrap_or(u64::MAX);
        let client = permits(&rules.client, tally.from, tally.to);
        let endpoint = permits(&rules.endpoint, tally.from, tally.to).saturating_mul(endpoints);
        let (permitted, by) = if endpoint < client { (endpoint, "endpoint") } else { (client, "client") };
        let Script { name, habit, within, .. } = script;
        Self { name, habit, tally, permitted, by, within }
    }

    /// One that only the global rule can hold.
    pub(crate) fn global(name: &'static str, habit: &'static str, tally: &'a Tally, rules: Rules) -> Self {
        let permitted = permits(&rules.global, tally.from, tally.to);
        Self { name, habit, tally, permitted, by: "global", within: false }
    }

    /// What is wrong, if anything is.
    pub(crate) fn wrong(&self) -> Option<String> {
        let Self { name, tally, permitted, .. } = self;
        if tally.admitted > *permitted {
            return Some(format!(
                "{name}: {} admitted, and at most {permitted} are permitted",
                tally.admitted
            ));
        }
        if self.within && tally.denied > 0 {
            return Some(format!("{name}: {} denied, and it stayed within its quota", tally.denied));
        }
        if tally.denied_after_wait > 0 {
            return Some(format!("{name}: {} denied after the wait they were told", tally.denied_after_wait));
        }
        let failure = tally.failures.first()?;
        Some(format!("{name}: {} requests failed, the first: {failure}", tally.failures.len()))
    }

    fn verdict(&self) -> &'static str {
        match self.wrong() {
            None => "ok",
            Some(_) if self.tally.admitted > self.permitted => "OVER",
            Some(_) => "WRONG",
        }
    }

    fn line(&self) -> String {
        let Tally { offered, admitted, denied, denied_by: [global, client, endpoint], .. } = self.tally;
        let Self { name, habit, permitted, by, .. } = self;
        format!(
            "{name:<9} {habit:<24} {offered:>7} {admitted:>8} {denied:>6} {client:>6} {endpoint:>8} {global:>6} \
             {permitted:>7} {by:<8} {}\n",
            self.verdict()
        )
    }
}

/// The whole table; `rows` are all who asked.
pub(crate) fn table(rows: &[Row<'_>], rules: Rules) -> String {
    let mut text = format!(
        "{:<9} {:<24} {:>7} {:>8} {:>6} {:^22} {:>7}\n",
        "", "", "", "", "", "--- denied by rule ---", "quota"
    );
    text += &format!(
        "{:<9} {:<24} {:>7} {:>8} {:>6} {:>6} {:>8} {:>6} {:>7} {:<8} verdict\n",
        "client",
        "habit",
        "offered",
        "admitted",
        "denied",
        "client",
        "endpoint",
        "global",
        "permits",
        "by rule"
    );
    text.extend(rows.iter().map(Row::line));
    let (everybody, permitted, ok) = everybody(rows, rules);
    let [offered, admitted, denied] = everybody;
    text += &format!(
        "{:<9} {:<24} {offered:>7} {admitted:>8} {denied:>6} {:>22} {permitted:>7} {:<8} {}\n",
        "together",
        "",
        "",
        "global",
        if ok { "ok" } else { "OVER" }
    );
    text += "permits: burst + rate x time, rounded down, from before the first request to after the last answer.\n";
    text += "A denial can be due to several rules. The last client asked alone, after the others.\n";
    text
}

/// Everything that is wrong.
pub(crate) fn wrongs(rows: &[Row<'_>], rules: Rules) -> Vec<String> {
    let mut wrongs: Vec<_> = rows.iter().filter_map(Row::wrong).collect();
    let ([_, admitted, _], permitted, ok) = everybody(rows, rules);
    if !ok {
        wrongs.push(format!("together: {admitted} admitted, and at most {permitted} are permitted"));
    }
    wrongs
}

/// Offered, admitted and denied of all; what the global rule permits; whether it held.
fn everybody(rows: &[Row<'_>], rules: Rules) -> ([u64; 3], u64, bool) {
    let sum = |count: fn(&Tally) -> u64| rows.iter().map(|row| count(row.tally)).sum::<u64>();
    let from = rows.iter().map(|row| row.tally.from).min().unwrap_or_default();
    let to = rows.iter().map(|row| row.tally.to).max().unwrap_or_default();
    let counts = [sum(|t| t.offered), sum(|t| t.admitted), sum(|t| t.denied)];
    let permitted = permits(&rules.global, from, to);
    (counts, permitted, counts[1] <= permitted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::CAST;
    use crate::service::QUOTAS;

    fn at(micros: u64) -> Timestamp {
        Timestamp::from_micros(micros).unwrap()
    }

    fn rules() -> Rules {
        Rules {
            global: QUOTAS.global.parse().unwrap(),
            client: QUOTAS.client.parse().unwrap(),
            endpoint: QUOTAS.endpoint.parse().unwrap(),
        }
    }

    /// A second, in which so many were admitted and denied.
    fn tally(admitted: u64, denied: u64) -> Tally {
        let (offered, failures) = (admitted + denied, Vec::new());
        let (from, to) = (at(1_000_000), at(2_000_000));
        Tally { offered, admitted, denied, denied_by: [0; 3], denied_after_wait: 0, failures, from, to }
    }

    fn script(name: &str) -> Script {
        CAST.into_iter().find(|script| script.name == name).unwrap()
    }

    #[test]
    fn a_quota_permits_its_burst_and_what_it_refills() {
        let quota = rules().client;
        assert_eq!(permits(&quota, at(7), at(7)), 10);
        assert_eq!(permits(&quota, at(7), at(200_006)), 10);
        assert_eq!(permits(&quota, at(7), at(200_007)), 11);
        assert_eq!(permits(&quota, at(0), at(5_000_000)), 35);
    }

    #[test]
    fn one_admission_too_many_is_wrong() {
        for (name, permitted) in [("greedy", 15), ("searcher", 6)] {
            let exact = tally(permitted, 100);
            assert_eq!(Row::client(script(name), &exact, rules()).wrong(), None);
            let over = tally(permitted + 1, 100);
            let row = Row::client(script(name), &over, rules());
            assert_eq!((row.wrong().is_some(), row.verdict()), (true, "OVER"));
        }
    }

    #[test]
    fn a_denial_within_the_quota_is_wrong() {
        let denied = tally(3, 1);
        assert!(Row::client(script("calm"), &denied, rules()).wrong().is_some());
        assert!(Row::client(script("eager"), &denied, rules()).wrong().is_none());
    }

    #[test]
    fn a_failure_or_a_broken_promise_is_wrong() {
        let failed = Tally { failures: vec!["status 500".to_owned()], ..tally(1, 0) };
        assert!(Row::client(script("eager"), &failed, rules()).wrong().is_some_and(|e| e.contains("500")));
        let broken = Tally { denied_after_wait: 1, ..tally(1, 2) };
        assert!(Row::client(script("obedient"), &broken, rules()).wrong().is_some());
    }

    #[test]
    fn all_together_are_held_to_the_global_rule() {
        let (most, one) = (tally(200, 0), tally(1, 0));
        let row = |tally| Row::global("x", "", tally, rules());
        assert!(wrongs(&[row(&most)], rules()).is_empty());
        let both = [row(&most), row(&one)];
        assert_eq!(wrongs(&both, rules()), ["together: 201 admitted, and at most 200 are permitted"]);
    }

    #[test]
    fn no_cast_can_meet_the_global_rule() {
        // So that a denial of those who stay within their quota is never another client's doing.
        let rules = rules();
        let cast = u64::try_from(CAST.len()).unwrap();
        assert!(cast * rules.client.capacity() <= rules.global.capacity());
        assert!(cast * rules.client.limit() <= rules.global.limit());
        assert_eq!(rules.client.window(), rules.global.window());
    }
}
