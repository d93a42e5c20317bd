//! What a pod looks like at given times, spec by spec.

use coracle_shared::report::Phase;

use super::*;

/// Runs one pod and compares what is shown at each time (milliseconds).
fn check(spec: Value, want: &[(u64, &str)]) -> World {
    let mut world = World::new();
    world.want("web", spec);
    for (at, shown_then) in want {
        world.run(*at);
        assert_eq!(shown(world.report("web")), *shown_then, "at {at}: {:?}", world.log);
    }
    world
}

#[test]
fn a_pod_runs() {
    let world = check(one("web"), &[(0, "Pending Waiting/ContainerCreating"), (15, "Running Running")]);
    assert!(world.report("web").ready);
    assert_eq!(world.reasons(), ["Pulled", "Created", "Started"]);
    // Steady: nothing to do and nothing to wait for.
    assert_eq!(world.fleet.wake(), None);
}

#[test]
fn policies() {
    let with =
        |policy: &str, image: &str| json!({"restartPolicy": policy, "containers": [{"name": "web", "image": image}]});
    check(with("Never", "end:100:0"), &[(50, "Running Running"), (200, "Succeeded Completed/0")]);
    check(with("Never", "end:100:3"), &[(200, "Failed Error/3")]);
    check(with("OnFailure", "end:100:0"), &[(200, "Succeeded Completed/0")]);
    let world = check(with("OnFailure", "end:100:3"), &[(200, "Running Running")]);
    assert_eq!(world.report("web").containers[0].restart_count, 1);
    check(with("Never", "noprogram"), &[(200, "Failed StartError/128")]);
}

#[test]
fn restarts_back_off_and_recover() {
    // The first restart is at once, then 10 s, 20 s, … 5 min.
    let mut world = World::new();
    world.want("web", one("end:1000:1")).run(3_000_000);
    assert_eq!(shown(world.report("web")), "Running Waiting/CrashLoopBackOff");
    let starts = world.starts("web");
    assert!((14..=16).contains(&starts), "{starts} starts in 50 minutes");
    assert!(world.reasons().contains(&"BackOff"));
    // A container that ran ten minutes restarts at once again.
    let mut world = World::new();
    world.want("web", one("end:700000:1")).run(700_100);
    assert_eq!(shown(world.report("web")), "Running Running");
    world.run(1_400_200);
    assert_eq!(shown(world.report("web")), "Running Running");
    assert_eq!(world.starts("web"), 3);
}

#[test]
fn pulls_back_off() {
    let world = check(
        one("missing"),
        &[
            (8, "Pending Waiting/ErrImagePull"),
            (3_000, "Pending Waiting/ImagePullBackOff"),
            (10_015, "Pending Waiting/ErrImagePull"),
            (13_000, "Pending Waiting/ImagePullBackOff"),
        ],
    );
    assert_eq!(&world.reasons()[..3], ["Failed", "Failed", "BackOff"]);
}

#[test]
fn init_containers_run_in_order() {
    let spec = json!({"initContainers": [{"name": "a", "image": "end:100:0"}, {"name": "b", "image": "end:100:0"}],
        "containers": [{"name": "web", "image": "web"}]});
    let world = check(
        spec,
        &[
            (50, "Pending Running Waiting/PodInitializing Waiting/PodInitializing"),
            (150, "Pending Completed/0 Running Waiting/PodInitializing"),
            (300, "Running Completed/0 Completed/0 Running"),
        ],
    );
    assert!(world.report("web").initialized);
    let spec = json!({"restartPolicy": "Never", "initContainers": [{"name": "a", "image": "end:100:1"}],
        "containers": [{"name": "web", "image": "web"}]});
    let world = check(spec, &[(300, "Failed Error/1 Waiting/PodInitializing")]);
    assert_eq!(world.starts("web"), 1);
}

#[test]
fn a_sidecar_starts_first_and_ends_last() {
    let spec = json!({"restartPolicy": "Never",
        "initContainers": [{"name": "log", "image": "web", "restartPolicy": "Always"}],
        "containers": [{"name": "web", "image": "end:100:0"}]});
    check(spec, &[(50, "Running Running Running"), (300, "Succeeded Error/143 Completed/0")]);
}

#[test]
fn stops_gently_then_hard() {
    let mut world = World::new();
    world.want("web", one("web")).run(100).stop("web", 30).run(200);
    assert!(world.report("web").gone);
    assert!(world.sandboxes.is_empty());

    let mut world = World::new();
    world.want("web", one("deaf")).run(100).stop("web", 5).run(5_000);
    assert!(!world.report("web").gone && !world.report("web").ready);
    world.run(5_200);
    assert!(world.report("web").gone);
    assert_eq!(world.report("web").phase, Phase::Failed);
    // A gone pod is forgotten when the server has removed it.
    world.unwant("web");
    assert!(world.fleet.owners().next().is_none());
}

