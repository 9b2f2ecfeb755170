//! Which errors of the table are about a letter and stay: it breaks a constraint, or Postgres cannot hold it.
//! Whatever else fails is tried again.

use tokio_postgres::error::SqlState;

use super::DeadLetterError;

/// Whether trying again cannot help: a data exception, an integrity constraint, a limit of the server's.
pub(super) fn is_for_good(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|state| stays(state.code()))
}

fn stays(sqlstate: &str) -> bool {
    ["22", "23", "54"].iter().any(|class| sqlstate.starts_with(class))
}

/// The table's refusal of the letter at `place`.
pub(super) fn of(place: usize, error: &tokio_postgres::Error) -> Option<DeadLetterError> {
    let error = error.as_db_error().filter(|error| stays(error.code().code()))?;
    Some(DeadLetterError::Refused {
        place,
        sqlstate: error.code().code().to_owned(),
        message: said(error.code(), error.message()).to_owned(),
    })
}

/// The server's message, never its detail, which shows the row. Messages of data exceptions quote the value as
/// well, but for the two that name a character which the database's encoding lacks.
fn said<'a>(state: &SqlState, message: &'a str) -> &'a str {
    let encoding =
        [SqlState::CHARACTER_NOT_IN_REPERTOIRE, SqlState::UNTRANSLATABLE_CHARACTER].contains(state);
    if state.code().starts_with("22") && !encoding {
        return "a value that Postgres does not take; the server's log has it";
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_letter_is_refused_for_stays_and_what_the_server_lacks_does_not() {
        for (sqlstate, expected) in [
            ("22P05", true),
            ("23514", true),
            ("54000", true),
            ("40001", false),
            ("42501", false),
            ("53100", false),
            ("55P03", false),
            ("57014", false),
            ("58030", false),
        ] {
            assert_eq!(stays(sqlstate), expected, "{sqlstate}");
        }
    }

    #[test]
    fn a_message_that_may_quote_a_value_is_not_passed_on() {
        let quoting = said(&SqlState::INVALID_TEXT_REPRESENTATION, "invalid input syntax: \"secret\"");
        assert!(!quoting.contains("secret"), "{quoting}");
        let constraint = "new row violates check constraint \"c\"";
        assert_eq!(said(&SqlState::CHECK_VIOLATION, constraint), constraint);
        let encoding = "character has no equivalent in encoding \"LATIN1\"";
        assert_eq!(said(&SqlState::UNTRANSLATABLE_CHARACTER, encoding), encoding);
    }
}
