//! Things that are killed. One after the other: they share the cluster's programs.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::{fs, thread};

use coracle_tests::{Cluster, get, run_words, until};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> std::sync::MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The processes of all pods of the cluster, with their start times.
fn pod_processes(cluster: &Cluster) -> BTreeSet<(u32, String)> {
    let mut found = BTreeSet::new();
    for node in cluster.info["nodes"].as_array().into_iter().flatten() {
        let group = format!("{}/pods", node["cgroup"].as_str().unwrap_or_default());
        for entry in fs::read_dir("/proc").expect("/proc").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
            let Ok(groups) = fs::read_to_string(entry.path().join("cgroup")) else { continue };
            let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
            if groups.contains(&group) {
                let start = stat.rsplit(") ").next().and_then(|s| s.split(' ').nth(19)).unwrap_or_default().to_owned();
                found.insert((pid, start));
            }
        }
    }
    found
}

#[test]
fn pods_outlive_their_agent_and_go_on_serving() {
    let _alone = alone();
    let cluster = Cluster::get();
    cluster.until_no_namespace_ends();
    let before = pod_processes(&cluster);
    assert!(before.len() >= 6, "three pods with their pause: {before:?}");
    cluster.kill("agent-1");
    let (code, _) = get(cluster.node_port(0, 30080), "/").expect("services go on without the agent");
    assert_eq!(code, 200);
    cluster.up(&["--start", "agent-1"]).good();
    until("the node is ready again", || cluster.up(&["--status"]).ok);
    let after = pod_processes(&cluster);
    assert_eq!(before, after, "every process is the one it was");
    let pods = cluster.objects("pods", "default");
    assert!(pods.iter().all(|p| p["status"]["containerStatuses"][0]["restartCount"] == 0), "nothing was restarted");
}

#[test]
fn acknowledged_writes_survive_the_server() {
    let _alone = alone();
    let cluster = Cluster::get();
    cluster.until_no_namespace_ends();
    let before = pod_processes(&cluster);
    let namespace = cluster.namespace("survivors");
    let stop = Arc::new(AtomicBool::new(false));
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (stop, acknowledged, name) = (stop.clone(), acknowledged.clone(), namespace.name.clone());
            thread::spawn(move || {
                let cluster = Cluster::get();
                for i in 0..1000 {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let object = format!("w{writer}-{i}");
                    if cluster.kubectl("1.32", &["create", "configmap", &object, "-n", &name]).ok {
                        acknowledged.lock().expect("no writer panicked").push(object);
                    }
                }
            })
        })
        .collect();
    until("some writes were acknowledged", || acknowledged.lock().expect("no writer panicked").len() > 20);
    let revision = |cluster: &Cluster| -> u64 {
        let list: serde_json::Value =
            serde_json::from_str(&cluster.coracle(&["get", "namespaces", "-o", "json"]).good()).expect("JSON");
        list["metadata"]["resourceVersion"].as_str().and_then(|r| r.parse().ok()).expect("a revision")
    };
    let earlier = revision(&cluster);
    cluster.kill("server");
    stop.store(true, Ordering::Relaxed);
    writers.into_iter().for_each(|w| w.join().expect("a writer"));
    cluster.up(&["--start", "server"]).good();
    until("everything serves again", || cluster.up(&["--status"]).ok);
    assert!(revision(&cluster) > earlier, "revisions go on upward");
    let present: BTreeSet<String> = cluster
        .objects("configmaps", &namespace.name)
        .iter()
        .filter_map(|o| o["metadata"]["name"].as_str().map(str::to_owned))
        .collect();
    for object in acknowledged.lock().expect("no writer panicked").iter() {
        assert!(present.contains(object), "{object} was acknowledged and is gone");
    }
    assert_eq!(before, pod_processes(&cluster), "no pod was touched");
}

#[test]
fn a_killed_container_is_started_again() {
    let _alone = alone();
    let cluster = Cluster::get();
    let namespace = cluster.namespace("healing");
    let n = namespace.name.as_str();
    cluster.apply(n, "apiVersion: v1\nkind: Pod\nmetadata: {name: heal}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers: [{name: c, image: \"@IMAGE@\", command: [sleep, '12345']}]\n");
    cluster.phase(n, "heal", "Running");
    let found = run_words(&["pgrep", "-f", "^sleep 12345$"]).good();
    run_words(&["kill", "-KILL", found.trim()]).good();
    let pod = cluster.pod_until(n, "heal", "a restart", |p| {
        p["status"]["containerStatuses"][0]["restartCount"] == 1
            && !p["status"]["containerStatuses"][0]["state"]["running"].is_null()
    });
    assert_eq!(pod["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 137);
}

#[test]
fn a_rolling_update_drops_no_request() {
    let _alone = alone();
    let cluster = Cluster::get();
    let stop = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = (0..2)
        .map(|node| {
            let stop = stop.clone();
            thread::spawn(move || {
                let cluster = Cluster::get();
                let (mut asked, mut failed) = (0, Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    asked += 1;
                    match get(cluster.node_port(node, 30080), "/") {
                        Ok((200, _)) => {}
                        other => failed.push(format!("{other:?}")),
                    }
                }
                (asked, failed)
            })
        })
        .collect();
    for round in 0..2 {
        let change = format!(r#"{{"spec":{{"template":{{"metadata":{{"annotations":{{"round":"{round}"}}}}}}}}}}"#);
        cluster.kubectl("1.32", &["patch", "deployment", "web", "-p", &change]).good();
        cluster.kubectl("1.32", &["rollout", "status", "deployment/web", "--timeout=180s"]).good();
    }
    stop.store(true, Ordering::Relaxed);
    for thread in load {
        let (asked, failed) = thread.join().expect("the load");
        assert!(asked > 50, "only {asked} requests");
        assert_eq!(failed, [""; 0], "{} of {asked} failed", failed.len());
    }
    let undone = cluster.kubectl("1.32", &["rollout", "undo", "deployment/web"]).good();
    assert!(undone.contains("rolled back"), "{undone}");
    cluster.kubectl("1.32", &["rollout", "status", "deployment/web", "--timeout=180s"]).good();
}
