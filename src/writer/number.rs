//! Numbers as they are written, without floating point: only sign, size and whether they are whole.

/// The longest fraction that is taken. Far more than any price has, far less than what a `numeric`
/// holds; every double has fewer.
const FRACTION_DIGITS_MAX: i64 = 1100;

/// A decimal number: 0.`digits` times ten to the power of `point`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Number {
    negative: bool,
    /// Without zeros at either end; empty for zero.
    digits: String,
    point: i64,
}

impl Number {
    /// A number in the grammar of JSON, `None` for anything else.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (mantissa, exponent) = text.split_once(['e', 'E']).map_or((text, None), |(m, e)| (m, Some(e)));
        let (whole, fraction) = mantissa.split_once('.').map_or((mantissa, None), |(w, f)| (w, Some(f)));
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let leading_zero = whole.len() > 1 && whole.starts_with('0');
        if !is_number(whole) || leading_zero || !fraction.is_none_or(is_number) {
            return None;
        }
        let exponent = exponent.map_or(Some(0), |text| {
            let (down, digits) = match text.strip_prefix('-') {
                Some(digits) => (true, digits),
                None => (false, text.strip_prefix('+').unwrap_or(text)),
            };
            // One that does not fit is beyond every limit.
            let size = digits.parse().unwrap_or(i64::from(i32::MAX)).min(i64::from(i32::MAX));
            is_number(digits).then_some(if down { -size } else { size })
        })?;
        let digits = format!("{whole}{}", fraction.unwrap_or_default());
        let leading = digits.len() - digits.trim_start_matches('0').len();
        let point = i64::try_from(whole.len()).ok()? - i64::try_from(leading).ok()? + exponent;
        Some(Self { negative, digits: digits.trim_matches('0').to_owned(), point })
    }

    /// Zero or more (minus zero is zero), below ten to the power of `whole_digits`, and with a fraction
    /// that can be stored.
    pub(super) fn is_amount_below_power_of_ten(&self, whole_digits: i64) -> bool {
        if self.digits.is_empty() {
            return true;
        }
        let Ok(length) = i64::try_from(self.digits.len()) else { return false };
        !self.negative && self.point <= whole_digits && length - self.point <= FRACTION_DIGITS_MAX
    }

    /// The whole number it is, as in `2`, `2.0` or `2e0`; `None` for fractions, negative numbers and
    /// what does not fit.
    pub(super) fn to_whole(&self) -> Option<u32> {
        if self.digits.is_empty() {
            return Some(0);
        }
        let zeros = usize::try_from(self.point).ok()?.checked_sub(self.digits.len())?;
        // More digits than that cannot fit, and must not be written out.
        (!self.negative && zeros < 10)
            .then(|| format!("{}{}", self.digits, "0".repeat(zeros)).parse().ok())?
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Number;

    fn number(text: &str) -> Number {
        Number::parse(text).unwrap_or_else(|| panic!("{text} is a number"))
    }

    #[test]
    fn amounts_are_judged_by_their_digits() {
        for text in
            ["0", "-0.0", "0e9999999999999999999", "10.50", "999999999999.9999", "5e-324", "1e11", "0.1e12"]
        {
            assert!(number(text).is_amount_below_power_of_ten(12), "{text}");
        }
        for text in
            ["-0.01", "1e12", "1000000000000", "1e400", "1e99999999999999999999", "1e-1101", "1e-99999999999"]
        {
            assert!(!number(text).is_amount_below_power_of_ten(12), "{text}");
        }
    }

    #[test]
    fn whole_numbers_are_whole_however_they_are_written() {
        for (text, whole) in [
            ("0", Some(0)),
            ("2", Some(2)),
            ("2.0", Some(2)),
            ("20e-1", Some(2)),
            ("1.5e3", Some(1500)),
            ("4294967295", Some(u32::MAX)),
            ("4294967296", None),
            ("1e4000000000", None),
            ("-1", None),
            ("2.5", None),
            ("1e-1", None),
        ] {
            assert_eq!(number(text).to_whole(), whole, "{text}");
        }
    }

    #[test]
    fn what_json_does_not_call_a_number_is_none() {
        for text in
            ["", "-", "01", "1.", ".5", "+1", "1e", "1e+", "NaN", "Infinity", "0x1", "1_0", " 1", "1 ", "١"]
        {
            assert_eq!(Number::parse(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_whole_number_is_itself(value: u32, zeros in 0usize..5) {
            prop_assert_eq!(number(&value.to_string()).to_whole(), Some(value));
            prop_assert_eq!(number(&format!("{value}.{}", "0".repeat(zeros + 1))).to_whole(), Some(value));
        }

        #[test]
        fn arbitrary_text_never_panics(text in "[-+0-9eE.]{0,40}") {
            if let Some(number) = Number::parse(&text) {
                number.is_amount_below_power_of_ten(12);
                number.to_whole();
            }
        }
    }
}
