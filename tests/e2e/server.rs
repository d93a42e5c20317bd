//! The server and its disk: full, failing, damaged; backups, restored alone and under a fleet.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use coracle_tests::{Cluster, Disk, OwnServer, run_words, until};
use serde_json::Value;

/// The cluster's programs: a test's own server is of them.
fn programs() -> PathBuf {
    Cluster::get().dir.join("bin")
}

/// Larger than the journal's two segments and the reserve, which are taken in advance.
const DISK_MIB: u64 = 160;

#[test]
fn a_full_disk_refuses_writes_by_name_and_recovers_by_itself() {
    let work = tempfile::tempdir().expect("a directory");
    let disk = Disk::new(work.path(), DISK_MIB);
    let mut server = OwnServer::new(&programs(), &disk.mount.join("server"), work.path());
    server.start();
    server.put("before", 'b', 1000).good();
    server.put("gone", 'g', 1000).good();
    let filler = disk.fill();

    let refused = server.put("refused", 'r', 1000).bad();
    let path = disk.mount.join("server/store").display().to_string();
    for words in ["InsufficientStorage", "the disk of", &path, "MiB are free", "MiB are needed", "delete objects"] {
        assert!(refused.contains(words), "{words}: {refused}");
    }
    assert_eq!(server.value("before").as_deref(), Some(&*"b".repeat(1000)), "reads go on");
    assert_eq!(server.value("refused"), None);
    server.coracle(&["delete", "configmap", "gone"], "").good();
    server.put("before", 'B', 1000).good();

    // Also a server that starts on the full disk can be mended by deleting.
    server.kill();
    server.start();
    assert_eq!(server.value("before").as_deref(), Some(&*"B".repeat(1000)), "what was acknowledged is there");
    assert_eq!(server.value("gone"), None);
    server.put("refused", 'r', 1000).bad();
    server.coracle(&["delete", "configmap", "before"], "").good();

    fs::remove_file(filler).expect("removed");
    server.put("after", 'a', 1000).good();
    server.stop();
    disk.unmount();
}

#[test]
fn a_disk_that_turns_read_only_refuses_writes_and_loses_nothing() {
    let work = tempfile::tempdir().expect("a directory");
    let disk = Disk::new(work.path(), DISK_MIB);
    let mut server = OwnServer::new(&programs(), &disk.mount.join("server"), work.path());
    server.start();
    server.put("kept", 'k', 1000).good();
    // What ext4 does when it meets an error of the card.
    let trigger = format!("/sys/fs/ext4/{}/trigger_fs_error", disk.device());
    fs::write(&trigger, "a test").expect("ext4 takes the error");
    // The journal's blocks are there already: ext4 may let writes into them through. A new file is what fails.
    let mut refused = None;
    for number in 0..150 {
        let put = server.put(&format!("n{number}"), 'n', 200_000);
        if !put.ok {
            refused = Some(put.err);
            break;
        }
    }
    let refused = refused.expect("a read-only disk does not take writes for ever");
    let path = disk.mount.join("server/store").display().to_string();
    for words in ["could not write to", &path, "Reads still work"] {
        assert!(refused.contains(words), "{words}: {refused}");
    }
    assert_eq!(server.value("kept").as_deref(), Some(&*"k".repeat(1000)), "reads go on");
    let present: Value =
        serde_json::from_str(&server.coracle(&["get", "configmaps", "-o", "json"], "").good()).expect("JSON");
    let names = |list: &Value| -> Vec<String> {
        let items = list["items"].as_array().into_iter().flatten();
        items.filter_map(|o| o["metadata"]["name"].as_str().map(str::to_owned)).collect()
    };
    let present = names(&present);
    server.kill();
    disk.unmount();
    disk.mend();
    disk.mount();
    server.start();
    let again = server.coracle(&["get", "configmaps", "-o", "json"], "").good();
    let again = names(&serde_json::from_str(&again).expect("JSON"));
    for name in present {
        assert!(again.contains(&name), "{name} was acknowledged and is gone");
    }
    server.put("after", 'a', 1000).good();
    server.stop();
    disk.unmount();
}

