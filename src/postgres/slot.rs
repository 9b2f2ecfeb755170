//! A replication slot as `pg_replication_slots` shows it, its beginning and end, and what it holds.
//!
//! Knows nothing of checkpoints: whether a slot may be created or dropped is the caller's question.

mod blockers;
mod life;
mod pending;
mod view;

pub use blockers::Blocker;
pub use life::{CreateError, DropError, NewSlot, advance, could_create, create, create_exporting, drop};
pub use pending::{Inserts, inserts, publication_is_missing};
pub use view::{Holder, NotOurs, OldestTransaction, SlotView, Terminal, view};
