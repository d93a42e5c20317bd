//! What every backend does. Each check gets a fresh, empty store.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use coracle_store::{
    Change, Class, Commit, CommitError, HistoryError, Key, MAX_CHANGES, Precondition, Range, Revision,
};
use coracle_store::{MAX_COMMIT_BYTES, Store};
use smol::block_on;

/// A fresh store, its clock in seconds, and what must outlive it (a directory).
pub struct Fixture {
    pub store: Box<dyn Store>,
    pub now: Arc<AtomicU64>,
    #[allow(dead_code, reason = "held for its Drop")]
    pub keep: Option<Box<dyn Any>>,
}

type Check = (&'static str, fn(&Fixture));

pub fn check_all(make: impl Fn() -> Fixture) {
    let checks: &[Check] = &[
        ("create, get, replace, delete", life_of_an_object),
        ("preconditions guard the whole commit", preconditions),
        ("a commit of several objects has one revision", several_objects),
        ("malformed commits are refused", malformed),
        ("what changes nothing takes no revision", no_change),
        ("lists are in key order, by namespace, in pages", lists),
        ("later pages show the revision of the first", pages_at_a_revision),
        ("a continue token lasts five minutes", token_expires),
        ("changes are merged in order, whole revisions", changes_in_order),
        ("the final form of a deleted object", last_form),
        ("churn in one resource expires no other", separate_budgets),
        ("history ends are errors", history_ends),
        ("wait resolves with a newer revision", waits),
        ("volatile and sealed objects read as any other", classes),
        ("many writers, each exactly once", many_writers),
    ];
    for (name, run) in checks {
        println!("{name}");
        run(&make());
    }
}

pub fn key(resource: &str, namespace: &str, name: &str) -> Key {
    Key::new(resource, namespace, name)
}

pub fn pod(name: &str) -> Key {
    key("pods", "default", name)
}

pub fn range(resource: &str) -> Range {
    Range { resource: resource.into(), namespace: None, after: None, limit: 0, at: None }
}

impl Fixture {
    fn commit(&self, commit: Commit) -> Result<Revision, CommitError> {
        block_on(self.store.commit(commit))
    }

    fn ok(&self, commit: Commit) -> Revision {
        self.commit(commit).expect("the commit is valid")
    }

    fn value(&self, key: &Key) -> Option<String> {
        self.store.get(key).map(|item| String::from_utf8_lossy(&item.value).into_owned())
    }
}

fn life_of_an_object(f: &Fixture) {
    let start = f.store.revision();
    let first = f.ok(Commit::new().create(pod("a"), 3, *b"one"));
    assert!(first > start);
    let item = f.store.get(&pod("a")).expect("it was created");
    assert_eq!((item.revision, item.schema, &*item.value), (first, 3, &b"one"[..]));
    assert_eq!(item.key, pod("a"));

    let second = f.ok(Commit::new().replace(pod("a"), first, 4, *b"two"));
    assert!(second > first);
    assert_eq!(f.store.revision(), second);
    assert_eq!(f.value(&pod("a")).as_deref(), Some("two"));
    assert_eq!(f.store.count("pods"), 1);

    let third = f.ok(Commit::new().delete(pod("a")));
    assert!(third > second);
    assert_eq!(f.store.get(&pod("a")), None);
    assert_eq!(f.store.count("pods"), 0);
    f.ok(Commit::new().create(pod("a"), 3, *b"again"));
}

fn preconditions(f: &Fixture) {
    let first = f.ok(Commit::new().create(pod("a"), 1, *b"a"));
    let (at, absent, exists) = (Precondition::At, Precondition::Absent, Precondition::Exists);
    let refused = [
        absent(pod("a")),
        exists(pod("b")),
        at(pod("a"), Revision(first.0 + 1)),
        at(pod("a"), Revision(first.0 - 1)),
        at(pod("b"), first),
        at(key("pods", "other", "a"), first),
    ];
    for precondition in refused {
        let commit = Commit::new().require(exists(pod("a"))).require(precondition.clone());
        let commit = commit.put(pod("a"), 1, *b"changed").put(pod("c"), 1, *b"new");
        assert_eq!(f.commit(commit), Err(CommitError::Failed(precondition)));
        assert_eq!(f.store.revision(), first);
        assert_eq!(f.value(&pod("a")).as_deref(), Some("a"));
        assert_eq!(f.value(&pod("c")), None);
    }
    for precondition in [absent(pod("z")), exists(pod("a"))] {
        f.ok(Commit::new().require(precondition).put(pod("c"), 1, *b"c"));
    }
    let only = Commit::new().require(exists(pod("c")));
    assert_eq!(f.ok(only), f.store.revision(), "a commit may only ask");
}

fn several_objects(f: &Fixture) {
    f.ok(Commit::new().put(pod("gone"), 1, *b"x"));
    let commit = Commit::new().put(pod("a"), 1, *b"a").put(key("services", "default", "s"), 1, *b"s");
    let revision = f.ok(commit.delete(pod("gone")));
    assert_eq!(f.store.get(&pod("a")).map(|item| item.revision), Some(revision));
    let events = f.store.changes(None, Revision(revision.0 - 1), 10).expect("recent");
    let seen: Vec<_> = events.iter().map(|event| (event.revision, event.key.to_string())).collect();
    let expected = ["pods/default/a", "services/default/s", "pods/default/gone"];
    assert_eq!(seen, expected.map(|key| (revision, key.to_string())));
}

fn malformed(f: &Fixture) {
    let before = f.store.revision();
    let many = (0..=MAX_CHANGES).fold(Commit::new(), |c, n| c.put(pod(&n.to_string()), 1, *b"x"));
    let twice = Commit::new().put(pod("a"), 1, *b"x").delete(pod("a"));
    let nul = Commit::new().put(key("pods", "a\0b", "c"), 1, *b"x");
    let long = Commit::new().put(pod(&"x".repeat(2000)), 1, *b"x");
    let large = Commit::new().put(pod("a"), 1, vec![0; MAX_COMMIT_BYTES + 1]);
    for commit in [many, twice, nul, long, large] {
        assert!(matches!(f.commit(commit), Err(CommitError::Malformed(_))));
    }
    assert_eq!(f.store.revision(), before);
    let most = (0..MAX_CHANGES).fold(Commit::new(), |c, n| c.put(pod(&n.to_string()), 1, *b"x"));
    f.ok(most);
    assert_eq!(f.store.count("pods"), MAX_CHANGES);
}

fn no_change(f: &Fixture) {
    let before = f.store.revision();
    assert_eq!(f.ok(Commit::new()), before);
    assert_eq!(f.ok(Commit::new().delete(pod("none"))), before);
    let revision = f.ok(Commit::new().delete(pod("none")).put(pod("a"), 1, *b"a"));
    let events = f.store.changes(Some("pods"), before, 10).expect("recent");
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].revision, revision);
}