#[test]
fn a_damaged_store_names_the_last_backup_which_restores() {
    let work = tempfile::tempdir().expect("a directory");
    let state = work.path().join("server");
    let mut server = OwnServer::new(&programs(), &state, work.path());
    server.start();
    // More than a segment of the journal (`apply` keeps each value twice), so that the checkpoint has some.
    for number in 0..50 {
        server.put(&format!("large-{number}"), 'q', 200_000).good();
    }
    let object = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {p: correct-horse}\n";
    server.coracle(&["apply", "-f", "-"], object).good();
    let backup = work.path().join("backup");
    let backup = backup.to_string_lossy();
    let said = server.coracle(&["backup", &backup], "").good();
    assert!(said.contains("SHA-256"), "{said}");
    server.put("later", 'l', 10).good();
    server.stop();

    let (checkpoint, damaged) = (state.join("store/store.redb"), state.join("store.damaged"));
    let whole = fs::read(&checkpoint).expect("the checkpoint");
    let middle = whole.windows(64).position(|w| w == [b'q'; 64]).expect("a large object is in the checkpoint") + 5000;
    let mut refusals = Vec::new();
    for offset in [middle, 0] {
        let mut bytes = whole.clone();
        bytes[offset] ^= 0x41;
        fs::write(&checkpoint, bytes).expect("written");
        refusals.push(server.refuse());
    }
    for said in &refusals {
        for words in ["store.redb is damaged", &*backup, "coracle restore", "secret.key"] {
            assert!(said.contains(words), "{words}: {said}");
        }
    }
    assert!(refusals[0].contains("its rows are not what was written"), "{}", refusals[0]);

    fs::rename(state.join("store"), &damaged).expect("moved aside");
    let key = damaged.join("secret.key");
    let wrong = work.path().join("wrong.key");
    fs::write(&wrong, "0".repeat(64)).expect("written");
    let (state_text, key) = (state.to_string_lossy(), key.to_string_lossy().into_owned());
    let restore = |key: &str| server.coracle(&["restore", &backup, "--state", &state_text, "--key", key], "");
    let refused = restore(&wrong.to_string_lossy()).bad();
    assert!(refused.contains("another secret.key"), "{refused}");
    let done = restore(&key).good();
    assert!(done.contains("restored"), "{done}");
    assert!(restore(&key).bad().contains("holds a store already"));
    server.start();
    assert_eq!(server.value("large-49").map(|v| v.len()), Some(200_000));
    assert_eq!(server.value("later"), None, "it came after the backup");
    let secret = server.coracle(&["get", "secret", "s", "-o", "json"], "").good();
    assert!(secret.contains("Y29ycmVjdC1ob3JzZQ=="), "{secret}");

    // The key changes only while no server runs.
    let rotate = ["rotate-key", "--state", &*state_text];
    let refused = server.coracle(&rotate, "").bad();
    assert!(refused.contains("another server uses this directory"), "{refused}");
    server.stop();
    let before = fs::read(state.join("store/secret.key")).expect("the key");
    server.coracle(&rotate, "").good();
    let after = fs::read(state.join("store/secret.key")).expect("the key");
    assert_ne!(after, before);
    assert_eq!(fs::read(state.join("secret.key")).expect("where people look for it"), after);
    server.start();
    let secret = server.coracle(&["get", "secret", "s", "-o", "json"], "").good();
    assert!(secret.contains("Y29ycmVjdC1ob3JzZQ=="), "{secret}");
    server.stop();
}

/// The demonstration's pods: uid, and PIDs' stand-ins: container ids and restart counts.
fn pods(cluster: &Cluster) -> BTreeMap<String, (String, u64)> {
    let of = |pod: &Value| {
        let status = &pod["status"]["containerStatuses"][0];
        let id = status["containerID"].as_str().unwrap_or_default().to_owned();
        Some((pod["metadata"]["uid"].as_str()?.to_owned(), (id, status["restartCount"].as_u64()?)))
    };
    cluster.objects("pods", "default").iter().filter_map(of).collect()
}

fn addresses(cluster: &Cluster) -> Vec<Value> {
    let slices = cluster.objects("endpointslices", "default");
    let mut found: Vec<Value> = slices
        .iter()
        .filter(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == "web")
        .flat_map(|slice| slice["endpoints"].as_array().cloned().unwrap_or_default())
        .map(|endpoint| endpoint["addresses"].clone())
        .collect();
    found.sort_by_key(Value::to_string);
    found
}

