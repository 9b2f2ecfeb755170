//! A text that must not be printed: passwords, tokens, keys.

use std::fmt;

/// A secret text. `Debug` and `Display` print `***`; only [`Secret::expose`] gives the text.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself. Call it only where it goes on the wire or is compared.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether this is the text, without telling by the time it takes where the two differ, or that
    /// their lengths do.
    pub fn is(&self, given: &[u8]) -> bool {
        openssl::memcmp::eq(&openssl::sha::sha256(given), &openssl::sha::sha256(self.0.as_bytes()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
