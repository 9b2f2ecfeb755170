//! Migrations: tables, then the publication.
