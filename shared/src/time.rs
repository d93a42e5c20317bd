//! Clocks as cores see them. Reading one is the caller's business.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::api::time::Time;

/// Milliseconds: since the Unix epoch of a wall clock, since any start of a monotonic one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Millis(pub i64);

/// A clock, as cores see it.
pub trait Clock: Send + Sync + 'static {
    /// Wall-clock time, for people: it may jump.
    fn wall(&self) -> Millis;
    /// Monotonic time since some start, for every duration and deadline.
    fn monotonic(&self) -> Millis;
}

impl Millis {
    pub fn time(self) -> Time {
        Time { seconds: self.0.div_euclid(1000), nanos: self.0.rem_euclid(1000) as u32 * 1_000_000 }
    }

    /// `2006-01-02T15:04:05Z`, as `metav1.Time`.
    pub fn seconds_text(self) -> String {
        self.time().clamped().to_seconds_text()
    }

    /// `2006-01-02T15:04:05.000000Z`, as `metav1.MicroTime`.
    pub fn micros_text(self) -> String {
        self.time().clamped().to_micros_text()
    }

    /// Reads RFC 3339.
    pub fn parse(text: &str) -> Option<Millis> {
        let time = Time::parse(text)?;
        Some(Millis(time.seconds * 1000 + i64::from(time.nanos / 1_000_000)))
    }

    pub fn plus_seconds(self, seconds: i64) -> Millis {
        Millis(self.0.saturating_add(seconds.saturating_mul(1000)))
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.seconds_text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_times_read_back() {
        for millis in [0, 1_500, -1, 1_795_224_611_123] {
            assert_eq!(Millis::parse(&Millis(millis).micros_text()), Some(Millis(millis)));
        }
        assert_eq!(Millis(1_500).seconds_text(), "1970-01-01T00:00:01Z");
    }
}
