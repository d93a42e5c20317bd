//! RFC 3339 times and Go durations, as API objects carry them. No clock: only text and numbers.

use std::fmt;

/// A point in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    /// Since 1970-01-01T00:00:00Z.
    pub seconds: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

/// The seconds that years 1 to 9999 cover: what the text form can say.
const RANGE: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

impl Time {
    /// Reads RFC 3339: `2026-01-02T03:04:05.678Z`, or with an offset.
    pub fn parse(text: &str) -> Option<Time> {
        let bytes = text.as_bytes();
        let number = |from: usize, to: usize| -> Option<i64> {
            let digits = bytes.get(from..to)?;
            digits.iter().all(u8::is_ascii_digit).then_some(())?;
            Some(digits.iter().fold(0, |sum, b| sum * 10 + i64::from(b - b'0')))
        };
        let is = |at: usize, what: &[u8]| bytes.get(at).is_some_and(|b| what.contains(b));
        let shape = is(4, b"-") && is(7, b"-") && is(10, b"Tt") && is(13, b":") && is(16, b":");
        shape.then_some(())?;
        let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
        let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
        let valid = (1..=12).contains(&month) && (1..=month_days(year, month)).contains(&day);
        (valid && hour < 24 && minute < 60 && second < 60).then_some(())?;
        let (nanos, zone) = fraction(&text[19..])?;
        let offset = offset(zone)?;
        let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset;
        RANGE.contains(&seconds).then_some(Time { seconds, nanos })
    }

    /// `2026-01-02T03:04:05Z`: how `time` fields are written.
    pub fn to_seconds_text(self) -> String {
        let (year, month, day) = civil(self.seconds.div_euclid(86_400));
        let second = self.seconds.rem_euclid(86_400);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }

    /// `2026-01-02T03:04:05.678901Z`: how `microtime` fields are written.
    pub fn to_micros_text(self) -> String {
        let text = self.to_seconds_text();
        format!("{}.{:06}Z", &text[..text.len() - 1], self.nanos / 1000)
    }

    /// The same, clamped into what the text form can say.
    #[must_use]
    pub fn clamped(self) -> Time {
        Time { seconds: self.seconds.clamp(*RANGE.start(), *RANGE.end()), nanos: self.nanos.min(999_999_999) }
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_seconds_text())
    }
}

fn fraction(rest: &str) -> Option<(u32, &str)> {
    let Some(digits) = rest.strip_prefix('.') else {
        return Some((0, rest));
    };
    let end = digits.find(|c: char| !c.is_ascii_digit())?;
    let (digits, zone) = digits.split_at(end);
    (!digits.is_empty()).then_some(())?;
    let nanos = format!("{:0<9.9}", digits).parse().ok()?;
    Some((nanos, zone))
}

fn offset(zone: &str) -> Option<i64> {
    if zone == "Z" || zone == "z" {
        return Some(0);
    }
    let bytes = zone.as_bytes();
    let sign = match bytes.first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let well_formed = bytes.len() == 6 && bytes[3] == b':';
    let digits = well_formed.then(|| [bytes[1], bytes[2], bytes[4], bytes[5]])?;
    digits.iter().all(u8::is_ascii_digit).then_some(())?;
    let [a, b, c, d] = digits.map(|b| i64::from(b - b'0'));
    let (hours, minutes) = (a * 10 + b, c * 10 + d);
    (hours < 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}

fn month_days(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to a date of the Gregorian calendar (Hinnant's algorithm, eras of 400 years).
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The reverse of [`days`].
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

/// Units of Go's durations, in nanoseconds.
const UNITS: [(&str, f64); 7] =
    [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("ms", 1e6), ("h", 3.6e12), ("m", 6e10), ("s", 1e9)];

/// Reads Go's notation (`1h30m`, `1.5s`, `0`) into nanoseconds.
pub fn parse_duration(text: &str) -> Option<i64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let (unit, scale) = UNITS.iter().find(|(unit, _)| rest.starts_with(unit))?;
        rest = &rest[unit.len()..];
        total += number * scale;
    }
    (!text.is_empty() && total < i64::MAX as f64).then_some((sign * total) as i64)
}

/// Writes nanoseconds as Go does: `1h30m0s`, `1.5s`, `250ms`.
pub fn duration_text(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let left = nanos.unsigned_abs();
    let decimal = |value: u64, scale: u64| {
        let text = format!("{}.{:0width$}", value / scale, value % scale, width = scale.ilog10() as usize);
        text.trim_end_matches('0').trim_end_matches('.').to_string()
    };
    match left {
        0 => "0s".into(),
        1..1_000 => format!("{sign}{left}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", decimal(left, 1_000)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", decimal(left, 1_000_000)),
        _ => {
            let (minutes, rest) = (left / 60_000_000_000, left % 60_000_000_000);
            let seconds = decimal(rest, 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{sign}{seconds}s"),
                (0, m) => format!("{sign}{m}m{seconds}s"),
                (h, m) => format!("{sign}{h}h{m}m{seconds}s"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times() {
        for (text, seconds, nanos) in [
            ("1970-01-01T00:00:00Z", 0, 0),
            ("2026-11-21T01:02:03Z", 1_795_222_923, 0),
            ("2000-02-29T23:59:59.5Z", 951_868_799, 500_000_000),
            ("2024-01-01T02:00:00+02:00", 1_704_067_200, 0),
            ("1969-12-31T23:59:59Z", -1, 0),
        ] {
            assert_eq!(Time::parse(text), Some(Time { seconds, nanos }), "{text}");
        }
        for text in [
            "",
            "2026",
            "2026-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:00:00",
            "2026-01-01 00:00:00Z",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00+2:00",
            "é026-01-01T00:00:00Z",
            "0001-01-01T00:00:00+01:00",
        ] {
            assert_eq!(Time::parse(text), None, "{text}");
        }
        let micros = Time { seconds: 0, nanos: 1_234_567 }.to_micros_text();
        assert_eq!(micros, "1970-01-01T00:00:00.001234Z");
    }

    #[test]
    fn durations() {
        for (text, nanos, canonical) in [
            ("0", 0, "0s"),
            ("1h30m", 5_400_000_000_000, "1h30m0s"),
            ("1.5s", 1_500_000_000, "1.5s"),
            ("-2m", -120_000_000_000, "-2m0s"),
            ("250ms", 250_000_000, "250ms"),
            ("3us", 3_000, "3µs"),
        ] {
            assert_eq!(parse_duration(text), Some(nanos), "{text}");
            assert_eq!(duration_text(nanos), canonical);
        }
        for text in ["", "1", "h", "1x", "1.2.3s", "99999999999999h"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_and_numbers_agree(seconds in RANGE) {
            let time = Time { seconds, nanos: 0 };
            prop_assert_eq!(Time::parse(&time.to_seconds_text()), Some(time));
        }

        #[test]
        fn hostile_text_never_panics(text in "\\PC{0,30}") {
            let _ = (Time::parse(&text), parse_duration(&text));
        }
    }
}
