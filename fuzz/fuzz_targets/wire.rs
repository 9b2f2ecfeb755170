//! A replication stream of any bytes, in pieces of any length: frames, WAL, keepalives, notices, errors.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let (piece, bytes) = input;
    txstream::postgres::fuzzing::stream(bytes, piece.into());
});
