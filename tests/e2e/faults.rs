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

/// Whether a program of the cluster runs: one that ended while it was started has no pid file.
fn runs(cluster: &Cluster, name: &str) -> bool {
    let pid = fs::read_to_string(cluster.dir.join(format!("run/{name}.pid"))).unwrap_or_default();
    let exe = fs::read_link(format!("/proc/{}/exe", pid.trim()));
    exe.is_ok_and(|exe| exe.starts_with(cluster.dir.join("bin")))
}

/// How often a program said something.
fn said(cluster: &Cluster, name: &str, words: &str) -> usize {
    let log = fs::read(cluster.dir.join(format!("log/{name}.log"))).expect("a log");
    String::from_utf8_lossy(&log).lines().filter(|line| line.contains(words)).count()
}

fn pod_on(node: &str, name: &str, fault: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, annotations: {{coracle.dev/fault: {fault}}}}}\nspec:\n  \
         nodeName: {node}\n  terminationGracePeriodSeconds: 0\n  containers: [{{name: c, image: \"@IMAGE@\", command: [sleep, '54321']}}]\n"
    )
}

fn condition<'a>(object: &'a serde_json::Value, kind: &str) -> Option<&'a serde_json::Value> {
    object["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == kind)
}

#[test]
fn a_pod_that_kills_the_agent_is_quarantined_and_the_node_goes_on() {
    let _alone = alone();
    let cluster = Cluster::get();
    cluster.until_no_namespace_ends();
    let namespace = cluster.namespace("poison");
    let n = namespace.name.as_str();
    let before = pod_processes(&cluster);
    cluster.apply(n, &pod_on("agent-1", "poison", "start-crash"));
    for _ in 0..2 {
        until("the pod has killed the agent", || !runs(&cluster, "agent-1"));
        // It may die again before the script has looked at it.
        cluster.up(&["--start", "agent-1"]);
    }
    let quarantined = cluster.pod_until(n, "poison", "quarantine", |p| p["status"]["reason"] == "Quarantined");
    assert_eq!(quarantined["status"]["containerStatuses"][0]["state"]["waiting"]["reason"], "Quarantined");
    cluster.apply(n, &pod_on("agent-1", "good", "none"));
    cluster.phase(n, "good", "Running");
    let events = cluster.objects("events", n);
    assert!(events.iter().any(|e| e["reason"] == "Quarantined" && e["involvedObject"]["name"] == "poison"));
    until("the node names it", || {
        let node = cluster.object("node", "", "agent-1").unwrap_or_default();
        condition(&node, "PodsQuarantined").is_some_and(|c| c["message"].to_string().contains("poison/poison"))
    });
    assert!(runs(&cluster, "agent-1"));
    let after = pod_processes(&cluster);
    assert!(before.is_subset(&after), "no other pod was touched");
    // A person's change lets it out.
    cluster.kubectl("1.32", &["annotate", "pod", "poison", "-n", n, "coracle.dev/fault-"]).good();
    cluster.phase(n, "poison", "Running");
}

#[test]
fn a_node_whose_loop_hangs_says_so_while_its_connection_lives() {
    let _alone = alone();
    let cluster = Cluster::get();
    let namespace = cluster.namespace("hanging");
    let n = namespace.name.as_str();
    let hangs = || said(&cluster, "agent-2", "reconcile-hang strikes");
    let before = hangs();
    cluster.apply(n, &pod_on("agent-2", "hang", "reconcile-hang"));
    until("the node says that it is stuck", || {
        let node = cluster.object("node", "", "agent-2").unwrap_or_default();
        condition(&node, "Ready").is_some_and(|c| c["status"] == "False" && c["reason"] == "AgentStuck")
    });
    assert_eq!(hangs(), before + 1);
    let there = |p: &&serde_json::Value| p["spec"]["nodeName"] == "agent-2";
    let web = cluster.objects("pods", "default");
    let name = web.iter().find(there).and_then(|p| p["metadata"]["name"].as_str()).expect("a pod on the node");
    // Its logs come over the connection.
    cluster.coracle(&["logs", name]).good();
    // Whoever restarts such an agent twice is rid of it.
    cluster.kill("agent-2");
    cluster.up(&["--start", "agent-2"]).good();
    until("it hangs again", || hangs() == before + 2);
    cluster.kill("agent-2");
    cluster.up(&["--start", "agent-2"]).good();
    cluster.pod_until(n, "hang", "quarantine", |p| p["status"]["reason"] == "Quarantined");
    until("everything serves again", || cluster.up(&["--status"]).ok);
}

/// Starts a program with a fault point armed; without it again when dropped.
struct Armed<'a> {
    cluster: &'a Cluster,
    name: &'a str,
    plain: String,
}

