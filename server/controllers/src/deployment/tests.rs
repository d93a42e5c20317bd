use super::*;
use coracle_shared::time::Millis;

const NOW: Now = Now { wall: Millis(1_000_000), monotonic: Millis(5_000) };

fn deployment(replicas: i64, image: &str) -> Value {
    json!({"metadata": {"name": "web", "namespace": "d", "uid": "u", "generation": 3, "annotations": {"note": "x"}},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "revisionHistoryLimit": 1,
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"image": image}]}}}})
}

fn set(name: &str, image: &str, revision: i64, replicas: i64, available: i64) -> Value {
    json!({"metadata": {"name": name, "namespace": "d", "uid": name, "annotations": {"note": "x", REVISION: revision.to_string(), DESIRED: "3", MAX_REPLICAS: "4"}},
        "spec": {"replicas": replicas, "template": {"metadata": {"labels": {"app": "web", HASH_LABEL: "h"}}, "spec": {"containers": [{"image": image}]}}},
        "status": {"replicas": replicas, "readyReplicas": available, "availableReplicas": available}})
}

fn show(outcome: &Outcome) -> Vec<String> {
    outcome
        .writes
        .iter()
        .filter_map(|write| match write {
            Write::Create { resource: "events", .. } => None,
            Write::Create { object, .. } => Some(format!(
                "create {} revision {}",
                object["spec"]["replicas"],
                text(&object["metadata"]["annotations"], "/deployment.kubernetes.io~1revision")
            )),
            Write::Delete { name, .. } => Some(format!("delete {name}")),
            Write::Merge { name, subresource: "", patch, .. } if patch["spec"].is_null() => {
                Some(format!("{name} revision {}", patch["metadata"]["annotations"][REVISION]))
            }
            Write::Merge { name, subresource: "", patch, .. } => {
                Some(format!("{name} to {}", patch["spec"]["replicas"]))
            }
            Write::Merge { .. } => None,
            other => Some(format!("{other:?}")),
        })
        .collect()
}

fn check(deployment: &Value, sets: &[Value], expect: &[&str]) -> Outcome {
    let outcome = plan(deployment, sets, &vec![false; sets.len()], NOW);
    assert_eq!(show(&outcome), expect);
    outcome
}

fn marked(mut deployment: Value, revision: &str) -> Value {
    deployment["metadata"]["annotations"][REVISION] = revision.into();
    deployment
}

#[test]
fn first_set() {
    check(&deployment(3, "a"), &[], &["create 3 revision 1", "web revision \"1\""]);
    let mut paused = deployment(3, "a");
    paused["spec"]["paused"] = true.into();
    check(&paused, &[], &["web revision \"1\""]);
}

#[test]
fn a_new_template_rolls() {
    let d = marked(deployment(3, "b"), "2");
    check(&d, &[set("old", "a", 1, 3, 3)], &["create 1 revision 2"]);
    check(&d, &[set("old", "a", 1, 3, 3), set("new", "b", 2, 1, 1)], &["old to 2"]);
    check(&d, &[set("old", "a", 1, 2, 2), set("new", "b", 2, 1, 1)], &["new to 2"]);
    check(&d, &[set("old", "a", 1, 0, 0), set("new", "b", 2, 3, 3)], &[]);
}

#[test]
fn a_template_that_was_there_before_is_a_rollback() {
    let d = deployment(3, "a");
    let sets = [set("first", "a", 1, 0, 0), set("second", "b", 2, 3, 3)];
    let outcome = plan(&d, &sets, &[false, false], NOW);
    assert_eq!(show(&outcome), ["first to 1", "web revision \"3\""]);
    let scaled = outcome.writes.iter().find_map(|w| match w {
        Write::Merge { name, patch, .. } if name == "first" => Some(patch["metadata"]["annotations"][REVISION].clone()),
        _ => None,
    });
    assert_eq!(scaled, Some("3".into()));
}

#[test]
fn history_is_pruned_only_when_complete() {
    let d = marked(deployment(3, "c"), "3");
    let olds = [set("one", "a", 1, 0, 0), set("two", "b", 2, 0, 0)];
    let with = |available| [olds[0].clone(), olds[1].clone(), set("three", "c", 3, 3, available)];
    check(&d, &with(3), &["delete one"]);
    check(&d, &with(2), &[]);
}

#[test]
fn recreate_waits_for_the_old_to_end() {
    let mut d = marked(deployment(3, "b"), "2");
    d["spec"]["strategy"] = json!({"type": "Recreate"});
    let run = |sets: &[Value], busy: &[bool]| show(&plan(&d, sets, busy, NOW));
    assert_eq!(run(&[set("old", "a", 1, 3, 3)], &[true]), ["old to 0"]);
    assert_eq!(run(&[set("old", "a", 1, 0, 0)], &[true]), [""; 0]);
    assert_eq!(run(&[set("old", "a", 1, 0, 0)], &[false]), ["create 3 revision 2"]);
}

#[test]
fn progress_has_a_deadline() {
    let mut d = marked(deployment(3, "b"), "2");
    let sets = [set("new", "b", 2, 3, 1)];
    let condition_of = |outcome: &Outcome| {
        outcome.writes.iter().find_map(|w| match w {
            Write::Merge { subresource: "status", patch, .. } => {
                patch["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == "Progressing").cloned()
            }
            _ => None,
        })
    };
    let first = plan(&d, &sets, &[false], NOW);
    let progressing = condition_of(&first).unwrap();
    assert_eq!((progressing["status"].as_str(), first.again), (Some("True"), Some(Millis(5_000 + 600_000))));
    d["status"] = json!({"observedGeneration": 3, "replicas": 3, "updatedReplicas": 3, "readyReplicas": 1, "availableReplicas": 1, "conditions": [progressing]});
    let later = Now { wall: Millis(1_000_000 + 600_000), monotonic: Millis(605_000) };
    let late = condition_of(&plan(&d, &sets, &[false], later)).unwrap();
    assert_eq!((late["status"].as_str(), late["reason"].as_str()), (Some("False"), Some("ProgressDeadlineExceeded")));
}
