//! Stops that are held back: a pod gets its SIGTERM only once the nodes that balance to it hold the
//! set without it, so that a rolling update drops no request. Pure: the clock is an argument.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use coracle_shared::ids::Generation;
use coracle_store::Key;

/// A node that does not confirm holds nobody up for longer than this.
pub const MAX_HOLD: Duration = Duration::from_secs(2);

/// Pods whose stop is not told to their node yet.
#[derive(Debug, Default)]
pub struct Holds(BTreeMap<Key, Hold>);

#[derive(Debug)]
struct Hold {
    address: Ipv4Addr,
    /// By the process's monotonic clock.
    until: Duration,
    /// The first generation of the shared set that does not balance to the address any more.
    without: Option<Generation>,
}

impl Holds {
    /// The pod is to stop while services balance to it. A hold that has begun goes on as it is.
    pub fn begin(&mut self, pod: Key, address: Ipv4Addr, now: Duration) {
        self.0.entry(pod).or_insert(Hold { address, until: now + MAX_HOLD, without: None });
    }

    pub fn contains(&self, pod: &Key) -> bool {
        self.0.contains_key(pod)
    }

    /// The pod is gone, or told in another way.
    pub fn end(&mut self, pod: &Key) {
        self.0.remove(pod);
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// When the next hold ends by itself.
    pub fn next(&self) -> Option<Duration> {
        self.0.values().map(|hold| hold.until).min()
    }

    /// The pods whose stop may be told now. `balances`: whether services still balance to an
    /// address; `shared`: the generation of the shared set; `confirmed`: the oldest generation that
    /// any connected node holds of it, `None` while one holds none.
    pub fn release(
        &mut self,
        balances: impl Fn(Ipv4Addr) -> bool,
        shared: Generation,
        confirmed: Option<Generation>,
        now: Duration,
    ) -> Vec<Key> {
        for hold in self.0.values_mut().filter(|hold| hold.without.is_none()) {
            hold.without = (!balances(hold.address)).then_some(shared);
        }
        let is_due = |hold: &Hold| {
            let is_confirmed = hold.without.zip(confirmed).is_some_and(|(without, held)| held >= without);
            is_confirmed || hold.until <= now
        };
        let due: Vec<Key> = self.0.iter().filter(|(_, hold)| is_due(hold)).map(|(key, _)| key.clone()).collect();
        due.iter().for_each(|key| self.end(key));
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 2);

    fn generation(revision: u64) -> Generation {
        Generation { epoch: 1, revision }
    }

    fn held() -> (Holds, Key) {
        let mut holds = Holds::default();
        let pod = Key::new("pods", "d", "a");
        holds.begin(pod.clone(), A, Duration::ZERO);
        (holds, pod)
    }

    #[test]
    fn told_once_every_node_has_confirmed() {
        let (mut holds, pod) = held();
        let now = Duration::from_millis(1);
        assert!(holds.release(|_| true, generation(5), Some(generation(5)), now).is_empty(), "still balanced to");
        assert!(
            holds.release(|_| false, generation(6), Some(generation(5)), now).is_empty(),
            "one node holds the old set"
        );
        assert!(holds.release(|_| false, generation(7), None, now).is_empty(), "one node holds none");
        assert_eq!(holds.release(|_| false, generation(8), Some(generation(6)), now), [pod]);
        assert_eq!(holds.next(), None);
    }

    #[test]
    fn nobody_is_held_for_long() {
        let (mut holds, pod) = held();
        assert_eq!(holds.next(), Some(MAX_HOLD));
        holds.begin(pod.clone(), A, Duration::from_secs(1));
        assert_eq!(holds.next(), Some(MAX_HOLD), "asking again does not prolong it");
        assert_eq!(holds.release(|_| true, generation(5), None, MAX_HOLD), [pod]);
    }
}
