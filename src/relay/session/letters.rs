//! Dead letters: what was stored is resolved, and keys that were replayed or discarded flow again.

use tokio::time::Instant;

use super::{End, Session};
use crate::dead_letter::Content;
use crate::postgres::PgError;
use crate::relay::letter_desk::Answer;

impl Session<'_> {
    /// Takes in an answer of the desk.
    ///
    /// # Errors
    /// [`End::Replaced`] when the slot is another instance's, [`End::Lost`] when nobody stores letters any more.
    pub(super) fn letters_answered(&mut self, answer: Answer) -> Result<(), End> {
        let now = Instant::now();
        let batch = self.letters.done(&answer, &self.core, now);
        match answer {
            Answer::Replaced => return Err(End::Replaced),
            // The loop ends once Kafka has answered for what is under way.
            Answer::Refused(unstorable) => self.core.letters_refused(*unstorable),
            Answer::Gone => {
                let error = PgError::protocol("store dead letters", "the task that stores them has ended");
                return Err(End::Lost(error));
            }
            Answer::Stored => {
                for (route, parked) in self.core.stored(&batch).into_iter().zip(&batch) {
                    match (route, &parked.letter.content) {
                        (Some(route), _) => self.routes.get(route).parked(),
                        (None, Content::Row(columns)) => self.intake.unmapped_row(columns).parked(),
                        (None, Content::Record(_)) => self.relay.metrics.unmapped(None).parked(),
                    }
                }
                self.parked += batch.len() as u64;
            }
            Answer::Looked { look, counts } => {
                let back = self.core.hand_back(&look.gone, now);
                if back > 0 {
                    tracing::info!(keys = back, "parked keys flow again: no dead letter of them is left");
                }
                match counts.map(|counted| counted.by_topic) {
                    Some(Some(counts)) => {
                        let counts = counts.iter().map(|(topic, count)| (topic.as_str(), *count));
                        self.relay.metrics.dead_letters(counts);
                    }
                    Some(None) => self.relay.metrics.dead_letters_uncounted(),
                    None => {}
                }
            }
        }
        Ok(())
    }
}
