//! Integration tests: real servers, the relay as a child process.
fn main() {}
