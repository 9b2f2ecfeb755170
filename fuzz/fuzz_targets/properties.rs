//! Any text as a properties file and as `-X name=value`: no property is without a name or larger than its text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use txstream::kafka::properties::{parse_argument, parse_file};

fuzz_target!(|text: &str| {
    match parse_file(text) {
        Ok(properties) => {
            assert!(properties.iter().all(|property| !property.name.is_empty()));
            let size: usize = properties.iter().map(|one| one.name.len() + one.value.len()).sum();
            assert!(size <= text.len());
        }
        Err(errors) => assert!(errors.iter().all(|error| error.line <= text.lines().count())),
    }
    if let Ok(property) = parse_argument(text) {
        assert!(!property.name.is_empty() && text.ends_with(&property.value));
    }
});
