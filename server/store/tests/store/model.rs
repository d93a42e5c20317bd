//! A model test: random commits, lists and histories against a `BTreeMap`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coracle_store::{Commit, CommitError, Key, Memory, Precondition, Range, Revision, Store};
use proptest::prelude::*;
use smol::block_on;

use crate::suite::range;

/// One step of a run. Numbers pick among few keys, so that steps meet.
#[derive(Clone, Debug)]
pub enum Step {
    Commit { guards: Vec<(u8, u8)>, puts: Vec<(u8, u8, bool)>, deletes: Vec<u8> },
    Page { resource: u8, limit: u8 },
    Continue,
    Follow { limit: u8 },
}

pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    let commit = (
        prop::collection::vec((0..24u8, 0..4u8), 0..3),
        prop::collection::vec((0..24u8, any::<u8>(), any::<bool>()), 0..5),
        prop::collection::vec(0..24u8, 0..2),
    );
    let commit = commit.prop_map(|(guards, puts, deletes)| Step::Commit { guards, puts, deletes });
    let step = prop_oneof![
        6 => commit,
        1 => (0..2u8, 1..5u8).prop_map(|(resource, limit)| Step::Page { resource, limit }),
        2 => Just(Step::Continue),
        1 => (1..8u8).prop_map(|limit| Step::Follow { limit }),
    ];
    prop::collection::vec(step, 1..80)
}

fn key(number: u8) -> Key {
    let resource = if number.is_multiple_of(2) { "pods" } else { "nodes" };
    Key::new(resource, ["a", "b", ""][usize::from(number % 3)], format!("n{}", number / 6))
}

type State = BTreeMap<(String, String, String), (u64, Vec<u8>)>;

fn parts(key: &Key) -> (String, String, String) {
    (key.resource.to_string(), key.namespace.to_string(), key.name.to_string())
}

/// A list under way: its revision, resource, what is still to come, and the last item seen.
type Paging = (Revision, Arc<str>, Vec<(String, u64)>, Option<(Arc<str>, Arc<str>)>, usize);

/// Runs steps on a store beside the model.
pub fn run(store: &dyn Store, steps: &[Step]) {
    let mut state = State::new();
    let mut paging: Option<Paging> = None;
    let mut followed = (store.revision(), State::new());
    for step in steps {
        match step {
            Step::Commit { guards, puts, deletes } => commit(store, &mut state, guards, puts, deletes),
            Step::Page { resource, limit } => {
                let resource: Arc<str> = ["pods", "nodes"][usize::from(*resource)].into();
                let items = state.iter().filter(|((r, ..), _)| **r == *resource);
                let rest = items.map(|((_, ns, n), (revision, _))| (format!("{ns}/{n}"), *revision)).collect();
                paging = Some((store.revision(), resource, rest, None, usize::from(*limit)));
                next_page(store, &mut paging);
            }
            Step::Continue => next_page(store, &mut paging),
            Step::Follow { limit } => follow(store, &mut followed, usize::from(*limit)),
        }
    }
    while followed.0 < store.revision() {
        follow(store, &mut followed, 3);
    }
    assert_eq!(followed.1, state, "the change log leads to the present state");
    for (parts, (revision, value)) in &state {
        let item = store.get(&Key::new(&*parts.0, &*parts.1, &*parts.2)).expect("the model has it");
        assert_eq!((item.revision.0, item.value.to_vec()), (*revision, value.clone()));
    }
    assert_eq!(store.count("pods") + store.count("nodes"), state.len());
}

fn commit(store: &dyn Store, state: &mut State, guards: &[(u8, u8)], puts: &[(u8, u8, bool)], deletes: &[u8]) {
    let mut commit = Commit::new();
    let mut holds = true;
    for (number, kind) in guards {
        let (key, known) = (key(*number), state.get(&parts(&key(*number))).map(|(revision, _)| *revision));
        let (guard, held) = match kind {
            0 => (Precondition::Absent(key), known.is_none()),
            1 => (Precondition::Exists(key), known.is_some()),
            2 => (Precondition::At(key, Revision(known.unwrap_or(1))), known.is_some()),
            _ => (Precondition::At(key, Revision(1)), known == Some(1)),
        };
        holds &= held;
        commit = commit.require(guard);
    }
    let mut wanted = State::new();
    for (number, byte, volatile) in puts {
        let key = key(*number);
        if wanted.insert(parts(&key), (0, vec![*byte; 9])).is_none() {
            let value = vec![*byte; 9];
            commit = if *volatile { commit.put_volatile(key, 1, value) } else { commit.put(key, 1, value) };
        } else {
            wanted.insert(parts(&key), (0, first_value(puts, *number)));
        }
    }
    let gone: Vec<Key> =
        deletes.iter().map(|number| key(*number)).filter(|key| !wanted.contains_key(&parts(key))).collect();
    for key in &gone {
        commit = commit.delete(key.clone());
    }
    let before = store.revision();
    match block_on(store.commit(commit)) {
        Ok(revision) => {
            assert!(holds);
            let changes = !wanted.is_empty() || gone.iter().any(|key| state.contains_key(&parts(key)));
            assert_eq!(revision > before, changes);
            state.extend(wanted.into_iter().map(|(key, (_, value))| (key, (revision.0, value))));
            gone.iter().for_each(|key| drop(state.remove(&parts(key))));
        }
        Err(CommitError::Failed(_)) => assert!(!holds && store.revision() == before),
        Err(error) => panic!("{error}"),
    }
}

fn first_value(puts: &[(u8, u8, bool)], number: u8) -> Vec<u8> {
    let first = puts.iter().find(|(other, ..)| key(*other) == key(number));
    vec![first.map_or(0, |(_, byte, _)| *byte); 9]
}

fn next_page(store: &dyn Store, paging: &mut Option<Paging>) {
    let Some((at, resource, mut rest, after, limit)) = paging.take() else { return };
    let page = store.list(&Range { after, limit, at: Some(at), ..range(&resource) }).expect("the token is young");
    let seen: Vec<_> =
        page.items.iter().map(|i| (format!("{}/{}", i.key.namespace, i.key.name), i.revision.0)).collect();
    let expected: Vec<_> = rest.drain(..limit.min(rest.len())).collect();
    assert_eq!((page.revision, seen, page.remaining), (at, expected, rest.len()));
    let last = page.items.last().map(|item| (item.key.namespace.clone(), item.key.name.clone()));
    if page.remaining > 0 {
        *paging = Some((at, resource, rest, last, limit));
    }
}

fn follow(store: &dyn Store, (after, state): &mut (Revision, State), limit: usize) {
    for event in store.changes(None, *after, limit).expect("recent") {
        assert!(event.revision >= *after);
        *after = event.revision;
        let old = event.old.map(|item| (item.revision.0, item.value.to_vec()));
        assert_eq!(state.get(&parts(&event.key)), old.as_ref());
        match event.new {
            Some(item) => drop(state.insert(parts(&event.key), (item.revision.0, item.value.to_vec()))),
            None => drop(state.remove(&parts(&event.key))),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn memory(steps in steps()) {
        run(&Memory::new([7; 16], Arc::new(|| Duration::ZERO)), &steps);
    }
}