fn lists(f: &Fixture) {
    for (namespace, name) in [("b", "1"), ("a", "2"), ("a-b", "1"), ("a", "1"), ("b", "0"), ("a", "10")] {
        f.ok(Commit::new().put(key("pods", namespace, name), 1, *b"x"));
    }
    f.ok(Commit::new().put(key("nodes", "", "n"), 1, *b"x"));
    let names = |range: &Range| {
        let page = f.store.list(range).expect("now");
        assert_eq!(page.revision, f.store.revision());
        let names = page.items.iter().map(|item| format!("{}/{}", item.key.namespace, item.key.name));
        (names.collect::<Vec<_>>().join(" "), page.remaining)
    };
    assert_eq!(names(&range("pods")), ("a/1 a/10 a/2 a-b/1 b/0 b/1".into(), 0));
    assert_eq!(names(&range("nodes")), ("/n".into(), 0));
    assert_eq!(names(&range("none")), ("".into(), 0));
    let a = Range { namespace: Some("a".into()), ..range("pods") };
    assert_eq!(names(&a), ("a/1 a/10 a/2".into(), 0));
    assert_eq!(names(&Range { limit: 2, ..a.clone() }), ("a/1 a/10".into(), 1));
    let after = Some(("a".into(), "10".into()));
    assert_eq!(names(&Range { limit: 2, after: after.clone(), ..a }), ("a/2".into(), 0));
    assert_eq!(names(&Range { limit: 2, after, ..range("pods") }), ("a/2 a-b/1".into(), 2));
    assert_eq!(names(&Range { limit: 6, ..range("pods") }).1, 0);
}

