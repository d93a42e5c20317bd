use coracle_store::{Commit, Memory, monotonic};
use serde_json::json;

use super::*;
use crate::api::object::{SCHEMA, encode};
use crate::kinds;

fn store(names: &[&str]) -> Memory {
    let store = Memory::new([1; 16], monotonic());
    for name in names {
        let (namespace, name) = name.split_once('/').expect("namespace/name");
        let bytes = encode("ConfigMap", &json!({"metadata": {"name": name, "labels": {"app": name}}}));
        let commit = Commit::new().create(Key::new("configmaps", namespace, name), SCHEMA, bytes);
        store.commit_now(commit).expect("committed");
    }
    store
}

fn target(namespace: &str) -> Target {
    let kind = kinds::by_resource("configmaps").expect("known");
    Target { kind, namespace: namespace.into(), name: String::new(), sub: None }
}

fn read(store: &Memory, namespace: &str, query: &str) -> Result<Selected, Status> {
    let query = Query::parse(query);
    let target = target(namespace);
    let selection = Selection::parse(target.kind, &query)?;
    smol::block_on(select(store, &target, Plan::parse(&query)?, &selection))
}

fn names(selected: &Selected) -> Vec<String> {
    selected.items.iter().map(|i| format!("{}/{}", i.key.namespace, i.key.name)).collect()
}

#[test]
fn pages_continue_at_the_revision_of_the_first() {
    let store = store(&["a/1", "a/2", "a/3", "b/1"]);
    let first = read(&store, "", "limit=2").expect("a page");
    assert_eq!(names(&first), ["a/1", "a/2"]);
    assert_eq!(first.remaining, Some(2));
    store.commit_now(Commit::new().delete(Key::new("configmaps", "a", "3"))).expect("deleted");
    let token = first.token.clone().expect("more to come");
    let second = read(&store, "", &format!("limit=2&continue={token}")).expect("a page");
    assert_eq!(names(&second), ["a/3", "b/1"]);
    assert_eq!((second.revision, second.token), (first.revision, None));
}

#[test]
fn a_selector_fills_pages_with_what_it_selects() {
    let store = store(&["a/1", "a/2", "b/1", "b/2", "c/1"]);
    let first = read(&store, "", "limit=2&labelSelector=app%3D1").expect("a page");
    assert_eq!(names(&first), ["a/1", "b/1"]);
    assert_eq!(first.remaining, None);
    let token = first.token.expect("more may come");
    let second = read(&store, "", &format!("limit=2&labelSelector=app%3D1&continue={token}")).expect("a page");
    assert_eq!(names(&second), ["c/1"]);
    assert_eq!(second.token, None);
}

#[test]
fn a_namespace_is_listed_alone() {
    let store = store(&["a/1", "ab/2", "b/1"]);
    assert_eq!(names(&read(&store, "a", "").expect("a list")), ["a/1"]);
}

#[test]
fn nonsense_in_tokens_and_revisions_is_refused() {
    let store = store(&["a/1"]);
    for query in [
        "continue=nonsense",
        "resourceVersion=abc",
        "resourceVersionMatch=Exact",
        "resourceVersion=0&resourceVersionMatch=Exact",
        "resourceVersion=1&resourceVersionMatch=Best",
        "limit=x",
    ] {
        assert_eq!(read(&store, "", query).err().expect(query).code, 400, "{query}");
    }
}

#[test]
fn a_list_is_whole_json_in_every_form() {
    let kind = kinds::by_resource("configmaps").expect("known");
    for form in [Form::Object, Form::Table("v1"), Form::Metadata("v1")] {
        let look = Look { form, include: Include::Metadata, moment: Moment { now: 0 } };
        for count in [0, 1, 3000] {
            let names: Vec<String> = (0..count).map(|n| format!("a/{n:04}")).collect();
            let store = store(&names.iter().map(String::as_str).collect::<Vec<_>>());
            let selected = read(&store, "", "").expect("a list");
            let pieces = Pieces::new(kind, selected.items, json!({"resourceVersion": "1"}), look);
            let text: Vec<u8> = pieces.flat_map(|piece| piece.to_vec()).collect();
            let list: Value = serde_json::from_slice(&text).expect("JSON");
            let field = if form == Form::Table("v1") { "rows" } else { "items" };
            assert_eq!(list[field].as_array().map(Vec::len), Some(count));
        }
    }
}
