//! Which keys are to be planned, which are being written, and which wait.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use coracle_shared::time::Millis;
use coracle_store::Key;

/// A controller's index and the object it has to look at.
pub type Work = (usize, Key);

/// First wait after a refused write; doubles up to the maximum.
const BACKOFF_FIRST: i64 = 100;
const BACKOFF_MAX: i64 = 60_000;

/// Dirty keys. A key that is being written is not handed out again until its writes are done.
#[derive(Debug, Default)]
pub struct Queue {
    ready: BTreeSet<Work>,
    busy: HashSet<Work>,
    /// Busy keys that became dirty meanwhile.
    again: HashSet<Work>,
    later: BTreeMap<Millis, BTreeSet<Work>>,
    due: HashMap<Work, Millis>,
    failures: HashMap<Work, u32>,
}

impl Queue {
    /// Something about the key has changed. A key that backs off after a refusal is looked at again
    /// at once: the change may be what it waited for.
    pub fn mark(&mut self, work: Work) {
        if self.busy.contains(&work) {
            self.again.insert(work);
        } else {
            self.unschedule(&work);
            self.ready.insert(work);
        }
    }

    /// Looks at the key again at `at`, unless it is to be looked at earlier.
    pub fn at(&mut self, work: Work, at: Millis) {
        if self.ready.contains(&work) || self.due.get(&work).is_some_and(|&known| known <= at) {
            return;
        }
        self.unschedule(&work);
        self.later.entry(at).or_default().insert(work.clone());
        self.due.insert(work, at);
    }

    fn unschedule(&mut self, work: &Work) {
        if let Some(at) = self.due.remove(work)
            && let Some(set) = self.later.get_mut(&at)
        {
            set.remove(work);
            if set.is_empty() {
                self.later.remove(&at);
            }
        }
    }

    /// Moves what is due to the front and says when the next is.
    pub fn wake(&mut self, now: Millis) -> Option<Millis> {
        while let Some(entry) = self.later.first_entry().filter(|e| *e.key() <= now) {
            for work in entry.remove() {
                self.due.remove(&work);
                self.ready.insert(work);
            }
        }
        self.later.keys().next().copied()
    }

    pub fn pop(&mut self) -> Option<Work> {
        self.ready.pop_first()
    }

    /// The key's writes are on their way.
    pub fn begin(&mut self, work: Work) {
        self.busy.insert(work);
    }

    pub fn busy(&self) -> usize {
        self.busy.len()
    }

    /// The key's writes are done, or one was refused.
    pub fn finish(&mut self, work: Work, refused: bool, now: Millis) {
        self.busy.remove(&work);
        let dirty = self.again.remove(&work);
        if refused {
            let failures = self.failures.entry(work.clone()).or_default();
            let wait = (BACKOFF_FIRST << (*failures).min(16)).min(BACKOFF_MAX);
            *failures += 1;
            self.at(work, Millis(now.0 + wait));
        } else {
            self.failures.remove(&work);
            if dirty {
                self.mark(work);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(name: &str) -> Work {
        (0, Key::new("pods", "", name))
    }

    #[test]
    fn a_busy_key_waits_for_its_writes() {
        let mut queue = Queue::default();
        queue.mark(work("a"));
        queue.mark(work("a"));
        assert_eq!(queue.pop(), Some(work("a")));
        queue.begin(work("a"));
        queue.mark(work("a"));
        assert_eq!(queue.pop(), None);
        queue.finish(work("a"), false, Millis(0));
        assert_eq!(queue.pop(), Some(work("a")));
    }

    #[test]
    fn refused_keys_back_off() {
        let mut queue = Queue::default();
        let mut now = Millis(0);
        let mut waits = Vec::new();
        for _ in 0..12 {
            queue.begin(work("a"));
            queue.finish(work("a"), true, now);
            let at = queue.wake(now).unwrap();
            waits.push(at.0 - now.0);
            now = at;
            assert_eq!(queue.wake(now), None);
            assert_eq!(queue.pop(), Some(work("a")));
        }
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200, 60000, 60000]);
        queue.begin(work("a"));
        queue.finish(work("a"), true, now);
        queue.mark(work("a"));
        assert_eq!((queue.pop(), queue.wake(now)), (Some(work("a")), None), "a change ends the wait");
        queue.begin(work("a"));
        queue.finish(work("a"), false, now);
        assert!(queue.failures.is_empty());
    }

    #[test]
    fn the_earlier_time_wins() {
        let mut queue = Queue::default();
        queue.at(work("a"), Millis(10));
        queue.at(work("a"), Millis(20));
        queue.at(work("b"), Millis(15));
        queue.at(work("b"), Millis(5));
        assert_eq!(queue.wake(Millis(5)), Some(Millis(10)));
        assert_eq!(queue.pop(), Some(work("b")));
        assert_eq!(queue.wake(Millis(30)), None);
        assert_eq!((queue.pop(), queue.pop()), (Some(work("a")), None));
        assert!(queue.due.is_empty());
    }
}