impl<'a> Armed<'a> {
    fn new(cluster: &'a Cluster, name: &'a str, fault: &str) -> Self {
        let file = cluster.dir.join(format!("run/{name}.cmd"));
        let plain = fs::read_to_string(&file).expect("its command");
        fs::write(&file, format!("{plain}--fault\n{fault}\n")).expect("its command");
        let armed = Armed { cluster, name, plain };
        cluster.up(&["--stop", name]).good();
        cluster.up(&["--start", name]);
        armed
    }

    fn disarm(self) {
        drop(self);
    }
}

impl Drop for Armed<'_> {
    fn drop(&mut self) {
        fs::write(self.cluster.dir.join(format!("run/{}.cmd", self.name)), &self.plain).expect("its command");
        self.cluster.up(&["--stop", self.name]);
        let started = self.cluster.up(&["--start", self.name]);
        assert!(started.ok || thread::panicking(), "{}", started.err);
    }
}

#[test]
fn a_server_that_dies_before_it_answers_and_a_failed_sync_lose_nothing() {
    let _alone = alone();
    let cluster = Cluster::get();
    let namespace = cluster.namespace("unanswered");
    let n = namespace.name.as_str();
    let mut acknowledged = Vec::new();
    for fault in ["append-crash:30", "store-sync:40"] {
        let armed = Armed::new(&cluster, "server", fault);
        let before = said(&cluster, "server", "strikes");
        for i in 0..60 {
            let object = format!("{}-{i}", &fault[..6]);
            let made = cluster.coracle(&["get", "--raw", "/readyz"]).ok
                && cluster.kubectl("1.32", &["create", "configmap", &object, "-n", n]).ok;
            if made {
                acknowledged.push(object);
            }
            if said(&cluster, "server", "strikes") > before || !runs(&cluster, "server") {
                break;
            }
        }
        armed.disarm();
        until("everything serves again", || cluster.up(&["--status"]).ok);
    }
    let present: BTreeSet<String> = cluster
        .objects("configmaps", n)
        .iter()
        .filter_map(|o| o["metadata"]["name"].as_str().map(str::to_owned))
        .collect();
    assert!(!acknowledged.is_empty());
    for object in acknowledged {
        assert!(present.contains(&object), "{object} was acknowledged and is gone");
    }
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
fn logs_have_no_gap_when_the_agent_dies() {
    let _alone = alone();
    let cluster = Cluster::get();
    let namespace = cluster.namespace("talking");
    let n = namespace.name.as_str();
    let count = "i=0; while true; do echo $i; i=$((i+1)); usleep 5000; done";
    cluster.apply(n, &format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: talk}}\nspec:\n  nodeName: agent-1\n  terminationGracePeriodSeconds: 0\n  containers: [{{name: c, image: \"@IMAGE@\", command: [/bin/busybox, sh, -c, '{}']}}]\n", count.replace("usleep", "/bin/busybox usleep")));
    cluster.phase(n, "talk", "Running");
    let lines = || -> Vec<u64> {
        let said = cluster.coracle(&["logs", "talk", "-n", n]);
        said.out.lines().map(|l| l.parse().expect("a whole line")).collect()
    };
    until("it talks", || lines().len() > 50);
    cluster.kill("agent-1");
    cluster.up(&["--start", "agent-1"]).good();
    let before = lines().len();
    until("it talks on", || lines().len() > before + 50);
    let lines = lines();
    assert!(lines.windows(2).all(|w| w[1] == w[0] + 1), "a gap in {lines:?}");
    assert_eq!(lines[0], 0);
}

#[test]
fn a_pod_whose_pause_is_killed_starts_again() {
    let _alone = alone();
    let cluster = Cluster::get();
    let namespace = cluster.namespace("pauseless");
    let n = namespace.name.as_str();
    cluster.apply(n, &pod_on("agent-1", "orphan", "none").replace("54321", "43210"));
    cluster.phase(n, "orphan", "Running");
    let own = || run_words(&["pgrep", "-f", "^sleep 43210$"]).out;
    until("its program runs", || !own().is_empty());
    let before = own();
    let runtime = cluster.info["nodes"][0]["runtime_dir"].as_str().expect("a directory");
    let socket = format!("{runtime}/agent.sock");
    let ps = cluster.coracle(&["ps", "--socket", &socket, "-o", "json"]).good();
    let ps: serde_json::Value = serde_json::from_str(&ps).expect("JSON");
    let pod = ps["pods"].as_array().and_then(|p| p.iter().find(|p| p["name"] == "orphan")).expect("the pod").clone();
    assert_eq!(pod["containers"][0]["pid"].to_string(), before.trim(), "ps names the container's process");
    run_words(&["kill", "-KILL", &pod["pid"].to_string()]).good();
    let pod = cluster.pod_until(n, "orphan", "a restart", |p| {
        p["status"]["containerStatuses"][0]["restartCount"] == 1
            && !p["status"]["containerStatuses"][0]["state"]["running"].is_null()
    });
    assert_eq!(pod["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 137);
    until("another process is in its place", || !own().is_empty() && own() != before);
    assert_eq!(own().lines().count(), 1, "the old one ended with its pause");
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
