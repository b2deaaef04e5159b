//! The cases: what every backend must do, a named rule each.

mod all_or_nothing;
mod batch;
mod boundary;
mod cost;
mod drops;
mod equal;
mod expiry;
mod garbage;
mod keys;
mod race;
mod reset;
mod time;

use crate::fixture::Fixture;
use crate::harness::Harness;
use limiter_core::Algorithm;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// One rule that a backend must keep; running it panics if the backend breaks it.
#[derive(Clone)]
pub struct Case {
    name: String,
    needs: Needs,
    run: Arc<dyn Fn(Fixture) -> Running + Send + Sync>,
}

/// What a case needs of a harness beyond a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    Nothing,
    /// A store that instances and processes share.
    Processes,
    /// A look inside the store.
    Inside,
    /// A store that keeps states for a moment only, and a look inside.
    Expiring,
}

type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Case {
    fn new<F: Future<Output = ()> + Send + 'static>(
        name: impl Into<String>,
        run: impl Fn(Fixture) -> F + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            needs: Needs::Nothing,
            run: Arc::new(move |fixture| Box::pin(run(fixture))),
        }
    }

    /// Its name: file, rule and, where there is one case per algorithm, the algorithm.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn needing(self, needs: Needs) -> Self {
        Self { needs, ..self }
    }

    pub(crate) fn needs(&self) -> Needs {
        self.needs
    }

    /// Runs it on one of the harnesses that have it among their [`cases`](Harness::cases).
    ///
    /// # Panics
    /// The backend breaks the rule, or the harness does not have the case.
    pub async fn run(&self, harness: &Harness) {
        (self.run)(harness.fixture(self.needs).await).await;
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Case({})", self.name)
    }
}

/// A case for each algorithm.
fn each<F: Future<Output = ()> + Send + 'static>(
    name: &str,
    run: fn(Fixture, Algorithm) -> F,
) -> impl Iterator<Item = Case> {
    let case = move |algorithm: Algorithm| {
        let name = format!("{name}::{}", algorithm.name().replace('-', "_"));
        Case::new(name, move |fixture| run(fixture, algorithm))
    };
    Algorithm::ALL.into_iter().map(case)
}

/// All cases.
pub(crate) fn cases() -> Vec<Case> {
    let needing = |needs: Needs| move |case: Case| case.needing(needs);
    let per_algorithm = [
        each("equal::every_decision_is_the_references", equal::every_decision_is_the_references).collect(),
        each("equal::alone_and_in_a_batch", equal::alone_and_in_a_batch).collect(),
        each("boundary::a_denied_request_is_allowed_when_promised", boundary::allowed_when_promised)
            .collect(),
        each("boundary::a_used_key_is_fresh_when_promised", boundary::fresh_when_promised).collect(),
        each("cost::a_peek_reports_and_takes_nothing", cost::peek).collect(),
        each("cost::a_cost_above_the_capacity_is_never_allowed", cost::oversize).collect(),
        each("cost::a_denied_cost_leaves_a_smaller_one_its_room", cost::smaller_after_denied).collect(),
        each("batch::one_key_many_times_is_decided_in_order", batch::one_key_many_times).collect(),
        each("batch::each_request_has_an_instant_of_its_own", batch::instants_of_their_own).collect(),
        each("race::tasks_on_one_key_admit_exactly_the_limit", race::tasks_on_one_key).collect(),
        each("reset::a_reset_key_is_fresh", reset::a_reset_key_is_fresh).collect(),
        each("time::a_clock_that_steps_back_refunds_nothing", time::steps_back).collect(),
        each("race::two_instances_share_one_limit", race::two_instances)
            .map(needing(Needs::Processes))
            .collect(),
        each("race::processes_on_one_key_admit_exactly_the_limit", race::processes_on_one_key)
            .map(needing(Needs::Processes))
            .collect(),
        each("garbage::is_a_fresh_key_and_heals", garbage::is_a_fresh_key_and_heals)
            .map(needing(Needs::Inside))
            .collect(),
        each("garbage::a_truncated_state_is_no_error", garbage::truncated)
            .map(needing(Needs::Inside))
            .collect(),
        each("garbage::spoils_no_other_key", garbage::spoils_no_other_key)
            .map(needing(Needs::Inside))
            .collect(),
        each("garbage::can_be_reset", garbage::can_be_reset).map(needing(Needs::Inside)).collect(),
        each("expiry::peeks_and_denials_write_nothing", expiry::nothing_is_written)
            .map(needing(Needs::Inside))
            .collect(),
        each("expiry::a_state_is_gone_after_its_time", expiry::gone_after_its_time)
            .map(needing(Needs::Expiring))
            .collect(),
        each("expiry::no_state_without_an_end", expiry::no_state_without_an_end)
            .map(needing(Needs::Expiring))
            .collect(),
        each("expiry::a_live_state_is_kept", expiry::a_live_state_is_kept)
            .map(needing(Needs::Expiring))
            .collect(),
    ];
    let single: [Vec<Case>; 1] = [vec![
        Case::new("equal::requests_of_several_checks_too", equal::requests_of_several_checks_too),
        Case::new("equal::a_log_of_many_entries_too", equal::a_log_of_many_entries),
        Case::new("batch::mixed_outcomes_keep_their_places", batch::mixed_outcomes),
        Case::new("batch::a_thousand_requests_are_the_references", batch::a_thousand_requests),
        Case::new("batch::many_keys_keep_their_states_apart", batch::many_keys),
        Case::new("batch::an_empty_batch_has_no_answers", batch::empty),
        Case::new("all_or_nothing::a_denied_request_takes_from_no_key", all_or_nothing::takes_from_no_key),
        Case::new("all_or_nothing::all_checks_are_evaluated", all_or_nothing::all_are_evaluated),
        Case::new("race::requests_of_two_keys_lose_and_add_nothing", race::requests_of_two_keys),
        Case::new("race::a_hot_batch_admits_exactly_the_limit", race::hot_batches),
        Case::new("keys::any_bytes_are_a_key_of_their_own", keys::any_bytes),
        Case::new("keys::rules_and_algorithms_share_nothing", keys::rules_and_algorithms),
        Case::new("keys::no_key_shows_in_what_is_answered", keys::no_key_shows),
        Case::new("reset::only_that_key_is_reset", reset::only_that_key),
        Case::new("time::the_requests_instant_decides", time::the_requests_instant_decides),
        Case::new("time::without_an_instant_the_stores_clock_decides", time::the_stores_clock),
        Case::new("drops::a_dropped_request_is_taken_at_most_once", drops::at_most_once),
    ]];
    per_algorithm.into_iter().chain(single).flatten().collect()
}
