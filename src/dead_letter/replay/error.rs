//! Why a replay or discard could not begin or go on, and what a person can do about it.

use std::time::Duration;

use super::super::DeadLetterError;
use crate::kafka::CreateError;
use crate::postgres::PgError;

/// Why a replay or discard could not begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The table.
    #[error(transparent)]
    Table(#[from] DeadLetterError),
    /// The Kafka settings make no client.
    #[error("the Kafka client cannot be made: {0}")]
    Client(#[from] CreateError),
    /// Another command replays or discards letters of the slot.
    #[error("another txstream dead-letter replay or discard of slot {slot} is at work")]
    Busy {
        /// The slot.
        slot: String,
    },
    /// A letter that has others of its key before it.
    #[error("the record with id {id} is not the first of its key: {first} comes before it")]
    NotFirst {
        /// What was asked for.
        id: String,
        /// What is first.
        first: String,
    },
    /// Kafka acknowledged nothing for so long.
    #[error("Kafka acknowledged nothing for {} s{}", waited.as_secs(), trouble.as_ref().map(|t| format!(": {t}")).unwrap_or_default())]
    Silent {
        /// How long.
        waited: Duration,
        /// What the client said meanwhile.
        trouble: Option<String>,
    },
}

impl From<PgError> for ReplayError {
    fn from(error: PgError) -> Self {
        Self::Table(error.into())
    }
}

impl ReplayError {
    /// What a person can do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::Table(error) => error.remedy(),
            Self::Client(_) => "correct the Kafka settings (txstream config shows them)".to_owned(),
            Self::Busy { .. } => "wait for its end, then run this again".to_owned(),
            Self::NotFirst { .. } => {
                "replay the whole key with --key, or discard what comes before it".to_owned()
            }
            Self::Silent { .. } => {
                "see whether Kafka is well (txstream doctor), then run this again: what was \
                                    acknowledged is deleted, the rest is kept"
                    .to_owned()
            }
        }
    }
}
