use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::api::table::schema;

fn id(group: &str, kind: &str) -> TypeId {
    schema().kind(group, "v1", kind).expect(kind)
}

#[test]
fn a_set_reads_as_upstream_writes_it() {
    let object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "labels": {"a": "b"}},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}}, "template": {"spec": {"containers":
            [{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}]}}}});
    let set = FieldSet::of(id("apps", "Deployment"), &object);
    let value = set.to_value();
    assert_eq!(
        value,
        json!({"f:metadata": {"f:labels": {"f:a": {}}}, "f:spec": {"f:replicas": {}, "f:selector": {},
            "f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:name": {}, "f:image": {},
                "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}}}}}})
    );
    assert_eq!(FieldSet::from_value(&value), set);
    assert!(set.paths().contains(&".spec.template.spec.containers[name=\"c\"].image".to_owned()), "{:?}", set.paths());
}

#[track_caller]
fn check(old: Value, new: Value, changed: &[&str], gone: &[&str]) {
    let (is_changed, is_gone) = compare(id("", "Service"), &old, &new);
    assert_eq!(
        (is_changed.paths(), is_gone.paths()),
        (changed.iter().map(|p| (*p).to_owned()).collect(), gone.iter().map(|p| (*p).to_owned()).collect())
    );
}

#[test]
fn a_change_is_told_by_its_fields() {
    let port = |number: u32, name: &str| json!({"port": number, "protocol": "TCP", "name": name});
    let service = |ports: Vec<Value>| json!({"spec": {"ports": ports}});
    check(service(vec![port(80, "a")]), service(vec![port(80, "a")]), &[], &[]);
    check(
        service(vec![port(80, "a")]),
        service(vec![port(80, "b")]),
        &[".spec.ports[port=80,protocol=\"TCP\"].name"],
        &[],
    );
    let gone: Vec<&str> = vec![
        ".spec.ports[port=81,protocol=\"TCP\"].name",
        ".spec.ports[port=81,protocol=\"TCP\"].port",
        ".spec.ports[port=81,protocol=\"TCP\"].protocol",
        ".spec.ports[port=81,protocol=\"TCP\"]",
    ];
    check(service(vec![port(80, "a"), port(81, "b")]), service(vec![port(80, "a")]), &[], &gone);
    // The selector of a Service is one field.
    check(
        json!({"spec": {"selector": {"a": "b"}}}),
        json!({"spec": {"selector": {"a": "c"}}}),
        &[".spec.selector"],
        &[],
    );
}

#[test]
fn what_is_applied_is_laid_over_and_what_is_no_longer_is_taken_out() {
    let id = id("", "Service");
    let mut object = json!({"metadata": {"labels": {"a": "1", "b": "2"}, "finalizers": ["x/y"]},
        "spec": {"ports": [{"port": 80, "protocol": "TCP", "name": "a"}]}});
    let applied = json!({"metadata": {"labels": {"a": "9"}, "finalizers": ["z/y"]},
        "spec": {"ports": [{"port": 81, "name": "b"}, {"port": 80, "nodePort": 30000}]}});
    merge(id, &mut object, &applied);
    assert_eq!(
        object,
        json!({"metadata": {"labels": {"a": "9", "b": "2"}, "finalizers": ["x/y", "z/y"]}, "spec": {"ports":
            [{"port": 80, "protocol": "TCP", "name": "a", "nodePort": 30000}, {"port": 81, "name": "b"}]}})
    );
    let mine = FieldSet::of(id, &applied);
    let others =
        FieldSet::of(id, &json!({"metadata": {"labels": {"b": "2"}}, "spec": {"ports": [{"port": 80, "name": "a"}]}}));
    prune(id, &mut object, &mine, &others);
    // The other's port stays with what is the other's.
    assert_eq!(object["metadata"], json!({"labels": {"b": "2"}, "finalizers": ["x/y"]}));
    assert_eq!(object["spec"]["ports"], json!([{"port": 80, "protocol": "TCP", "name": "a"}]));
}

/// A ConfigMap's data and labels as plain maps: the model of sets is a set of strings.
fn maps() -> impl Strategy<Value = Value> {
    let map = || proptest::collection::btree_map("[a-d]", "[xy]", 0..4);
    (map(), map()).prop_map(|(data, labels)| json!({"metadata": {"labels": labels}, "data": data}))
}

fn leaves(object: &Value) -> std::collections::BTreeSet<String> {
    let mut all = std::collections::BTreeSet::new();
    for (path, place) in [(".data", &object["data"]), (".metadata.labels", &object["metadata"]["labels"])] {
        let map = place.as_object().expect("a map");
        all.extend(map.keys().map(|key| format!("{path}.{key}")));
        all.extend(map.is_empty().then(|| path.to_owned()));
    }
    all
}

proptest! {
    #[test]
    fn sets_behave_like_sets_of_paths(a in maps(), b in maps()) {
        let id = id("", "ConfigMap");
        let (left, right) = (FieldSet::of(id, &a), FieldSet::of(id, &b));
        let paths = |set: &FieldSet| set.paths().into_iter().collect::<std::collections::BTreeSet<_>>();
        prop_assert_eq!(paths(&left), leaves(&a));
        prop_assert_eq!(paths(&left.intersection(&right)), leaves(&a).intersection(&leaves(&b)).cloned().collect());
        prop_assert_eq!(paths(&left.difference(&right)), leaves(&a).difference(&leaves(&b)).cloned().collect());
        let mut both = left.clone();
        both.union(&right);
        prop_assert_eq!(paths(&both), leaves(&a).union(&leaves(&b)).cloned().collect());
        prop_assert_eq!(FieldSet::from_value(&left.to_value()), left);
    }
}