#[test]
fn a_backup_restored_under_a_fleet_stops_no_pod_and_the_fleet_obeys() {
    let cluster = Cluster::get();
    cluster.until_no_namespace_ends();
    until("all is well before", || cluster.up(&["--status"]).ok);
    let before = pods(&cluster);
    assert_eq!(before.len(), 3, "{before:?}");
    let backup = cluster.dir.join("fleet.backup");
    cluster.coracle(&["backup", &backup.to_string_lossy()]).good();
    // Lost by the restore: and what would come back at a lower revision if nothing were raised.
    for number in 0..5 {
        cluster.kubectl("1.32", &["create", "configmap", &format!("lost-{number}")]).good();
    }
    let revision = |cluster: &Cluster| -> u64 {
        let list: Value =
            serde_json::from_str(&cluster.coracle(&["get", "namespaces", "-o", "json"]).good()).expect("JSON");
        list["metadata"]["resourceVersion"].as_str().and_then(|r| r.parse().ok()).expect("a revision")
    };
    let earlier = revision(&cluster);
    cluster.kill("server");
    let state = cluster.dir.join("server");
    let key = cluster.dir.join("fleet.key");
    fs::copy(state.join("store/secret.key"), &key).expect("a copy of the key");
    // An empty machine.
    fs::remove_dir_all(&state).expect("removed");
    let (file, key, place) = (backup.to_string_lossy(), key.to_string_lossy(), state.to_string_lossy());
    cluster.coracle(&["restore", &file, "--state", &place, "--key", &key]).good();
    cluster.up(&["--start", "server"]).good();
    until("everything serves again", || cluster.up(&["--status"]).ok);
    assert!(revision(&cluster) > earlier, "revisions go on upward");
    assert!(cluster.object("configmap", "default", "lost-0").is_none());
    assert_eq!(before, pods(&cluster), "no pod was stopped or started");
    // The fleet obeys: a new pod on each node comes and goes.
    let namespace = cluster.namespace("obeys");
    let n = namespace.name.as_str();
    for node in ["agent-1", "agent-2"] {
        let pod = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {node}}}\nspec:\n  nodeName: {node}\n  \
             terminationGracePeriodSeconds: 0\n  containers: [{{name: c, image: \"@IMAGE@\", command: [sleep, '4321']}}]\n"
        );
        cluster.apply(n, &pod);
        cluster.phase(n, node, "Running");
        cluster.kubectl("1.32", &["delete", "pod", node, "-n", n, "--timeout=120s"]).good();
    }
    assert_eq!(before, pods(&cluster), "and still no other pod was touched");
    for file in [&file, &key] {
        fs::remove_file(&**file).expect("removed");
    }
}

/// Goes on with a stopped program whatever happens.
struct Stopped(String);

impl Stopped {
    fn new(pid: u32) -> Stopped {
        run_words(&["kill", "-STOP", &pid.to_string()]).good();
        Stopped(pid.to_string())
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = run_words(&["kill", "-CONT", &self.0]);
    }
}

#[test]
fn a_server_that_comes_back_to_half_of_its_nodes_forgets_nothing() {
    let cluster = Cluster::get();
    cluster.until_no_namespace_ends();
    until("all is well before", || cluster.up(&["--status"]).ok);
    let (pods_before, addresses_before) = (pods(&cluster), addresses(&cluster));
    assert_eq!(addresses_before.len(), 3);
    let silent = Stopped::new(cluster.pid("agent-1"));
    cluster.kill("server");
    // A grace that no machine is too slow for.
    cluster.up(&["--server-args", "--node-grace 900", "--start", "server"]).good();
    // The other node is back and works: a pod comes up there while the first is still silent.
    let namespace = cluster.namespace("half");
    let n = namespace.name.as_str();
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: other}\nspec:\n  nodeName: agent-2\n  \
               terminationGracePeriodSeconds: 0\n  containers: [{name: c, image: \"@IMAGE@\", command: [sleep, '4322']}]\n";
    cluster.apply(n, pod);
    cluster.phase(n, "other", "Running");
    assert_eq!(addresses(&cluster), addresses_before, "no endpoint is lost while a node is unknown");
    assert_eq!(pods(&cluster), pods_before, "no pod is made, deleted or restarted");
    drop(silent);
    until("everything serves again", || cluster.up(&["--status"]).ok);
    assert_eq!(addresses(&cluster), addresses_before);
    assert_eq!(pods(&cluster), pods_before);
    cluster.kill("server");
    cluster.up(&["--server-args", "", "--start", "server"]).good();
    until("everything serves again", || cluster.up(&["--status"]).ok);
    assert_eq!(pods(&cluster), pods_before);
}
