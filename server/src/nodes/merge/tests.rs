use coracle_shared::ids::PodUid;
use coracle_shared::report::{
    Condition, ContainerReport, ContainerState, EventReport, Exit, NodeReport, Phase, PodReport, Resources,
};
use coracle_store::Class;

use serde_json::{Value, json};

use super::{PodOutcome, create_node, event, event_name, node, pod};

const NOW: i64 = 1_800_000_000_000;

fn stored() -> Value {
    json!({
        "metadata": {"name": "web", "namespace": "d", "uid": "u1"},
        "spec": {"nodeName": "n1", "containers": [{"name": "c"}]},
        "status": {
            "phase": "Pending", "qosClass": "BestEffort",
            "conditions": [{"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": "2020-01-01T00:00:00Z"}],
        },
    })
}

fn container(state: ContainerState, ready: bool) -> ContainerReport {
    ContainerReport {
        name: "c".into(),
        image: "i".into(),
        image_id: "i@sha256:0".into(),
        container_id: "coracle://1".into(),
        state,
        last: None,
        ready,
        started: ready,
        restart_count: 0,
    }
}

fn running() -> PodReport {
    PodReport {
        uid: PodUid("u1".into()),
        namespace: "d".into(),
        name: "web".into(),
        phase: Phase::Running,
        reason: String::new(),
        message: String::new(),
        host_ip: Some("192.0.2.1".parse().unwrap()),
        pod_ip: Some("10.42.0.2".parse().unwrap()),
        started_at: Some(NOW),
        initialized: true,
        ready: true,
        init_containers: vec![],
        containers: vec![container(ContainerState::Running { started_at: NOW }, true)],
        gone: false,
    }
}

fn ended() -> PodReport {
    let exit = Exit {
        code: 1,
        signal: None,
        reason: "Error".into(),
        message: String::new(),
        started_at: NOW,
        finished_at: NOW,
        container_id: "coracle://1".into(),
    };
    let containers = vec![container(ContainerState::Terminated(exit), false)];
    PodReport { phase: Phase::Failed, ready: false, containers, ..running() }
}

fn updated(stored: &Value, report: &PodReport) -> (Value, Class) {
    match pod(stored, report, "n1", NOW + 5000) {
        PodOutcome::Update { object, class } => (object, class),
        other => panic!("{other:?}"),
    }
}

fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    object["status"]["conditions"].as_array().unwrap().iter().find(|c| c["type"] == kind).unwrap()
}

#[test]
fn a_report_becomes_a_status_and_the_same_again_nothing() {
    let (object, class) = updated(&stored(), &running());
    assert_eq!(class, Class::Volatile);
    let status = &object["status"];
    assert_eq!(status["phase"], "Running");
    assert_eq!(status["podIPs"], json!([{"ip": "10.42.0.2"}]));
    assert_eq!(status["hostIP"], "192.0.2.1");
    assert_eq!(status["qosClass"], "BestEffort", "not this room's");
    assert_eq!(status["containerStatuses"][0]["state"]["running"]["startedAt"], "2027-01-15T08:00:00Z");
    assert_eq!(condition(&object, "PodScheduled")["lastTransitionTime"], "2020-01-01T00:00:00Z", "it did not change");
    for kind in ["Initialized", "ContainersReady", "Ready"] {
        assert_eq!(condition(&object, kind)["status"], "True", "{kind}");
    }
    assert_eq!(pod(&object, &running(), "n1", NOW + 99_000), PodOutcome::Nothing);
}

#[test]
fn an_unready_container_is_named() {
    let mut report = running();
    report.ready = false;
    report.containers[0].ready = false;
    let (object, _) = updated(&stored(), &report);
    let ready = condition(&object, "Ready");
    assert_eq!((&ready["status"], &ready["reason"]), (&json!("False"), &json!("ContainersNotReady")));
    assert_eq!(ready["message"], "containers with unready status: [c]");
    // Ready again: the reason goes, the time moves.
    let (object, _) = updated(&object, &running());
    assert!(condition(&object, "Ready")["reason"].is_null());
}

