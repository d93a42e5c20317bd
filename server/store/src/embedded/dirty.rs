//! What is newer than the disk: keys that no checkpoint has, volatile objects that no frame has.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::space::CHECKPOINT_KEY_BYTES;
use crate::Key;

/// Volatile objects waiting for a ride, in bytes, before they cause a frame of their own.
pub(crate) const RIDE_BYTES: usize = 2 << 20;
/// Volatile objects wait this long for a ride before they cause a frame of their own.
const RIDE_WAIT: Duration = Duration::from_secs(3600);

/// Keys whose newest frame no checkpoint has, and an upper bound of their bytes.
#[derive(Default)]
pub(crate) struct Dirty {
    pub keys: HashSet<Key>,
    pub bytes: u64,
}

impl Dirty {
    pub(crate) fn insert(&mut self, key: Key, bytes: usize) {
        self.bytes += bytes as u64;
        self.keys.insert(key);
    }

    pub(crate) fn take(&mut self, other: &mut Dirty) {
        self.keys.extend(other.keys.drain());
        self.bytes += std::mem::take(&mut other.bytes);
    }

    pub(crate) fn space(&self) -> u64 {
        self.bytes + self.keys.len() as u64 * CHECKPOINT_KEY_BYTES
    }
}

/// Volatile objects that are newer than the disk.
#[derive(Default)]
pub(crate) struct Pending {
    pub keys: HashMap<Key, usize>,
    bytes: usize,
    since: Option<Duration>,
}

impl Pending {
    pub(crate) fn insert(&mut self, key: Key, bytes: usize, now: Duration) {
        self.bytes += bytes;
        self.bytes -= self.keys.insert(key, bytes).unwrap_or(0);
        self.since.get_or_insert(now);
    }

    pub(crate) fn remove(&mut self, key: &Key) {
        self.bytes -= self.keys.remove(key).unwrap_or(0);
        if self.keys.is_empty() {
            self.since = None;
        }
    }

    /// Too many or too old to wait any longer.
    pub(crate) fn is_due(&self, now: Duration) -> bool {
        self.bytes > RIDE_BYTES || self.since.is_some_and(|since| since + RIDE_WAIT < now)
    }
}

/// The first pause before a checkpoint that failed is tried again; it doubles up to [`LAST_RETRY`].
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// A disk that fails for long is asked once a minute; more would only wear it and the log.
const LAST_RETRY: Duration = Duration::from_secs(60);

/// When a checkpoint that failed is tried again. Nothing wakes for it: it is looked at when a
/// commit comes, because without commits the journal does not grow.
#[derive(Default)]
pub(crate) struct Retry {
    failures: u32,
    due: Duration,
    why: Option<String>,
}

impl Retry {
    /// Notes a failure at `now`; how long to wait.
    pub(crate) fn failed(&mut self, now: Duration, why: String) -> Duration {
        let pause = FIRST_RETRY.saturating_mul(1 << self.failures.min(16)).min(LAST_RETRY);
        self.failures += 1;
        self.due = now + pause;
        self.why = Some(why);
        pause
    }

    /// Forgets the failures; whether there were any.
    pub(crate) fn succeeded(&mut self) -> bool {
        let recovered = self.failures > 0;
        *self = Retry::default();
        recovered
    }

    pub(crate) fn is_due(&self, now: Duration) -> bool {
        now >= self.due
    }

    /// Why the last one failed, while it has not been mended.
    pub(crate) fn why(&self) -> Option<&str> {
        self.why.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_checkpoint_is_tried_ever_more_seldom() {
        let mut retry = Retry::default();
        let mut now = Duration::from_secs(100);
        assert!(retry.is_due(now));
        let mut pauses = Vec::new();
        for _ in 0..9 {
            let pause = retry.failed(now, "I/O error".into());
            assert!(!retry.is_due(now + pause - Duration::from_millis(1)));
            now += pause;
            assert!(retry.is_due(now));
            pauses.push(pause.as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(retry.why(), Some("I/O error"));
        assert!(retry.succeeded());
        assert!(!retry.succeeded());
        assert!(retry.is_due(Duration::ZERO) && retry.why().is_none());
    }
}
