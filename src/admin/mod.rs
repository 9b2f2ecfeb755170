//! The admin server: metrics, health, status, acts.
