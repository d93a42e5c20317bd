//! Events are news, not history: they go after an hour, and the oldest go earlier when there are
//! too many.

use std::sync::Arc;
use std::time::Duration;

use coracle_store::{Commit, Item, Key, MAX_CHANGES, Range, Store};
use serde_json::Value;

use super::WallClock;
use crate::kinds::{View, millis};

/// How long an Event is kept after it last happened, as Kubernetes does by default.
const LIFE: Duration = Duration::from_secs(3600);

/// How often old Events are looked for.
const EVERY: Duration = Duration::from_secs(300);

/// Events that are kept at most: about a kilobyte each.
const MAX_EVENTS: usize = 4000;

/// Removes old Events, for ever.
pub async fn run(store: Arc<dyn Store>, clock: WallClock) {
    loop {
        smol::Timer::after(EVERY).await;
        let range = Range { resource: "events".into(), namespace: None, after: None, limit: 0, at: None };
        let Ok(page) = store.list(&range) else { continue };
        let old = outdated(&page.items, clock(), MAX_EVENTS);
        for keys in old.chunks(MAX_CHANGES) {
            let commit = keys.iter().cloned().fold(Commit::new(), Commit::delete);
            // What could not be removed now is still there the next time.
            let _ = store.commit(commit).await;
        }
    }
}

/// The Events that are older than their life, and the oldest of those beyond `max`.
fn outdated(items: &[Item], now: i64, max: usize) -> Vec<Key> {
    let mut aged: Vec<(i64, &Key)> = items.iter().map(|item| (last_seen(item), &item.key)).collect();
    aged.sort_unstable_by_key(|(seen, _)| *seen);
    let life = i64::try_from(LIFE.as_millis()).unwrap_or(i64::MAX);
    let too_many = aged.len().saturating_sub(max);
    let outdated = aged.iter().enumerate().filter(|(index, (seen, _))| *index < too_many || now - seen > life);
    outdated.map(|(_, (_, key))| (*key).clone()).collect()
}

/// When an Event last happened, in milliseconds since the Unix epoch.
fn last_seen(item: &Item) -> i64 {
    let event: Value = serde_json::from_slice(&item.value).unwrap_or_default();
    let view = View(&event);
    let paths: [&[&str]; 4] =
        [&["series", "lastObservedTime"], &["lastTimestamp"], &["eventTime"], &["metadata", "creationTimestamp"]];
    paths.iter().find_map(|path| millis(view.text(path))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use coracle_store::Revision;
    use serde_json::json;

    use super::*;

    fn event(name: &str, event: Value) -> Item {
        Item {
            key: Key::new("events", "a", name),
            revision: Revision(1),
            schema: 1,
            value: event.to_string().into_bytes().into(),
        }
    }

    #[test]
    fn old_events_and_the_oldest_of_too_many_go() {
        let items = [
            event("old", json!({"lastTimestamp": "1970-01-01T00:00:00Z"})),
            event(
                "again",
                json!({"lastTimestamp": "1970-01-01T00:00:00Z",
                "series": {"lastObservedTime": "1970-01-01T01:00:00.000000Z"}}),
            ),
            event("new", json!({"metadata": {"creationTimestamp": "1970-01-01T01:30:00Z"}})),
        ];
        let names = |now: i64, max| -> Vec<String> {
            outdated(&items, now * 1000, max).iter().map(|key| key.name.to_string()).collect()
        };
        assert_eq!(names(3600, 10), [""; 0]);
        assert_eq!(names(3601, 10), ["old"]);
        assert_eq!(names(3601, 1), ["old", "again"]);
    }
}
