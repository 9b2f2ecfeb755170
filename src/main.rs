//! The `txstream` binary.

fn main() {}
