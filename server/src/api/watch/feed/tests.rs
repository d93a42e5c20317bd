use coracle_store::{Commit, Key, Memory, monotonic};

use super::*;
use crate::api::object::{SCHEMA, encode};
use crate::api::table::Include;
use crate::kinds;

struct World {
    store: Arc<Memory>,
    hub: Arc<Hub>,
}

fn world() -> World {
    let store = Arc::new(Memory::new([1; 16], monotonic()));
    World { hub: Hub::new(&*store), store }
}

impl World {
    fn put(&self, name: &str, app: &str) -> Revision {
        let bytes = encode("ConfigMap", &json!({"metadata": {"name": name, "labels": {"app": app}}}));
        let commit = Commit::new().put(Key::new("configmaps", "a", name), SCHEMA, bytes);
        self.store.commit_now(commit).expect("committed")
    }

    async fn open(&self, query: &str) -> Result<Feed, Status> {
        let query = Query::parse(query);
        let kind = kinds::by_resource("configmaps").expect("known");
        let target = Target { kind, namespace: "a".into(), name: String::new(), sub: None };
        let selection = Selection::parse(kind, &query)?;
        let look = Look { form: Form::Object, include: Include::Metadata, moment: Moment { now: 0 } };
        Feed::open(&*self.store, &self.hub, Arc::new(|| 0), (target, selection, look), Start::parse(&query)?).await
    }

    /// Runs the hub beside `test`.
    fn run(&self, test: impl Future<Output = ()>) {
        smol::block_on(self.hub.run(&*self.store).or(test));
    }
}

fn lines(bytes: &Bytes) -> Vec<String> {
    let text = std::str::from_utf8(bytes).expect("UTF-8");
    text.lines()
        .map(|line| {
            let event: Value = serde_json::from_str(line).expect("JSON");
            format!("{} {}", event["type"].as_str().unwrap_or_default(), event["object"]["metadata"]["name"])
        })
        .collect()
}

async fn take(feed: &mut Feed, count: usize) -> Vec<String> {
    let mut seen = Vec::new();
    while seen.len() < count {
        seen.extend(lines(&feed.next().await.expect("not over")));
    }
    seen
}

#[test]
fn without_a_revision_the_state_comes_first() {
    let world = world();
    world.put("x", "web");
    world.put("y", "db");
    world.run(async {
        let mut feed = world.open("labelSelector=app%3Dweb").await.expect("open");
        assert_eq!(take(&mut feed, 1).await, ["ADDED \"x\""]);
        world.put("y", "web");
        world.put("x", "db");
        assert_eq!(take(&mut feed, 2).await, ["ADDED \"y\"", "DELETED \"x\""]);
    });
}

#[test]
fn from_a_revision_each_change_comes_once() {
    let world = world();
    let first = world.put("x", "1");
    world.put("y", "1");
    world.run(async {
        let mut feed = world.open(&format!("resourceVersion={first}")).await.expect("open");
        world.put("z", "1");
        world.put("x", "2");
        let seen = take(&mut feed, 3).await;
        assert_eq!(seen, ["ADDED \"y\"", "ADDED \"z\"", "MODIFIED \"x\""]);
    });
}

#[test]
fn the_initial_state_ends_with_a_marked_bookmark() {
    let world = world();
    world.put("x", "1");
    world.run(async {
        let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
        let mut feed = world.open(query).await.expect("open");
        let bytes = feed.next().await.expect("not over");
        assert_eq!(lines(&bytes), ["ADDED \"x\"", "BOOKMARK null"]);
        assert!(String::from_utf8_lossy(&bytes).contains("\"k8s.io/initial-events-end\":\"true\""));
    });
}

#[test]
fn a_watcher_that_does_not_read_is_cut_off() {
    let world = world();
    world.run(async {
        let mut feed = world.open("").await.expect("open");
        for n in 0..3000 {
            world.put("x", &n.to_string());
        }
        while world.hub.handed() < world.store.revision() {
            smol::future::yield_now().await;
        }
        let mut last = Bytes::new();
        while let Some(bytes) = feed.next().await {
            last = bytes;
        }
        let text = String::from_utf8_lossy(&last);
        assert!(text.contains("\"type\":\"ERROR\"") && text.contains("\"code\":410"), "{text}");
    });
}

#[test]
fn a_watch_ends_at_its_time_with_a_bookmark() {
    let world = world();
    world.run(async {
        let mut feed = world.open("timeoutSeconds=1&allowWatchBookmarks=true").await.expect("open");
        assert_eq!(lines(&feed.next().await.expect("a bookmark")), ["BOOKMARK null"]);
        assert_eq!(feed.next().await, None);
    });
}

#[test]
fn unclear_starts_are_refused() {
    let world = world();
    world.run(async {
        for (query, code) in [
            ("sendInitialEvents=true", 422),
            ("resourceVersionMatch=NotOlderThan", 422),
            ("resourceVersion=x", 400),
            ("timeoutSeconds=x", 400),
        ] {
            assert_eq!(world.open(query).await.err().expect(query).code, code, "{query}");
        }
    });
}