fn pages_at_a_revision(f: &Fixture) {
    for name in ["a", "c", "e", "g"] {
        f.ok(Commit::new().put(pod(name), 1, name.as_bytes().to_vec()));
    }
    let first = f.store.list(&Range { limit: 1, ..range("pods") }).expect("now");
    assert_eq!((first.items.len(), first.remaining), (1, 3));
    f.ok(Commit::new().put(pod("b"), 1, *b"new").put(pod("c"), 1, *b"changed").delete(pod("e")));
    let between = f.store.list(&Range { limit: 1, ..range("pods") }).expect("now");
    f.ok(Commit::new().put(pod("c"), 1, *b"changed again").put(pod("e"), 1, *b"back").delete(pod("g")));
    f.ok(Commit::new().put(key("nodes", "", "n"), 1, *b"x"));

    let rest = |at: Revision, limit: usize| {
        let after = Some(("default".into(), "a".into()));
        let page = f.store.list(&Range { after, limit, at: Some(at), ..range("pods") }).expect("kept");
        assert_eq!(page.revision, at);
        let text = page.items.iter().map(|item| String::from_utf8_lossy(&item.value).into_owned());
        (text.collect::<Vec<_>>().join(","), page.remaining)
    };
    assert_eq!(rest(first.revision, 0), ("c,e,g".into(), 0));
    assert_eq!(rest(first.revision, 2), ("c,e".into(), 1));
    assert_eq!(rest(between.revision, 0), ("new,changed,g".into(), 0));
    assert_eq!(rest(f.store.revision(), 0), ("new,changed again,back".into(), 0));
}

fn token_expires(f: &Fixture) {
    f.ok(Commit::new().put(pod("a"), 1, *b"x").put(pod("b"), 1, *b"x"));
    let at = f.store.list(&Range { limit: 1, ..range("pods") }).expect("now").revision;
    f.ok(Commit::new().delete(pod("b")));
    let later = Range { at: Some(at), ..range("pods") };
    f.now.fetch_add(300, Ordering::Relaxed);
    assert_eq!(f.store.list(&later).map(|page| page.items.len()), Ok(2));
    f.now.fetch_add(1, Ordering::Relaxed);
    assert!(matches!(f.store.list(&later).map(|page| page.items), Err(HistoryError::Compacted { .. })));
}

fn changes_in_order(f: &Fixture) {
    let start = f.store.revision();
    let first =
        f.ok(Commit::new().put(pod("a"), 1, *b"1").put(key("nodes", "", "n"), 1, *b"1").put(pod("b"), 1, *b"1"));
    let second = f.ok(Commit::new().put(key("nodes", "", "n"), 1, *b"2"));
    let third = f.ok(Commit::new().put(pod("a"), 1, *b"3"));
    let seen = |resource, after, limit| {
        let events = f.store.changes(resource, after, limit).expect("recent");
        events.iter().map(|event| (event.key.name.to_string(), event.revision)).collect::<Vec<_>>()
    };
    let all = [("a", first), ("n", first), ("b", first), ("n", second), ("a", third)].map(|(n, r)| (n.to_string(), r));
    assert_eq!(seen(None, start, 100), all);
    assert_eq!(seen(None, start, 1), all[..3], "never a part of a revision");
    assert_eq!(seen(None, start, 3), all[..3]);
    assert_eq!(seen(None, first, 1), all[3..4]);
    assert_eq!(seen(None, third, 1), []);
    assert_eq!(seen(Some("pods"), start, 100), [all[0].clone(), all[2].clone(), all[4].clone()]);
    assert_eq!(seen(Some("pods"), second, 100), all[4..]);
    assert_eq!(seen(Some("none"), start, 100), []);
    let events = f.store.changes(Some("pods"), second, 10).expect("recent");
    let (old, new) = (events[0].old.as_ref().expect("it was"), events[0].new.as_ref().expect("it is"));
    assert_eq!((old.revision, &*old.value, new.revision, &*new.value), (first, &b"1"[..], third, &b"3"[..]));
}

fn last_form(f: &Fixture) {
    f.ok(Commit::new().put(pod("a"), 1, *b"stored").put(pod("b"), 1, *b"stored"));
    let before = f.store.revision();
    f.ok(Commit::new().delete(pod("a")));
    f.ok(Commit::new().change(Change::Delete { key: pod("b"), last: Some(b"marked".as_slice().into()) }));
    let events = f.store.changes(Some("pods"), before, 10).expect("recent");
    let last: Vec<_> = events.iter().map(|event| event.last.as_deref()).collect();
    assert_eq!(last, [Some(&b"stored"[..]), Some(&b"marked"[..])]);
    assert!(events.iter().all(|event| event.new.is_none() && event.old.is_some()));
}

