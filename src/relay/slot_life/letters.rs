//! Dead letters that came from another cluster, by a dump and a restore: their places are positions in
//! another WAL. What is stored from now on would stand before them, and be replayed before them.

use tokio_postgres::Client;

use super::SlotError;
use crate::dead_letter::{DeadLetterError, ask};

/// Refuses letters from beyond the end of this server's WAL.
///
/// # Errors
/// [`SlotError::LettersFromElsewhere`].
pub(in crate::relay) async fn ensure_letters_are_of_here(
    client: &Client,
    slot: &str,
) -> Result<(), SlotError> {
    match ask::beyond(client, slot).await {
        // Who may not look leaves it to the relay, which looks before it streams.
        Ok(None) | Err(DeadLetterError::NoTable | DeadLetterError::NoRight { .. }) => Ok(()),
        Ok(Some(ask::Beyond { letters, end })) => {
            Err(SlotError::LettersFromElsewhere { slot: slot.to_owned(), letters, end })
        }
        Err(error) => Err(error.into()),
    }
}
