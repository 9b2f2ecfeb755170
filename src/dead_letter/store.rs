//! Storing letters, and what a relay asks of the table.
