//! Durations and sizes as people write them: `500ms`, `30s`, `64MiB`.

use std::time::Duration;

/// Parses a whole number with a unit: `ms`, `s`, `m`, `h` or `d`. `0` needs none.
///
/// # Errors
/// What is wrong and how to write it.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let millis_per_unit = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "" if number.bytes().all(|b| b == b'0') && !number.is_empty() => 1,
        "" => return Err(format!("{text:?} has no unit; write it like 500ms, 30s, 5m, 1h or 7d")),
        _ => return Err(format!("{text:?} is not a duration; write it like 500ms, 30s, 5m, 1h or 7d")),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| format!("{text:?} is not a duration; write it like 500ms, 30s, 5m, 1h or 7d"))?;
    number
        .checked_mul(millis_per_unit)
        .map(Duration::from_millis)
        .ok_or_else(|| format!("{text:?} is longer than any duration can be"))
}

/// A duration as it is written: the largest unit that it is a whole number of.
pub(super) fn shown(duration: Duration) -> String {
    let millis = duration.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    match units.into_iter().find(|(unit, _)| millis > 0 && millis.is_multiple_of(*unit)) {
        _ if millis == 0 => "0".to_owned(),
        Some((unit, name)) => format!("{}{name}", millis / unit),
        None => format!("{millis}ms"),
    }
}

/// Parses a size: a whole number of bytes, or one with `B`, `KiB`, `MiB`, `GiB` (powers of 1024) or
/// `kB`, `MB`, `GB` (powers of 1000).
///
/// # Errors
/// What is wrong and how to write it.
pub fn bytes(text: &str) -> Result<u64, String> {
    const HOW: &str = "write it in bytes or like 64MiB (B, KiB, MiB, GiB, kB, MB, GB)";
    let (number, unit) = split(text);
    let unit: u64 = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return Err(format!("{text:?} is not a size; {HOW}")),
    };
    let number: u64 = number.parse().map_err(|_| format!("{text:?} is not a size; {HOW}"))?;
    number.checked_mul(unit).ok_or_else(|| format!("{text:?} is larger than any size can be"))
}

/// The leading digits, and what follows them after optional blanks.
fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_a_whole_number_and_a_unit() {
        for (text, millis) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("7d", 604_800_000),
            ("0", 0),
            ("0s", 0),
            (" 10 s ", 10_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "30", "s", "-1s", "1.5s", "5 minutes", "5M", "1m30s", "18446744073709551615d", "٣s"]
        {
            let error = duration(text).unwrap_err();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn limits_are_shown_as_they_would_be_written() {
        for text in ["0", "1ms", "1500ms", "59s", "61s", "5m", "36h", "7d"] {
            assert_eq!(shown(duration(text).unwrap()), text);
        }
    }

    #[test]
    fn sizes_say_whether_they_count_in_1024_or_1000() {
        for (text, bytes_) in [
            ("0", 0),
            ("1048588", 1_048_588),
            ("10B", 10),
            ("64KiB", 65_536),
            ("64MiB", 67_108_864),
            ("2GiB", 2_147_483_648),
            ("16MB", 16_000_000),
            ("1kB", 1_000),
            ("1 GB", 1_000_000_000),
        ] {
            assert_eq!(bytes(text), Ok(bytes_), "{text}");
        }
        for text in ["", "MiB", "-1", "1.5MiB", "16M", "16mb", "1TiB", "18446744073709551615KiB"] {
            let error = bytes(text).unwrap_err();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }
}
