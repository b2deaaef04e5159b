//! Layers: each concern is a [`Backend`](crate::Backend) around a `Backend`.
//!
//! Outermost first:
//!
//! | layer | why there |
//! |---|---|
//! | Observe | sees every answer, also those that never reach the store |
//! | DenyCache | a remembered denial costs nothing below it |
//! | Degrade | answers whatever fails below it |
//! | Breaker | while open, keeps callers out of the queue |
//! | Deadline | counts the whole wait of one caller, the queue included |
//! | [`Coalesce`] | next to the store: what it sends is what travels |
//! | store | |
//!
//! Of these, [`Coalesce`] exists. A store that combines requests per key by itself goes without it.

mod coalesce;

pub use coalesce::{Coalesce, CoalesceConfig, CoalesceUsage};
