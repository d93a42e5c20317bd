//! Which pods wait for a node, and what for.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};

use coracle_shared::ids::PodUid;

use crate::request::Request;

/// The order of scheduling: higher priority first, then first come.
type Turn = (Reverse<i64>, u64);

/// Unbound pods: those to be tried, and those that wait for a change of the cluster.
#[derive(Debug, Default)]
pub struct Queue {
    turns: BTreeMap<Turn, PodUid>,
    pods: HashMap<PodUid, Waiting>,
    parked: HashSet<PodUid>,
    arrivals: u64,
}

#[derive(Debug)]
struct Waiting {
    request: Request,
    turn: Turn,
    /// What the pod was told last, so that it is told once.
    told: Option<String>,
}

impl Queue {
    /// A pod that is to be scheduled, new or changed.
    pub fn push(&mut self, request: Request) {
        let uid = request.uid.clone();
        let (turn, told) = match self.remove(&uid) {
            Some(known) if known.turn.0 == Reverse(request.priority) => (known.turn, known.told),
            known => {
                self.arrivals += 1;
                ((Reverse(request.priority), self.arrivals), known.and_then(|k| k.told))
            }
        };
        self.turns.insert(turn, uid.clone());
        self.pods.insert(uid, Waiting { request, turn, told });
    }

    /// The pod is bound, ended or deleted.
    pub fn forget(&mut self, uid: &PodUid) {
        self.remove(uid);
    }

    fn remove(&mut self, uid: &PodUid) -> Option<Waiting> {
        self.parked.remove(uid);
        let known = self.pods.remove(uid)?;
        self.turns.remove(&known.turn);
        Some(known)
    }

    /// The next pod to try. It stays known until it is forgotten or parked.
    pub fn pop(&mut self) -> Option<Request> {
        let (_, uid) = self.turns.pop_first()?;
        self.pods.get(&uid).map(|waiting| waiting.request.clone())
    }

    /// The pod was tried in vain; true when `why` is news for it.
    pub fn park(&mut self, uid: &PodUid, why: &str) -> bool {
        let Some(waiting) = self.pods.get_mut(uid) else { return false };
        self.parked.insert(uid.clone());
        let news = waiting.told.as_deref() != Some(why);
        waiting.told = Some(why.to_owned());
        news
    }

    /// Something has changed that may make room.
    pub fn wake_all(&mut self) {
        for uid in std::mem::take(&mut self.parked) {
            self.wake(&uid);
        }
    }

    /// Tries this pod again.
    pub fn wake(&mut self, uid: &PodUid) {
        self.parked.remove(uid);
        if let Some(waiting) = self.pods.get(uid) {
            self.turns.insert(waiting.turn, uid.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uid: &str, priority: i64) -> Request {
        Request { uid: PodUid(uid.into()), priority, ..Request::default() }
    }

    fn drain(queue: &mut Queue) -> Vec<String> {
        std::iter::from_fn(|| queue.pop()).map(|r| r.uid.0).collect()
    }

    #[test]
    fn priority_then_arrival() {
        let mut queue = Queue::default();
        for (uid, priority) in [("a", 0), ("b", 5), ("c", 0), ("d", 5)] {
            queue.push(request(uid, priority));
        }
        queue.push(request("a", 0));
        assert_eq!(drain(&mut queue), ["b", "d", "a", "c"]);
        assert_eq!(drain(&mut queue), [""; 0]);
    }

    #[test]
    fn parked_until_woken() {
        let mut queue = Queue::default();
        queue.push(request("a", 0));
        queue.push(request("b", 0));
        drain(&mut queue);
        let (a, b) = (PodUid("a".into()), PodUid("b".into()));
        assert!(queue.park(&a, "full"));
        assert!(queue.park(&b, "full"));
        queue.forget(&b);
        queue.wake_all();
        assert_eq!(drain(&mut queue), ["a"]);
        assert!(!queue.park(&a, "full"), "told once");
        assert!(queue.park(&a, "fuller"));
        queue.push(request("a", 0));
        assert_eq!(drain(&mut queue), ["a"]);
        assert!(!queue.park(&a, "fuller"), "a changed pod is not told the same again");
        queue.forget(&a);
        queue.wake_all();
        queue.wake(&a);
        assert!(queue.pop().is_none() && queue.pods.is_empty() && queue.turns.is_empty());
    }
}
