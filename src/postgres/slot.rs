//! A replication slot as `pg_replication_slots` shows it, and its beginning and end.
//!
//! Knows nothing of checkpoints: whether a slot may be created or dropped is the caller's question.

mod blockers;
mod life;
mod view;

pub use blockers::Blocker;
pub use life::{CreateError, DropError, NewSlot, create, drop};
pub use view::{Holder, NotOurs, OldestTransaction, SlotView, Terminal, view};
