//! Callers of a store whose server fails under them, and whether the rules explain what they were told.
//!
//! A [`Load`] asks as a [`Plan`] says, over every algorithm, while a test kills, hangs or cuts off what it will; at its end
//! the [`History`] is checked: nothing above a limit, nothing charged twice, no denial for
//! nothing, turns apart, and waits that hold.

mod again;
mod history;
mod load;
mod log;

pub use again::{at, equals_reference, is_back};
pub use history::{Call, Clock, Hint, History, Loss, LossKind, Outcome, Subject};
pub use load::{Load, Pace, Plan, lasting};
pub use log::LongLog;
