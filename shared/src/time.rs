//! Points in time as the API writes them: RFC 3339 in UTC. Reading a clock is the caller's business.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Millis(pub i64);

/// A clock, as cores see it.
pub trait Clock: Send + Sync + 'static {
    /// Wall-clock time, for people: it may jump.
    fn wall(&self) -> Millis;
    /// Monotonic time since some start, for every duration and deadline.
    fn monotonic(&self) -> Millis;
}

const DAY: i64 = 86_400_000;

impl Millis {
    /// `2006-01-02T15:04:05Z`, as `metav1.Time`.
    pub fn seconds_text(self) -> String {
        let (year, month, day, of_day) = self.civil();
        let s = of_day / 1000;
        format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", s / 3600, s / 60 % 60, s % 60)
    }

    /// `2006-01-02T15:04:05.000000Z`, as `metav1.MicroTime`.
    pub fn micros_text(self) -> String {
        let seconds = self.seconds_text();
        format!("{}.{:03}000Z", &seconds[..seconds.len() - 1], self.0.rem_euclid(1000))
    }

    /// Reads what the two above write, and any fraction of a second and any offset.
    pub fn parse(text: &str) -> Option<Millis> {
        let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<u32>().ok().map(i64::from);
        let separators = [(4, '-'), (7, '-'), (13, ':'), (16, ':')];
        if !text.is_ascii() || separators.iter().any(|&(at, c)| !text[at.min(text.len())..].starts_with(c)) {
            return None;
        }
        let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
        let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
        let calendar = (1..=12).contains(&month) && (1..=days_in(year, month)).contains(&day);
        if !calendar || hour > 23 || minute > 59 || second > 60 {
            return None;
        }
        let rest = text.get(19..)?;
        let digits = rest.strip_prefix('.').map_or(0, |f| f.bytes().take_while(u8::is_ascii_digit).count());
        let millis = match digits {
            0 => 0,
            n => format!("{:0<3}", &rest[1..=n])[..3].parse::<i64>().ok()?,
        };
        let zone = if digits == 0 { rest } else { &rest[1 + digits..] };
        let seconds = days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset(zone)?;
        Some(Millis(seconds * 1000 + millis))
    }

    /// Year, month, day and the millisecond of the day.
    fn civil(self) -> (i64, i64, i64, i64) {
        let days = self.0.div_euclid(DAY) + 719_468;
        let era = days.div_euclid(146_097);
        let of_era = days.rem_euclid(146_097);
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * day_of_year + 2) / 153;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        (year, month, day_of_year - (153 * shifted + 2) / 5 + 1, self.0.rem_euclid(DAY))
    }
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// `Z`, `+01:00`, `-00:30` in seconds.
fn offset(zone: &str) -> Option<i64> {
    if zone == "Z" || zone == "z" {
        return Some(0);
    }
    let sign = match zone.get(..1)? {
        "+" => 1,
        "-" => -1,
        _ => return None,
    };
    let (hours, minutes) = zone[1..].split_once(':')?;
    let (hours, minutes): (i64, i64) = (hours.parse().ok()?, minutes.parse().ok()?);
    (zone.len() == 6 && (0..24).contains(&hours) && (0..60).contains(&minutes))
        .then_some(sign * (hours * 3600 + minutes * 60))
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.seconds_text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_points() {
        for (text, millis) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:00:00Z", 951_825_600_000),
            ("2026-11-21T01:30:11Z", 1_795_224_611_000),
            ("1969-12-31T23:59:59Z", -1000),
        ] {
            assert_eq!(Millis(millis).seconds_text(), text);
            assert_eq!(Millis::parse(text), Some(Millis(millis)), "{text}");
        }
        assert_eq!(Millis::parse("2000-01-01T01:00:00.5+01:00"), Some(Millis(946_684_800_500)));
        assert_eq!(Millis(1_500).micros_text(), "1970-01-01T00:00:01.500000Z");
    }

    #[test]
    fn what_is_no_time() {
        for text in [
            "",
            "2000-01-01",
            "2001-02-29T00:00:00Z",
            "2000-13-01T00:00:00Z",
            "2000-01-01T24:00:00Z",
            "2000-01-01T00:00:00",
            "2000-01-01T00:00:00+1:00",
            "2000-01-01T00:00:00é",
            "éééééééééééééééééééé",
        ] {
            assert_eq!(Millis::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn written_times_read_back(millis in -62_135_596_800_000i64..253_402_300_799_000) {
            prop_assert_eq!(Millis::parse(&Millis(millis).micros_text()), Some(Millis(millis)));
        }

        #[test]
        fn nothing_panics(text in "\\PC{0,40}") {
            let _ = Millis::parse(&text);
        }
    }
}