#[test]
fn what_the_ledger_let_go_is_stopped_whatever_else_is_missing() {
    let mut world = World::new();
    world.want("web", one("web")).run(100);
    world.set.complete = false;
    world.desire().run(200);
    assert_eq!(world.sandboxes.len(), 1);
    world.unwant("web").run(100_000);
    assert!(world.sandboxes.is_empty() && world.fleet.owners().next().is_none());
}

#[test]
fn nothing_starts_over_a_failed_stop() {
    let mut world = World::new();
    world.want("web.1", one("web")).run(100);
    world.broken_teardown = true;
    world.unwant("web.1").want("web.2", one("web")).run(60_000);
    assert_eq!(world.starts("web.2"), 0, "{:?}", world.log);
    assert!(world.reasons().contains(&"FailedKillPod"));
    world.broken_teardown = false;
    world.run(200_000);
    assert_eq!(shown(world.report("web.2")), "Running Running");
}

#[test]
fn a_restart_of_the_agent_touches_nothing() {
    let mut world = World::new();
    world.want("web", one("web")).want("old", one("deaf")).run(100);
    let before = world.log.len();
    world.reports.clear();
    world.crash();
    assert_eq!(shown(world.report("web")), "Running Running", "reported at once");
    world.run(10_000);
    let after: Vec<_> = world.log[before..].iter().filter(|l| !l.contains("RefreshVolumes")).collect();
    assert_eq!(after, ["crash"]);
}

#[test]
fn sandboxes_that_nobody_wants_are_stopped() {
    let mut world = World::new();
    world.want("web", one("web")).run(100);
    world.set = DesiredSet::default();
    world.crash().run(100_000);
    assert_eq!(world.sandboxes.len(), 1, "an incomplete set removes nothing");
    world.set.complete = true;
    world.desire().run(200_000);
    assert!(world.sandboxes.is_empty());
}

#[test]
fn a_sandbox_that_dies_before_it_is_said_to_be_up_is_made_anew() {
    let mut world = World::new();
    world.want("web", one("serve"));
    let now = world.now();
    world.fleet.sandbox_died(&PodUid("web".into()), now);
    world.run(60_000);
    let made = world.log.iter().filter(|line| line.ends_with("CreateSandbox")).count();
    assert_eq!((made, shown(world.report("web"))), (2, "Running Running".to_owned()));
}

#[test]
fn the_end_is_told_once_the_ledger_has_it() {
    let mut world = World::new();
    world.want("job", json!({"restartPolicy": "Never", "containers": [{"name": "web", "image": "end:100:0"}]}));
    let uid = PodUid("job".into());
    while world.ended.is_empty() {
        let told = world.reports.get(&uid).map(|report| report.phase);
        assert!(!matches!(told, Some(Phase::Succeeded | Phase::Failed)), "told before it was recorded");
        let next = world.now + 1;
        assert!(next < 1000, "it ends");
        world.run(next);
    }
    assert_eq!(world.report("job").phase, Phase::Succeeded);
}

#[test]
fn an_ended_pod_does_not_run_again() {
    let mut world = World::new();
    world.want("job", json!({"restartPolicy": "Never", "containers": [{"name": "web", "image": "end:100:0"}]}));
    world.run(1_000);
    assert!(world.sandboxes.is_empty(), "its sandbox is put away");
    world.reports.clear();
    world.crash().run(10_000);
    assert_eq!(shown(world.report("job")), "Succeeded Completed/0");
    assert_eq!(world.starts("job"), 1);
    world.stop("job", 30).run(20_000);
    assert!(world.report("job").gone);
}

#[test]
fn a_lost_sandbox_is_made_anew() {
    let spec = json!({"initContainers": [{"name": "a", "image": "end:100:0"}], "containers": [{"name": "web", "image": "web"}]});
    let mut world = World::new();
    world.want("web", spec).run(1_000).kill_sandbox("web").run(2_000);
    assert_eq!(shown(world.report("web")), "Running Completed/0 Running");
    assert_eq!(world.report("web").containers[0].restart_count, 1);
    assert!(world.reasons().contains(&"SandboxChanged"));
}

