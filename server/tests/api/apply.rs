//! Server-side apply as its clients use it.

use serde_json::{Value, json};

use crate::world::{Answer, World};

const PATH: &str = "/apis/apps/v1/namespaces/default/deployments/web";

fn apply(world: &World, path: &str, manager: &str, object: &Value) -> Answer {
    let path = format!("{path}?fieldManager={manager}&fieldValidation=Strict");
    world.ask("PATCH", &path, "application/apply-patch+yaml", object.to_string().as_bytes())
}

fn deployment(spec: &Value) -> Value {
    let container = json!({"name": "c", "image": "i:1", "resources": {"limits": {"cpu": "1000m"}},
        "ports": [{"containerPort": 80}]});
    let mut object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [container]}}}});
    coracle_shared::api::patch::merge(&mut object, &json!({"spec": spec}));
    object
}

#[test]
fn the_same_applied_twice_changes_nothing_and_makes_it_first() {
    let world = World::start();
    let made = apply(&world, PATH, "one", &deployment(&json!({"replicas": 2})));
    assert_eq!(made.code, 201, "{}", made.text());
    let again = apply(&world, PATH, "one", &deployment(&json!({"replicas": 2})));
    assert_eq!((again.code, again.json()), (200, made.json()));
    let entry = &made.json()["metadata"]["managedFields"][0];
    assert_eq!((&entry["manager"], &entry["operation"]), (&"one".into(), &"Apply".into()));
    assert_eq!(entry["fieldsV1"]["f:spec"]["f:replicas"], json!({}));
}

#[test]
fn two_managers_agree_or_one_insists() {
    let world = World::start();
    apply(&world, PATH, "one", &deployment(&json!({"replicas": 2})));
    let other = json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": 5}});
    let refused = apply(&world, PATH, "two", &other);
    let status = refused.json();
    assert_eq!((refused.code, &status["reason"]), (409, &"Conflict".into()), "{status}");
    assert_eq!(status["message"], "Apply failed with 1 conflict: conflict with \"one\" using apps/v1: .spec.replicas");
    let cause = json!({"reason": "FieldManagerConflict", "field": ".spec.replicas",
        "message": "conflict with \"one\" using apps/v1"});
    assert_eq!(status["details"]["causes"], json!([cause]));
    let forced = world.ask(
        "PATCH",
        &format!("{PATH}?fieldManager=two&force=true"),
        "application/apply-patch+yaml",
        other.to_string().as_bytes(),
    );
    assert_eq!((forced.code, &forced.json()["spec"]["replicas"]), (200, &5.into()), "{}", forced.text());
    // The first no longer speaks of replicas: they stay the second's.
    let agreed = apply(&world, PATH, "one", &deployment(&json!({})));
    assert_eq!((agreed.code, &agreed.json()["spec"]["replicas"]), (200, &5.into()), "{}", agreed.text());
}

#[test]
fn what_is_no_longer_applied_goes_and_what_others_changed_is_theirs() {
    let world = World::start();
    let labelled = |labels: Value| {
        let mut object = deployment(&json!({}));
        object["metadata"]["labels"] = labels;
        object
    };
    apply(&world, PATH, "one", &labelled(json!({"a": "1", "b": "1"})));
    let merge = "application/merge-patch+json";
    let edited = world.ask(
        "PATCH",
        &format!("{PATH}?fieldManager=editor"),
        merge,
        br#"{"metadata":{"labels":{"b":"2"}},"spec":{"paused":true}}"#,
    );
    assert_eq!(edited.code, 200, "{}", edited.text());
    let after = apply(&world, PATH, "one", &labelled(json!({})));
    assert_eq!(after.json()["metadata"]["labels"], json!({"b": "2"}), "{}", after.text());
    assert_eq!(apply(&world, PATH, "one", &labelled(json!({"b": "1"}))).code, 409);
    // The status has managers of its own, and the record ends when a client says so.
    let status = br#"{"status":{"replicas":3}}"#;
    let told = world.ask("PATCH", &format!("{PATH}/status?fieldManager=teller"), merge, status).json();
    let entries = told["metadata"]["managedFields"].as_array().expect("managers").clone();
    assert!(entries.iter().any(|e| e["manager"] == "teller" && e["subresource"] == "status"), "{entries:?}");
    let cleared = world.ask("PATCH", PATH, merge, br#"{"metadata":{"managedFields":[{}]}}"#).json();
    assert!(cleared["metadata"].get("managedFields").is_none(), "{cleared}");
}

#[test]
fn nonsense_is_refused_and_a_dry_run_leaves_nothing() {
    let world = World::start();
    let ask = |query: &str, body: &str| {
        world.ask("PATCH", &format!("{PATH}?{query}"), "application/apply-patch+yaml", body.as_bytes())
    };
    assert_eq!(ask("fieldManager=one&dryRun=All", &deployment(&json!({})).to_string()).code, 201);
    assert_eq!(world.ask("GET", PATH, "", b"").code, 404);
    assert_eq!(ask("", &deployment(&json!({})).to_string()).code, 400);
    assert_eq!(ask("fieldManager=one", "apiVersion: v1\nkind: Pod\n").code, 400);
    assert_eq!(ask("fieldManager=one", "apiVersion: [").code, 400);
    let unknown = deployment(&json!({"unheardOf": 1})).to_string();
    assert!(ask("fieldManager=one&fieldValidation=Strict", &unknown).refusal(400).contains("spec.unheardOf"));
    let managed =
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"managedFields": [{"manager": "x"}]}});
    assert!(ask("fieldManager=one", &managed.to_string()).refusal(400).contains("managedFields must be nil"));
}
