//! Authenticated time. The machine's own clock plays no part: a board without one believes it is 1970,
//! and one whose clock jumps ahead must not find its server's certificate expired.

use std::time::Duration;

/// What is known of the time: what somebody authenticated said last, and how long ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Milliseconds since the Unix epoch.
    told: i64,
    /// Monotonic time when it was told.
    at: Duration,
}

impl Clock {
    /// From the floor that was kept; `at` is monotonic time, as in every call.
    pub fn new(floor: i64, at: Duration) -> Clock {
        Clock { told: floor, at }
    }

    /// The server says what time it is, over mutual TLS; that may be earlier than what was believed.
    pub fn told(&mut self, now: i64, at: Duration) {
        *self = Clock { told: now, at };
    }

    /// A certificate that a CA of ours has signed began at this time.
    pub fn at_least(&mut self, begin: i64, at: Duration) {
        if self.now(at) < begin {
            self.told(begin, at);
        }
    }

    /// Milliseconds since the Unix epoch.
    pub fn now(&self, at: Duration) -> i64 {
        let passed = at.saturating_sub(self.at).as_millis();
        self.told.saturating_add(i64::try_from(passed).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_who_know_move_it() {
        let seconds = Duration::from_secs;
        let mut clock = Clock::new(1_000, seconds(5));
        assert_eq!(clock.now(seconds(6)), 2_000);
        clock.at_least(1_500, seconds(6));
        assert_eq!(clock.now(seconds(6)), 2_000, "a certificate does not turn it back");
        clock.at_least(9_000, seconds(6));
        assert_eq!(clock.now(seconds(7)), 10_000);
        clock.told(3_000, seconds(7));
        assert_eq!(clock.now(seconds(7)), 3_000, "the server may");
        assert_eq!(clock.now(seconds(1)), 3_000);
    }
}