#[test]
fn a_missing_config_map_is_waited_for() {
    let spec = json!({"containers": [{"name": "web", "image": "web"}], "volumes": [{"name": "v", "configMap": {"name": "c"}}]});
    let mut world = World::new();
    world.want("web", spec).run(1_000);
    assert_eq!(shown(world.report("web")), "Pending Waiting/ContainerCreating");
    assert!(world.reasons().contains(&"FailedMount"));
    world.data.push("c".into());
    let changed = world.set.pods.values().flat_map(|d| d.view.as_ref().expect("a view").data_refs()).collect();
    let now = world.now();
    world.fleet.data_changed("elsewhere", &changed, now);
    world.collect();
    world.run(1_100);
    assert_eq!(shown(world.report("web")), "Pending Waiting/ContainerCreating");
    world.fleet.data_changed("default", &changed, now);
    world.collect();
    world.run(1_200);
    assert_eq!(shown(world.report("web")), "Running Running");
}

#[test]
fn only_an_image_restarts_a_container() {
    let mut world = World::new();
    world.want("web", one("web")).run(100);
    let relabelled = json!({"activeDeadlineSeconds": 600, "containers": [{"name": "web", "image": "web", "env": [{"name": "A", "value": "b"}]}]});
    world.want("web", relabelled).run(1_000);
    assert_eq!(world.starts("web"), 1);
    world.want("web", one("web2")).run(2_000);
    assert_eq!(world.starts("web"), 2);
    assert_eq!(world.report("web").containers[0].image_id, "web2@sha256:0");
    assert_eq!(world.report("web").containers[0].restart_count, 1);
}

#[test]
fn probes_decide() {
    let spec = json!({"containers": [{"name": "web", "image": "web", "readinessProbe": probe()}]});
    let mut world = World::new();
    world.healthy = false;
    world.want("web", spec).run(20_000);
    assert!(!world.report("web").ready);
    world.healthy = true;
    world.run(30_000);
    assert!(world.report("web").ready);
    assert_eq!(world.starts("web"), 1);

    let spec = json!({"containers": [{"name": "web", "image": "web", "livenessProbe": probe()}]});
    let mut world = World::new();
    world.want("web", spec).run(20_000);
    assert_eq!(world.starts("web"), 1);
    world.healthy = false;
    world.run(30_000);
    assert_eq!(world.starts("web"), 2, "{:?}", world.log);
    assert!(world.reasons().contains(&"Unhealthy"));

    let spec =
        json!({"containers": [{"name": "web", "image": "web", "startupProbe": probe(), "livenessProbe": probe()}]});
    let mut world = World::new();
    world.want("web", spec).run(6_000);
    assert!(world.report("web").containers[0].started);
    assert!(!world.log.iter().rev().take(2).any(|l| l.contains("Startup")), "asked no more: {:?}", world.log);
}

#[test]
fn a_deadline_ends_a_pod() {
    let spec = json!({"activeDeadlineSeconds": 10, "containers": [{"name": "web", "image": "web"}]});
    let world = check(spec, &[(9_000, "Running Running"), (11_000, "Failed Error/143")]);
    assert_eq!(world.report("web").reason, "DeadlineExceeded");
}

#[test]
fn an_unreadable_pod_fails_alone() {
    let mut world = World::new();
    world.want("bad", json!({"containers": []})).want("web", one("web")).run(1_000);
    assert_eq!(world.report("bad").phase, Phase::Failed);
    assert_eq!(world.report("bad").reason, "InvalidPodSpec");
    assert_eq!(shown(world.report("web")), "Running Running");
    world.stop("bad", 0).run(2_000);
    assert!(world.report("bad").gone);
}

/// A world whose agent found `web` in quarantine.
fn quarantined() -> World {
    let mut world = World::new();
    world.want("web", one("web"));
    let quarantined = Desired { quarantined: true, ..(*world.set.pods[&PodUid("web".into())]).clone() };
    let mut world = World::new();
    world.set.pods.insert(PodUid("web".into()), Arc::new(quarantined));
    world.desire();
    world
}

#[test]
fn a_change_or_a_removal_lets_a_pod_out_of_quarantine() {
    let mut world = quarantined();
    world.run(1_000);
    world.desire().run(2_000);
    assert_eq!(shown(world.report("web")), "Pending Waiting/Quarantined", "told again it is not changed");
    let mut changed = one("web");
    changed["containers"][0]["image"] = "image:2".into();
    world.want("web", changed).run(3_000);
    assert_eq!(shown(world.report("web")), "Running Running");
    let mut world = quarantined();
    world.run(1_000);
    world.stop("web", 0).run(2_000);
    assert!(world.report("web").gone);
}

#[test]
fn a_quarantined_pod_is_left_alone_for_a_while() {
    let mut world = quarantined();
    world.run(599_000);
    assert_eq!(shown(world.report("web")), "Pending Waiting/Quarantined");
    assert_eq!(world.report("web").reason, "Quarantined");
    assert!(world.log.is_empty());
    world.run(601_000);
    assert_eq!(shown(world.report("web")), "Running Running");
}