#[test]
fn an_end_is_durable_and_final() {
    let (object, class) = updated(&stored(), &ended());
    assert_eq!(class, Class::Durable);
    assert_eq!(object["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], 1);
    assert_eq!(pod(&object, &running(), "n1", NOW), PodOutcome::Nothing, "it does not come back to life");
}

#[test]
fn only_the_pods_own_node_may_report_it() {
    assert_eq!(pod(&stored(), &running(), "n2", NOW), PodOutcome::Nothing);
    let other = PodReport { uid: PodUid("u2".into()), ..running() };
    assert_eq!(pod(&stored(), &other, "n1", NOW), PodOutcome::Nothing);
    assert_eq!(pod(&Value::Null, &running(), "n1", NOW), PodOutcome::Nothing);
}

#[test]
fn a_deleting_pod_goes_when_nothing_is_left_of_it() {
    let gone = PodReport { gone: true, ..ended() };
    let mut deleting = stored();
    deleting["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    assert!(matches!(pod(&deleting, &gone, "n1", NOW), PodOutcome::Remove { .. }));
    assert!(!matches!(pod(&stored(), &gone, "n1", NOW), PodOutcome::Remove { .. }), "nobody deleted it");
    assert!(!matches!(pod(&deleting, &ended(), "n1", NOW), PodOutcome::Remove { .. }), "something is left");
    deleting["metadata"]["finalizers"] = json!(["example.com/hold"]);
    let (held, class) = updated(&deleting, &gone);
    assert_eq!((&held["metadata"]["deletionGracePeriodSeconds"], class), (&json!(0), Class::Durable));
    assert_eq!(pod(&held, &gone, "n1", NOW), PodOutcome::Nothing);
}

fn node_report() -> NodeReport {
    NodeReport {
        addresses: vec!["192.0.2.1".parse().unwrap()],
        hostname: "host".into(),
        capacity: Resources { cpu_millis: 1500, memory_bytes: 1 << 30, storage_bytes: 1 << 20, pods: 110 },
        allocatable: Resources::default(),
        architecture: "arm64".into(),
        os_image: "os".into(),
        kernel: "6.1".into(),
        machine_id: "m".into(),
        boot_id: "b".into(),
        agent_version: "0.1.0".into(),
        conditions: vec![Condition {
            kind: "DiskPressure".into(),
            status: false,
            reason: "Enough".into(),
            message: String::new(),
        }],
        labels: [("zone", "a"), ("node-role.kubernetes.io/control-plane", "")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into(),
    }
}

#[test]
fn a_node_is_ready_by_its_connection_its_loop_and_its_network() {
    let check = |answering, cidr, status, reason| {
        let new = create_node("n1", "u", "arm64", NOW);
        let node = node(&new, Some(&node_report()), answering, cidr, NOW);
        let ready = condition(&node, "Ready");
        assert_eq!((&ready["status"], &ready["reason"]), (&json!(status), &json!(reason)));
    };
    check(true, Some("10.42.0.0/24"), "True", "AgentReady");
    check(true, None, "False", "NoPodNetwork");
    check(false, Some("10.42.0.0/24"), "False", "AgentStuck");
}

#[test]
fn a_node_that_says_the_same_again_changes_nothing() {
    let new = create_node("n1", "u", "arm64", NOW);
    let first = node(&new, Some(&node_report()), true, Some("10.42.0.0/24"), NOW);
    assert_eq!(node(&first, Some(&node_report()), true, None, NOW + 60_000), first);
    assert_eq!(node(&first, None, true, None, NOW + 60_000), first);
    assert_eq!(
        first["status"]["capacity"],
        json!({"cpu": "1500m", "memory": "1048576Ki", "ephemeral-storage": "1024Ki", "pods": "110"})
    );
    let labels = &first["metadata"]["labels"];
    assert_eq!((&labels["zone"], &labels["kubernetes.io/arch"]), (&json!("a"), &json!("arm64")));
    assert!(labels["node-role.kubernetes.io/control-plane"].is_null(), "not the agent's to claim");
    // What a person set stays.
    let mut labelled = first.clone();
    labelled["metadata"]["labels"]["zone"] = "b".into();
    assert_eq!(node(&labelled, Some(&node_report()), true, None, NOW), labelled);
}

#[test]
fn the_same_event_again_is_counted() {
    let report = EventReport {
        pod: Some(("d".into(), "web".into(), PodUid("u1".into()))),
        field_path: "spec.containers{c}".into(),
        warning: true,
        reason: "BackOff".into(),
        message: "again".into(),
        at: NOW,
    };
    let first = event(None, &report, "n1", "nu", "e1");
    assert_eq!((&first["type"], &first["count"]), (&json!("Warning"), &json!(1)));
    assert_eq!(first["involvedObject"]["fieldPath"], "spec.containers{c}");
    let later = EventReport { at: NOW + 9000, ..report.clone() };
    assert_eq!(event_name(&later, "n1", "nu"), event_name(&report, "n1", "nu"));
    let second = event(Some(&first), &later, "n1", "nu", "e2");
    assert_eq!((&second["count"], &second["metadata"]), (&json!(2), &first["metadata"]));
    assert_ne!(second["lastTimestamp"], first["lastTimestamp"]);
    let other = EventReport { message: "other".into(), ..report };
    assert_ne!(event_name(&other, "n1", "nu"), event_name(&later, "n1", "nu"));
}