fn separate_budgets(f: &Fixture) {
    let start = f.ok(Commit::new().put(key("nodes", "", "n"), 1, *b"x"));
    for _ in 0..20 {
        let commit = (0..MAX_CHANGES).fold(Commit::new(), |c, n| c.put(pod(&n.to_string()), 1, vec![b'x'; 2000]));
        f.ok(commit);
    }
    assert!(matches!(f.store.changes(Some("pods"), start, 10), Err(HistoryError::Compacted { .. })));
    assert!(matches!(f.store.changes(None, start, 10), Err(HistoryError::Compacted { .. })));
    assert_eq!(f.store.changes(Some("nodes"), Revision(start.0 - 1), 10).map(|events| events.len()), Ok(1));
    let Err(HistoryError::Compacted { floor }) = f.store.changes(Some("pods"), start, 10) else { return };
    assert!(f.store.changes(Some("pods"), floor, 1000).is_ok_and(|events| !events.is_empty()));
}

fn history_ends(f: &Fixture) {
    let now = f.ok(Commit::new().put(pod("a"), 1, *b"x"));
    let future = Revision(now.0 + 1);
    let current = HistoryError::Future { current: now };
    assert_eq!(f.store.changes(None, future, 1).map(drop), Err(current));
    assert_eq!(f.store.list(&Range { at: Some(future), ..range("pods") }).map(drop), Err(current));
    assert!(matches!(f.store.changes(None, Revision(0), 1), Err(HistoryError::Compacted { .. })));
    assert!(matches!(
        f.store.list(&Range { at: Some(Revision(0)), ..range("pods") }),
        Err(HistoryError::Compacted { .. })
    ));
}

fn waits(f: &Fixture) {
    let now = f.store.revision();
    assert_eq!(block_on(f.store.wait(Revision(0))), now);
    let waiting = async { f.store.wait(now).await };
    let writing = async { f.store.commit(Commit::new().put(pod("a"), 1, *b"x")).await };
    let (seen, written) = block_on(futures_lite::future::zip(waiting, writing));
    assert_eq!(Ok(seen), written);
}

fn classes(f: &Fixture) {
    let put = |name: &str, class, seal: Option<&str>| Change::Put {
        key: key("secrets", "default", name),
        schema: 1,
        value: name.as_bytes().into(),
        class,
        seal: seal.map(Arc::from),
    };
    let mut revision = f.store.revision();
    for change in [
        put("a", Class::Volatile, None),
        put("b", Class::Durable, Some("uid-b")),
        put("c", Class::Volatile, Some("uid-c")),
        put("a", Class::Durable, None),
        put("b", Class::Volatile, Some("uid-b")),
    ] {
        let key = change.key().clone();
        let next = f.ok(Commit::new().change(change));
        assert!(next > revision);
        revision = next;
        assert_eq!(f.value(&key).as_deref(), Some(&*key.name));
    }
    for name in ["a", "b", "c"] {
        f.ok(Commit::new().delete(key("secrets", "default", name)));
    }
    assert_eq!(f.store.count("secrets"), 0);
}

/// 16 writers count one object up by compare-and-swap and create their own objects.
fn many_writers(f: &Fixture) {
    const WRITERS: usize = 16;
    const ROUNDS: usize = 20;
    f.ok(Commit::new().put(pod("counter"), 1, *b"0"));
    let store = &*f.store;
    let count = |writer: usize| async move {
        for round in 0..ROUNDS {
            loop {
                let item = store.get(&pod("counter")).expect("it is never deleted");
                let count: usize = String::from_utf8_lossy(&item.value).parse().expect("a number");
                let commit =
                    Commit::new().replace(pod("counter"), item.revision, 1, (count + 1).to_string().into_bytes());
                match store.commit(commit.create(pod(&format!("{writer}-{round}")), 1, *b"x")).await {
                    Ok(revision) => break assert!(store.revision() >= revision),
                    Err(CommitError::Failed(Precondition::At(..))) => continue,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            scope.spawn(move || block_on(count(writer)));
        }
    });
    assert_eq!(f.value(&pod("counter")), Some((WRITERS * ROUNDS).to_string()));
    assert_eq!(f.store.count("pods"), WRITERS * ROUNDS + 1);
}
