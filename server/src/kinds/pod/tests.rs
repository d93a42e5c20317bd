use serde_json::json;

use super::*;

#[track_caller]
fn check(pod: &Value, status: &str, ready: &str, restarts: i64) {
    let summary = summary(&View(pod));
    assert_eq!(summary.status, status);
    assert_eq!(format!("{}/{}", summary.ready, summary.total), ready);
    assert_eq!(summary.restarts, restarts);
}

fn pod(phase: &str, statuses: Value) -> Value {
    json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]},
        "status": {"phase": phase, "containerStatuses": statuses}})
}

#[test]
fn the_status_is_that_of_the_containers() {
    check(&json!({"status": {"phase": "Pending"}, "spec": {"containers": [{}]}}), "Pending", "0/1", 0);
    check(&pod("Running", json!([{"ready": true, "restartCount": 2, "state": {"running": {}}}])), "Running", "1/1", 2);
    let waiting = json!([{"restartCount": 5, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]);
    check(&pod("Running", waiting), "CrashLoopBackOff", "0/1", 5);
    let ended = |reason: &str, code: i32, signal: i32| json!([{"state": {"terminated": {"reason": reason, "exitCode": code, "signal": signal}}}]);
    check(&pod("Succeeded", ended("Completed", 0, 0)), "Completed", "0/1", 0);
    check(&pod("Failed", ended("", 3, 0)), "ExitCode:3", "0/1", 0);
    check(&pod("Failed", ended("", 137, 9)), "Signal:9", "0/1", 0);
    check(&pod("Failed", ended("OOMKilled", 137, 9)), "OOMKilled", "0/1", 0);
}

#[test]
fn a_pod_with_a_completed_and_a_running_container_runs() {
    let mut pod = pod(
        "Running",
        json!([{"state": {"terminated": {"reason": "Completed", "exitCode": 0}}},
            {"ready": true, "state": {"running": {}}}]),
    );
    pod["spec"]["containers"] = json!([{}, {}]);
    check(&pod, "NotReady", "1/2", 0);
    pod["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
    check(&pod, "Running", "1/2", 0);
}

#[test]
fn init_containers_are_counted() {
    let of = |statuses: Value| {
        json!({"spec": {"containers": [{}], "initContainers": [{"name": "i"}, {"name": "j"}]},
            "status": {"phase": "Pending", "initContainerStatuses": statuses}})
    };
    let done = json!({"name": "i", "state": {"terminated": {"exitCode": 0}}});
    check(&of(json!([{"name": "i", "state": {"running": {}}}])), "Init:0/2", "0/1", 0);
    check(&of(json!([done, {"name": "j", "state": {"waiting": {"reason": "PodInitializing"}}}])), "Init:1/2", "0/1", 0);
    let failing = json!({"name": "j", "restartCount": 4, "state": {"waiting": {"reason": "CrashLoopBackOff"}}});
    check(&of(json!([done, failing])), "Init:CrashLoopBackOff", "0/1", 4);
    check(&of(json!([{"name": "i", "state": {"terminated": {"exitCode": 2}}}])), "Init:ExitCode:2", "0/1", 0);
}

#[test]
fn a_sidecar_counts_as_a_container() {
    let pod = json!({"spec": {"containers": [{}], "initContainers": [{"name": "s", "restartPolicy": "Always"}]},
        "status": {"phase": "Running",
            "initContainerStatuses": [{"name": "s", "started": true, "ready": true, "restartCount": 1,
                "state": {"running": {}}}],
            "containerStatuses": [{"ready": true, "state": {"running": {}}}]}});
    check(&pod, "Running", "2/2", 1);
}

#[test]
fn a_deleted_pod_terminates_unless_it_is_over_or_lost() {
    let mut pod = pod("Running", json!([{"ready": true, "state": {"running": {}}}]));
    pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    check(&pod, "Terminating", "1/1", 0);
    pod["status"]["reason"] = "NodeLost".into();
    check(&pod, "Unknown", "1/1", 0);
}

#[test]
fn the_class_of_service_follows_requests_and_limits() {
    let qos = |resources: Value| qos_class(&View(&json!({"spec": {"containers": [{"resources": resources}]}})));
    assert_eq!(qos(json!({})), "BestEffort");
    assert_eq!(qos(json!({"requests": {"cpu": "1"}})), "Burstable");
    assert_eq!(qos(json!({"limits": {"cpu": "1", "memory": "1Gi"}})), "Guaranteed");
    assert_eq!(qos(json!({"limits": {"cpu": "1"}})), "Burstable");
}

#[test]
fn a_report_on_a_living_pod_is_volatile() {
    let judge = |phase: &str, status, by_node| {
        let new = pod(phase, json!([]));
        class(&Write { old: None, new: &new, status, by_node })
    };
    assert_eq!(judge("Running", true, true), Class::Volatile);
    assert_eq!(judge("Succeeded", true, true), Class::Durable);
    assert_eq!(judge("Running", true, false), Class::Durable);
    assert_eq!(judge("Running", false, true), Class::Durable);
}
