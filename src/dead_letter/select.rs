//! What people ask of the table: list, show, delete.
