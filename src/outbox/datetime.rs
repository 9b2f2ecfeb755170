//! Dates and times as Postgres prints them (`DateStyle = ISO`, `TimeZone = UTC`), and as RFC 3339.

use std::fmt::Write as _;

/// Days from 0000-03-01 to 2000-01-01, where Postgres counts from.
const EPOCH_DAYS: i64 = 730_425;
const MICROS_PER_DAY: i64 = 86_400_000_000;
/// Days in 400 years, after which the calendar repeats.
const ERA_DAYS: i64 = 146_097;

/// A `date`: days since 2000-01-01, the extremes mean infinity.
pub(super) fn date(out: &mut String, days: i32) {
    match days {
        i32::MAX => out.push_str("infinity"),
        i32::MIN => out.push_str("-infinity"),
        _ => {
            let year = calendar_day(out, i64::from(days));
            era(out, year);
        }
    }
}

/// A `timestamp` or, with its zone, a `timestamptz`: µs since 2000-01-01 UTC, the extremes mean
/// infinity.
pub(super) fn timestamp(out: &mut String, micros: i64, with_zone: bool) {
    match micros {
        i64::MAX => return out.push_str("infinity"),
        i64::MIN => return out.push_str("-infinity"),
        _ => {}
    }
    let year = calendar_day(out, micros.div_euclid(MICROS_PER_DAY));
    let in_day = micros.rem_euclid(MICROS_PER_DAY);
    let (seconds, fraction) = (in_day / 1_000_000, in_day % 1_000_000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let _ = write!(out, " {hour:02}:{minute:02}:{second:02}");
    if fraction != 0 {
        let _ = write!(out, ".{fraction:06}");
        out.truncate(out.trim_end_matches('0').len());
    }
    if with_zone {
        out.push_str("+00");
    }
    era(out, year);
}

/// Writes year, month and day of a day counted from 2000-01-01; returns the year, where 0 is 1 BC.
fn calendar_day(out: &mut String, days: i64) -> i64 {
    // A year that starts in March has its leap day at the end, so that months have a closed formula.
    let days = days + EPOCH_DAYS;
    let (era, of_era) = (days.div_euclid(ERA_DAYS), days.rem_euclid(ERA_DAYS));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let (month, next_year) = if march_month < 10 { (march_month + 3, 0) } else { (march_month - 9, 1) };
    let year = era * 400 + year_of_era + next_year;
    let shown = if year > 0 { year } else { 1 - year };
    let _ = write!(out, "{shown:04}-{month:02}-{day:02}");
    year
}

fn era(out: &mut String, year: i64) {
    if year <= 0 {
        out.push_str(" BC");
    }
}

/// A printed `timestamp` (taken as UTC) or `timestamptz` as RFC 3339 in whole seconds, the fraction
/// cut; `None` where RFC 3339 has no form for it: infinity, years before 1 or after 9999.
pub(super) fn rfc3339(printed: &str) -> Option<String> {
    const SHAPE: &[u8] = b"0000-00-00 00:00:00";
    let (head, rest) = printed.split_at_checked(SHAPE.len())?;
    let fits = |(byte, shape): (u8, &u8)| if *shape == b'0' { byte.is_ascii_digit() } else { byte == *shape };
    if !head.bytes().zip(SHAPE).all(fits) {
        return None;
    }
    let rest = match rest.strip_prefix('.') {
        Some(fraction) => fraction.trim_start_matches(|c: char| c.is_ascii_digit()),
        None => rest,
    };
    let zone = match rest {
        "" | "+00" => "Z".to_owned(),
        // Whole hours are printed as `+02`; RFC 3339 wants the minutes.
        _ if rest.len() == 3 => format!("{rest}:00"),
        _ => rest.to_owned(),
    };
    let is_zone = |zone: &str| {
        zone == "Z"
            || zone.len() == 6
                && zone.bytes().zip(b"+00:00").all(|(byte, shape)| match shape {
                    b'+' => matches!(byte, b'+' | b'-'),
                    b':' => byte == b':',
                    _ => byte.is_ascii_digit(),
                })
    };
    is_zone(&zone).then(|| head.replace(' ', "T") + &zone)
}

#[cfg(test)]
mod tests {
    use super::{MICROS_PER_DAY, date, rfc3339, timestamp};

    fn printed(print: impl FnOnce(&mut String)) -> String {
        let mut out = String::new();
        print(&mut out);
        out
    }

    // The expected texts are PostgreSQL 15's.
    #[test]
    fn prints_as_postgres_does() {
        for (days, text) in [
            (0, "2000-01-01"),
            (59, "2000-02-29"),
            (60, "2000-03-01"),
            (-1, "1999-12-31"),
            (-36_465, "1900-03-01"),
            (-730_119, "0001-01-01"),
            (-730_120, "0001-12-31 BC"),
            (-730_485, "0001-01-01 BC"),
            (2_921_939, "9999-12-31"),
            (2_921_940, "10000-01-01"),
            (i32::MAX, "infinity"),
            (i32::MIN, "-infinity"),
        ] {
            assert_eq!(printed(|out| date(out, days)), text);
        }
        for (micros, text) in [
            (0, "2000-01-01 00:00:00"),
            (-1, "1999-12-31 23:59:59.999999"),
            (1_500_000, "2000-01-01 00:00:01.5"),
            (MICROS_PER_DAY - 10, "2000-01-01 23:59:59.99999"),
            (i64::MAX, "infinity"),
            (i64::MIN, "-infinity"),
        ] {
            assert_eq!(printed(|out| timestamp(out, micros, false)), text);
        }
        let ides = -64_440_705_600_000_000;
        assert_eq!(printed(|out| timestamp(out, ides, true)), "0044-12-15 12:00:00+00 BC");
    }

    #[test]
    fn rfc_3339_has_whole_seconds() {
        for (text, expected) in [
            ("2024-05-06 07:08:09", Some("2024-05-06T07:08:09Z")),
            ("2024-05-06 07:08:09.999999", Some("2024-05-06T07:08:09Z")),
            ("2024-05-06 07:08:09.5+00", Some("2024-05-06T07:08:09Z")),
            ("2024-05-06 07:08:09+02", Some("2024-05-06T07:08:09+02:00")),
            ("2024-05-06 07:08:09-03:30", Some("2024-05-06T07:08:09-03:30")),
            ("infinity", None),
            ("0044-12-15 12:00:00 BC", None),
            ("0044-12-15 12:00:00+00 BC", None),
            ("10000-01-01 00:00:00", None),
            ("2024-05-06", None),
            ("", None),
        ] {
            assert_eq!(rfc3339(text).as_deref(), expected, "{text}");
        }
    }
}
