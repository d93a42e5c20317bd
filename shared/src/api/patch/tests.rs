use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::api::table::schema;

#[track_caller]
fn check_merge(mut target: Value, patch: Value, expect: Value) {
    merge(&mut target, &patch);
    assert_eq!(target, expect, "{patch}");
}

#[test]
fn merge_patch_follows_rfc_7396() {
    // The table of the RFC's appendix A.
    for (target, patch, expect) in [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
        (json!({"a": "b"}), json!({"a": null}), json!({})),
        (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
        (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
        (json!(["a", "b"]), json!(["c"]), json!(["c"])),
        (json!({"a": "b"}), json!(["c"]), json!(["c"])),
        (json!({"a": "foo"}), json!(null), json!(null)),
        (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
        (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
        (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
    ] {
        check_merge(target, patch, expect);
    }
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[a-c]{0,2}".prop_map(Value::from)
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-d]", inner, 0..4).prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

fn object() -> impl Strategy<Value = Value> {
    prop::collection::btree_map("[a-d]", value(), 0..5).prop_map(|m| Value::Object(m.into_iter().collect()))
}

proptest! {
    #[test]
    fn a_created_merge_patch_leads_there(from in object(), to in object()) {
        let mut target = from.clone();
        merge(&mut target, &create_merge(&from, &to));
        prop_assert_eq!(target, to);
    }

    #[test]
    fn merging_twice_is_merging_once(target in object(), patch in object()) {
        let mut once = target;
        merge(&mut once, &patch);
        let mut twice = once.clone();
        merge(&mut twice, &patch);
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn hostile_patches_never_panic(target in object(), patch in value(), path in "(/[a-d~0-9-]{0,2}){0,3}", op in "(add|remove|replace|move|copy|test)") {
        let operation = json!([{"op": op, "path": path.clone(), "from": path, "value": patch.clone()}]);
        let _ = json(&mut target.clone(), &operation);
        let pod = schema().kind("", "v1", "Pod").unwrap();
        let mut target = json!({"spec": target});
        let _ = strategic(pod, &mut target, json!({"spec": {"containers": patch.clone(), "$setElementOrder/containers": patch}}));
    }
}

#[track_caller]
fn check_json(mut target: Value, patch: Value, expect: Option<Value>) {
    let result = json(&mut target, &patch);
    match expect {
        Some(expect) => {
            result.unwrap_or_else(|e| panic!("{patch}: {e}"));
            assert_eq!(target, expect, "{patch}");
        }
        None => assert!(result.is_err(), "{patch}"),
    }
}

#[test]
fn json_patch_follows_rfc_6902() {
    let op = |op: &str, path: &str, value: Value| json!([{"op": op, "path": path, "value": value}]);
    for (target, patch, expect) in [
        (json!({"a": 1}), op("add", "/b", json!(2)), Some(json!({"a": 1, "b": 2}))),
        (json!({"a": [1, 3]}), op("add", "/a/1", json!(2)), Some(json!({"a": [1, 2, 3]}))),
        (json!({"a": [1]}), op("add", "/a/-", json!(2)), Some(json!({"a": [1, 2]}))),
        (json!({"a": [1]}), op("add", "/a/2", json!(2)), None),
        (json!({"a": [1]}), op("add", "/a/01", json!(2)), None),
        (json!({"a": 1}), op("add", "/b/c", json!(2)), None),
        (json!({"a": 1}), op("add", "", json!({"z": 1})), Some(json!({"z": 1}))),
        (json!({"a/b": {"~": 1}}), op("replace", "/a~1b/~0", json!(2)), Some(json!({"a/b": {"~": 2}}))),
        (json!({"a": 1}), op("replace", "/b", json!(2)), None),
        (json!({"a": 1, "b": 2}), op("remove", "/b", json!(null)), Some(json!({"a": 1}))),
        (json!({"a": [1, 2]}), op("remove", "/a/0", json!(null)), Some(json!({"a": [2]}))),
        (json!({"a": 1}), op("remove", "/b", json!(null)), None),
        (json!({"a": {"b": 1}}), op("test", "/a", json!({"b": 1})), Some(json!({"a": {"b": 1}}))),
        (json!({"a": 1}), op("test", "/a", json!("1")), None),
        (json!({"a": 1}), op("frobnicate", "/a", json!(1)), None),
        (json!({"a": {"b": 1}}), json!([{"op": "move", "from": "/a/b", "path": "/c"}]), Some(json!({"a": {}, "c": 1}))),
        (json!({"a": {"b": 1}}), json!([{"op": "move", "from": "/a", "path": "/a/c"}]), None),
        (json!({"a": 1}), json!([{"op": "copy", "from": "/a", "path": "/b"}]), Some(json!({"a": 1, "b": 1}))),
        (json!({"a": 1}), json!([{"op": "add", "path": "b", "value": 1}]), None),
        (json!({"a": 1}), json!([{"op": "add", "path": "/b"}]), None),
        (json!({"a": 1}), json!({"op": "add"}), None),
        (json!({"a": 1}), json!([7]), None),
    ] {
        check_json(target, patch, expect);
    }
}

#[test]
fn json_patch_cost_is_bounded() {
    let many = Value::Array(vec![json!({"op": "test", "path": "/a", "value": 1}); MAX_OPERATIONS + 1]);
    let doubling = (0..60).map(|i| json!({"op": "copy", "from": "/b", "path": format!("/b/{i}")}));
    let doubling = Value::Array(doubling.collect());
    let shifting = Value::Array(vec![json!({"op": "add", "path": "/a/0", "value": 1}); MAX_OPERATIONS]);
    for (target, patch) in
        [(json!({"a": 1}), many), (json!({"b": {}}), doubling), (json!({"a": vec![0; 100_000]}), shifting)]
    {
        let error = json(&mut target.clone(), &patch).unwrap_err();
        assert!(matches!(error, PatchError::TooCostly(_)), "{error}");
        assert_eq!(error.status().code, 413);
    }
}

#[test]
fn json_patch_does_not_nest_without_end() {
    let nest = |i: usize| json!({"op": "add", "path": "/a".repeat(i + 1), "value": {"a": {}}});
    let nesting = Value::Array((0..500).map(nest).collect());
    let moving = |i: usize| json!({"op": "move", "from": "/a", "path": format!("/x{i}{}", "/y".repeat(i % 2))});
    let error = json(&mut json!({}), &nesting).unwrap_err();
    assert!(matches!(error, PatchError::Refused(_)), "{error}");
    let _ = json(&mut json!({"a": {}}), &Value::Array((0..500).map(moving).collect()));
}

#[track_caller]
fn check(kind: (&str, &str), target: Value, patch: Value, expect: Value) {
    let id = schema().kind(kind.0, "v1", kind.1).unwrap();
    let mut result = target;
    strategic(id, &mut result, patch.clone()).unwrap_or_else(|e| panic!("{patch}: {e}"));
    assert_eq!(result, expect, "{patch}");
}

#[track_caller]
fn check_spec(target: Value, patch: Value, expect: Value) {
    check(("", "Pod"), json!({"spec": target}), json!({"spec": patch}), json!({"spec": expect}));
}

#[test]
fn lists_merge_by_their_key() {
    let two = json!({"containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "y", "env": [{"name": "E", "value": "1"}]}]});
    check_spec(
        two.clone(),
        json!({"containers": [{"name": "b", "image": "z", "env": [{"name": "F", "value": "2"}]}]}),
        json!({"containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "z", "env": [{"name": "F", "value": "2"}, {"name": "E", "value": "1"}]}]}),
    );
    check_spec(
        two.clone(),
        json!({"containers": [{"name": "c", "image": "z", "command": null}]}),
        json!({"containers": [{"name": "c", "image": "z"}, {"name": "a", "image": "x"}, {"name": "b", "image": "y", "env": [{"name": "E", "value": "1"}]}]}),
    );
    check_spec(
        two.clone(),
        json!({"containers": [{"name": "b", "$patch": "delete"}]}),
        json!({"containers": [{"name": "a", "image": "x"}]}),
    );
    check_spec(
        two.clone(),
        json!({"containers": [{"name": "z", "image": "n"}, {"$patch": "replace"}]}),
        json!({"containers": [{"name": "z", "image": "n"}]}),
    );
    check_spec(
        two,
        json!({"containers": [{"name": "b", "$patch": "replace", "image": "only"}]}),
        json!({"containers": []}),
    );
}

#[test]
fn element_order_is_kept_or_set() {
    let three = json!({"containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}]});
    check_spec(
        three.clone(),
        json!({"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}], "containers": [{"name": "a", "image": "i"}]}),
        json!({"containers": [{"name": "b"}, {"name": "c"}, {"name": "a", "image": "i"}]}),
    );
    check_spec(
        three.clone(),
        json!({"$setElementOrder/containers": [{"name": "c"}, {"name": "b"}, {"name": "a"}]}),
        json!({"containers": [{"name": "c"}, {"name": "b"}, {"name": "a"}]}),
    );
    check_spec(
        three,
        json!({"$setElementOrder/containers": [{"name": "a"}, {"name": "d"}], "containers": [{"name": "d"}, {"name": "b", "$patch": "delete"}]}),
        json!({"containers": [{"name": "a"}, {"name": "d"}, {"name": "c"}]}),
    );
    check_spec(
        json!({}),
        json!({"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "a", "image": null}, {"name": "x", "$patch": "delete"}]}),
        json!({"containers": [{"name": "a"}]}),
    );
}

#[test]
fn lists_of_primitives_merge_as_sets() {
    let object = json!({"metadata": {"finalizers": ["a", "b"]}});
    let metadata = |finalizers: Value| json!({"metadata": {"finalizers": finalizers}});
    check(("", "Pod"), object.clone(), metadata(json!(["c", "a"])), metadata(json!(["c", "a", "b"])));
    check(
        ("", "Pod"),
        object.clone(),
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}}),
        metadata(json!(["b"])),
    );
    check(
        ("", "Pod"),
        object,
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "$setElementOrder/finalizers": ["d", "b"], "finalizers": ["d"]}}),
        metadata(json!(["d", "b"])),
    );
}

#[test]
fn unmarked_lists_and_values_are_replaced() {
    check_spec(
        json!({"containers": [{"name": "a", "args": ["1", "2"]}], "tolerations": [{"key": "k"}]}),
        json!({"containers": [{"name": "a", "args": ["3"]}], "tolerations": [{"key": "l"}]}),
        json!({"containers": [{"name": "a", "args": ["3"]}], "tolerations": [{"key": "l"}]}),
    );
    check_spec(
        json!({"nodeName": "n", "priority": 1}),
        json!({"nodeName": null, "priority": 2}),
        json!({"priority": 2}),
    );
    check(
        ("", "ConfigMap"),
        json!({"data": {"a": "1", "b": "2"}}),
        json!({"data": {"a": null, "c": "3"}}),
        json!({"data": {"b": "2", "c": "3"}}),
    );
    check(
        ("", "ConfigMap"),
        json!({"data": {"a": "1"}}),
        json!({"data": {"$patch": "replace", "z": "1"}}),
        json!({"data": {"z": "1"}}),
    );
    check(("", "ConfigMap"), json!({"data": {"a": "1"}}), json!({"data": {"$patch": "delete"}}), json!({"data": {}}));
}

#[test]
fn retain_keys_clear_the_rest() {
    check(
        ("apps", "Deployment"),
        json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}),
        json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
        json!({"spec": {"strategy": {"type": "Recreate"}}}),
    );
    check_spec(
        json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
        json!({"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}),
        json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}),
    );
}

#[test]
fn malformed_strategic_patches_are_refused() {
    let pod = schema().kind("", "v1", "Pod").unwrap();
    for patch in [
        json!([]),
        json!({"$patch": "frobnicate"}),
        json!({"spec": {"containers": [{"image": "no key"}]}}),
        json!({"spec": {"containers": [{"name": "a", "$patch": "merge"}]}}),
        json!({"spec": {"containers": ["a"]}}),
        json!({"spec": {"$setElementOrder/containers": "a"}}),
        json!({"spec": {"$setElementOrder/containers": [{"name": "b"}], "containers": [{"name": "a"}]}}),
        json!({"spec": {"$retainKeys": 7}}),
        json!({"spec": {"$retainKeys": ["volumes"], "nodeName": "x"}}),
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": "x"}}),
    ] {
        let mut target = json!({"metadata": {"finalizers": ["x"]}, "spec": {"containers": [{"name": "a"}]}});
        assert!(strategic(pod, &mut target, patch.clone()).is_err(), "{patch}");
    }
}

#[test]
fn long_lists_merge_in_linear_time() {
    let items = |n: usize| Value::Array((0..n).map(|i| json!({"name": format!("e{i}"), "value": "x"})).collect());
    let pod = schema().kind("", "v1", "Pod").unwrap();
    let mut target = json!({"spec": {"containers": [{"name": "a", "env": items(20_000)}]}});
    let patch =
        json!({"spec": {"containers": [{"name": "a", "env": items(20_000), "$setElementOrder/env": items(20_000)}]}});
    strategic(pod, &mut target, patch).unwrap();
    assert_eq!(target["spec"]["containers"][0]["env"].as_array().map(Vec::len), Some(20_000));
}
