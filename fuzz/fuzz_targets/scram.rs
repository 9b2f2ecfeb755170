//! A login at a server that says any bytes, and one that answers SCRAM with any text: nobody is believed
//! who does not know the password.
#![no_main]

use libfuzzer_sys::fuzz_target;
use txstream::postgres::fuzzing;

fuzz_target!(|bytes: &[u8]| {
    match bytes.split_first() {
        Some((b'S', rest)) => {
            let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
            let (challenge, verdict) = rest.split_at(end);
            // A count of iterations with more digits is honest work for a second, not a fault.
            let digits = challenge.rsplit(|byte| *byte == b'=').next().map_or(0, <[u8]>::len);
            if digits < 4 {
                assert!(!fuzzing::scram(challenge, verdict.get(1..).unwrap_or_default()));
            }
        }
        _ => fuzzing::login(bytes),
    }
});
