//! Spans of time as they are typed and shown.

use std::time::Duration;

/// The longest span that may be typed; whoever means longer means for ever.
const LONGEST: u64 = 3650 * 86_400;

/// A span with its unit (s, m, h, d, w), or in seconds.
pub(super) fn parse_span(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|last: char| last.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        _ => 0,
    };
    let only_digits = digits.bytes().all(|digit| digit.is_ascii_digit());
    let count = digits.parse::<u64>().ok().filter(|_| only_digits);
    match count.and_then(|count| count.checked_mul(unit)) {
        Some(seconds @ 1..=LONGEST) => Ok(Duration::from_secs(seconds)),
        _ => Err("expected a time from 1s to 3650d, for example 30s, 10m, 1h or 7d".to_owned()),
    }
}

/// A span in its two largest units: `1h 59m`.
pub(crate) fn span(seconds: u64) -> String {
    let parts = [(86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let Some(first) = parts.iter().position(|(unit, _)| seconds >= *unit) else { return "0s".to_owned() };
    let (unit, letter) = parts[first];
    let mut text = format!("{}{letter}", seconds / unit);
    if let Some((next, letter)) = parts.get(first + 1).filter(|(next, _)| seconds % unit >= *next) {
        text += &format!(" {}{letter}", seconds % unit / next);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_units() {
        for (text, seconds) in
            [("30s", 30), ("10m", 600), ("1h", 3600), ("7d", 604_800), ("2w", 1_209_600), ("90", 90)]
        {
            assert_eq!(parse_span(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "0", "0s", "-1", "+5", "s", "1.5h", "1h30m", "1y", "5 m", "99999999999999999999d"] {
            assert!(parse_span(text).is_err(), "{text}");
        }
    }

    #[test]
    fn spans_are_shown_in_two_units() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (61, "1m 1s"),
            (7199, "1h 59m"),
            (86_400, "1d"),
            (90_061, "1d 1h"),
            (86_401, "1d"),
        ] {
            assert_eq!(span(seconds), text);
        }
    }
}
