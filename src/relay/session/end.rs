//! How a session ended.

use crate::postgres::PgError;
use crate::relay::halt::Halt;

/// How a session ended.
#[derive(Debug)]
pub(in crate::relay) enum End {
    /// As asked.
    Stopped,
    /// A person must act.
    Halted(Halt),
    /// The stream was lost.
    Lost(PgError),
    /// The producer is finished.
    Producer(String),
    /// The producer has to make smaller batches, and does not drain.
    SmallerBatches,
    /// The columns have to come as text.
    NeedsText(String),
    /// Another instance has taken over.
    Replaced,
    /// The server shuts down.
    ServerStopping,
    /// The table has no more, and Kafka has all of it.
    Exhausted,
}

impl End {
    /// Why the stream has to be set up again.
    pub(in crate::relay) fn why(&self) -> String {
        match self {
            Self::Lost(error) => error.report(),
            Self::Producer(why) => format!("the producer ended: {why}"),
            Self::SmallerBatches => {
                "a topic takes smaller batches, and Kafka does not acknowledge what is under way; \
                 it comes again in smaller ones"
                    .to_owned()
            }
            Self::Replaced => "another instance has written the checkpoint row".to_owned(),
            Self::ServerStopping => "the server shuts down".to_owned(),
            Self::NeedsText(why) => why.clone(),
            Self::Exhausted => "the table was read to its end".to_owned(),
            Self::Halted(halt) => halt.what.clone(),
            Self::Stopped => "stopped".to_owned(),
        }
    }
}
