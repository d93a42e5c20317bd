//! Real containers: what a pod asks for is what it gets, and what goes wrong says so.

use coracle_tests::{Cluster, until};

fn pod(name: &str, container: &str, extra: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n  terminationGracePeriodSeconds: 1\n  containers:\n  - {{name: c, image: \"@IMAGE@\", {container}}}\n{extra}"
    )
}

#[test]
fn a_pod_that_eats_too_much_is_killed_and_says_so() {
    let cluster = Cluster::get();
    let namespace = cluster.namespace("oom");
    let eat =
        r#"command: [sh, -c, "x=aaaaaaaaaaaaaaaa; while true; do x=$x$x; done"], resources: {limits: {memory: 16Mi}}"#;
    cluster.apply(&namespace.name, &pod("eater", eat, ""));
    let pod = cluster.phase(&namespace.name, "eater", "Failed");
    let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((ended["reason"].as_str(), ended["exitCode"].as_i64()), (Some("OOMKilled"), Some(137)), "{ended}");
}

#[test]
fn exit_codes_and_logs_of_runs_before() {
    let cluster = Cluster::get();
    let namespace = cluster.namespace("exits");
    let n = namespace.name.as_str();
    cluster.apply(n, &pod("good", r#"command: [sh, -c, "echo done"]"#, ""));
    cluster.phase(n, "good", "Succeeded");
    assert_eq!(cluster.kubectl("1.32", &["logs", "-n", n, "good"]).good(), "done\n");
    cluster.apply(n, &pod("bad", r#"command: [sh, -c, "exit 7"]"#, ""));
    let bad = cluster.phase(n, "bad", "Failed");
    assert_eq!(bad["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], 7);
    let again = pod("again", r#"command: [sh, -c, "echo run; sleep 1; exit 1"]"#, "").replace("Never", "Always");
    cluster.apply(n, &again);
    cluster.pod_until(n, "again", "a restart", |p| {
        p["status"]["containerStatuses"][0]["restartCount"].as_i64().unwrap_or(0) >= 1
    });
    assert_eq!(cluster.kubectl("1.32", &["logs", "-n", n, "-p", "again"]).good(), "run\n");
    cluster.pod_until(n, "again", "CrashLoopBackOff", |p| {
        p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    });
}

#[test]
fn configuration_reaches_the_container() {
    let cluster = Cluster::get();
    let namespace = cluster.namespace("config");
    let n = namespace.name.as_str();
    let container = r#"command: [sh, -c, "echo $A-$B-$SPACE; cat /cm/color /secret/password; id -u; touch /cm/x 2>&1 | head -c 60"],
      env: [{name: A, valueFrom: {configMapKeyRef: {name: cm, key: color}}}, {name: B, valueFrom: {secretKeyRef: {name: s, key: password}}}, {name: SPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}],
      securityContext: {runAsUser: 1234},
      volumeMounts: [{name: cm, mountPath: /cm}, {name: s, mountPath: /secret}, {name: e, mountPath: /scratch}]"#;
    let volumes = "  volumes:\n  - {name: cm, configMap: {name: cm}}\n  - {name: s, secret: {secretName: s}}\n  - {name: e, emptyDir: {}}\n";
    cluster.apply(n, &pod("reader", container, volumes));
    cluster.pod_until(n, "reader", "waiting for its ConfigMap", |p| {
        !p["status"]["containerStatuses"][0]["state"]["waiting"].is_null()
    });
    cluster.kubectl("1.32", &["create", "configmap", "cm", "-n", n, "--from-literal=color=blue\n"]).good();
    cluster
        .kubectl("1.32", &["create", "secret", "generic", "s", "-n", n, "--from-literal=password=hidden-from-disks\n"])
        .good();
    cluster.phase(n, "reader", "Succeeded");
    let logs = cluster.kubectl("1.32", &["logs", "-n", n, "reader"]).good();
    assert!(logs.starts_with(&format!("blue -hidden-from-disks -{n}\nblue\nhidden-from-disks\n1234\n")), "{logs}");
    assert!(logs.contains("touch: /cm/x"), "a ConfigMap volume is read-only: {logs}");
    let dir = cluster.dir.to_str().expect("UTF-8").to_owned();
    let found = coracle_tests::run_words(&["grep", "-rlaF", "hidden-from-disks", &dir, "--exclude-dir=log"]);
    assert_eq!((found.ok, found.out.as_str()), (false, ""), "a Secret's value lies on a disk in the clear");
}

#[test]
fn containers_are_confined() {
    let cluster = Cluster::get();
    let namespace = cluster.namespace("confined");
    let n = namespace.name.as_str();
    let probe = r#"command: [sh, -c, "echo pid $$$$; hostname; grep -E '^(NoNewPrivs|Seccomp|CapEff):' /proc/self/status; ls /proc/kcore -l | head -c 4; ls /host 2>&1; true"], securityContext: {allowPrivilegeEscalation: false}"#;
    cluster.apply(n, &pod("inside", probe, ""));
    cluster.phase(n, "inside", "Succeeded");
    let logs = cluster.kubectl("1.32", &["logs", "-n", n, "inside"]).good();
    for part in ["pid 1\n", "inside\n", "NoNewPrivs:\t1\n", "Seccomp:\t2\n", "CapEff:\t00000000a80425fb\n"] {
        assert!(logs.contains(part), "{part:?} is not in\n{logs}");
    }
}

#[test]
fn images_that_can_not_be_had_say_why() {
    let cluster = Cluster::get();
    let namespace = cluster.namespace("images");
    let n = namespace.name.as_str();
    let missing = pod("missing", "", "").replace("@IMAGE@", &format!("{}/none/such:1", cluster.registry()));
    cluster.apply(n, &missing);
    let pod_seen = cluster.pod_until(n, "missing", "an image error", |p| {
        matches!(
            p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"].as_str(),
            Some("ErrImagePull" | "ImagePullBackOff")
        )
    });
    let message = pod_seen["status"]["containerStatuses"][0]["state"]["waiting"]["message"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert!(message.contains("none/such"), "{message}");
    let logs = cluster.kubectl("1.32", &["logs", "-n", n, "missing"]).bad();
    assert!(logs.contains("is waiting to start"), "{logs}");
}

#[test]
fn what_fits_nowhere_says_why() {
    let cluster = Cluster::get();
    let namespace = cluster.namespace("nowhere");
    let n = namespace.name.as_str();
    cluster.apply(n, &pod("huge", "resources: {requests: {cpu: 1k}}", ""));
    cluster.apply(n, &pod("choosy", "", "  nodeSelector: {disk: golden}\n"));
    for (name, why) in
        [("huge", "2 Insufficient cpu"), ("choosy", "2 node(s) didn't match Pod's node affinity/selector")]
    {
        let pod = cluster.pod_until(n, name, "a reason", |p| {
            p["status"]["conditions"].as_array().into_iter().flatten().any(|c| c["reason"] == "Unschedulable")
        });
        let text = pod["status"].to_string();
        assert!(text.contains("0/2 nodes are available") && text.contains(why), "{text}");
    }
    let events = cluster.kubectl("1.32", &["get", "events", "-n", n]).good();
    assert!(events.contains("FailedScheduling"), "{events}");
}

#[test]
fn an_image_of_another_architecture_is_never_scheduled() {
    let cluster = Cluster::get();
    let namespace = cluster.namespace("foreign");
    let n = namespace.name.as_str();
    let image = cluster.push_image("foreign/only", "riscv64");
    cluster.apply(n, &pod("foreign", "", "").replace("@IMAGE@", &image));
    let pod = cluster.pod_until(n, "foreign", "a reason", |p| {
        p["status"]["conditions"].as_array().into_iter().flatten().any(|c| c["reason"] == "Unschedulable")
    });
    let text = pod["status"].to_string();
    assert!(text.contains("for which the image does not exist (it exists for riscv64)"), "{text}");
}

#[test]
fn services_are_reached_by_name_address_and_node_port() {
    let cluster = Cluster::get();
    let namespace = cluster.namespace("names");
    let n = namespace.name.as_str();
    let ask = r#"command: [sh, -c, "for i in 1 2 3 4 5 6 7 8 9 10; do wget -q -O - http://web.default/ || exit 1; done; wget -q -O - http://web.default.svc.cluster.local:80/; cat /etc/resolv.conf"]"#;
    cluster.apply(n, &pod("asker", ask, ""));
    cluster.phase(n, "asker", "Succeeded");
    let logs = cluster.kubectl("1.32", &["logs", "-n", n, "asker"]).good();
    assert_eq!(logs.lines().filter(|l| l.starts_with("pod web-")).count(), 11, "{logs}");
    assert!(logs.contains("10.43.0.10") && logs.contains(&format!("{n}.svc.cluster.local")), "{logs}");
    for node in 0..2 {
        let (code, body) = coracle_tests::get(cluster.node_port(node, 30080), "/").expect("the NodePort answers");
        assert!(code == 200 && body.starts_with("pod web-"), "{code} {body}");
    }
}

#[test]
fn endpoints_that_a_person_writes_are_balanced_to() {
    let cluster = Cluster::get();
    let namespace = cluster.namespace("by-hand");
    let n = namespace.name.as_str();
    cluster.apply(n, "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers: [{name: c, image: \"@IMAGE@\"}]\n");
    let pod = cluster.phase(n, "web", "Running");
    let ip = pod["status"]["podIP"].as_str().expect("an address");
    cluster.apply(n, "apiVersion: v1\nkind: Service\nmetadata: {name: own}\nspec: {type: NodePort, ports: [{port: 80, nodePort: 30085}]}\n");
    let endpoints = format!(
        "apiVersion: v1\nkind: Endpoints\nmetadata: {{name: own}}\nsubsets: [{{addresses: [{{ip: {ip}}}], ports: [{{port: 8080}}]}}]\n"
    );
    cluster.apply(n, &endpoints);
    let slice = || cluster.object("endpointslice", n, "own-mirrored-0");
    until("the Endpoints are mirrored", || slice().is_some_and(|slice| slice["endpoints"][0]["addresses"][0] == ip));
    until("the NodePort answers", || {
        coracle_tests::get(cluster.node_port(0, 30085), "/").is_ok_and(|(code, _)| code == 200)
    });
    cluster.kubectl("1.32", &["delete", "endpoints", "own", "-n", n]).good();
    until("the slice goes with them", || slice().is_none());
}

#[test]
fn a_replica_set_tells_of_the_pods_it_makes_and_removes() {
    let cluster = Cluster::get();
    let namespace = cluster.namespace("told");
    let n = namespace.name.as_str();
    let set = "apiVersion: apps/v1\nkind: ReplicaSet\nmetadata: {name: told}\nspec:\n  replicas: 2\n  selector: {matchLabels: {a: told}}\n  \
               template:\n    metadata: {labels: {a: told}}\n    spec:\n      terminationGracePeriodSeconds: 0\n      containers: [{name: c, image: \"@IMAGE@\"}]\n";
    cluster.apply(n, set);
    let told = |reason: &str| {
        let events = cluster.objects("events", n);
        let about = |e: &&serde_json::Value| e["reason"] == reason && e["involvedObject"]["name"] == "told";
        let mut pods: Vec<String> = events
            .iter()
            .filter(about)
            .filter_map(|e| Some(e["message"].as_str()?.rsplit(' ').next()?.to_owned()))
            .collect();
        pods.sort();
        pods
    };
    until("both pods are told of", || told("SuccessfulCreate").len() == 2);
    let mut pods: Vec<String> =
        cluster.objects("pods", n).iter().filter_map(|p| Some(p["metadata"]["name"].as_str()?.to_owned())).collect();
    pods.sort();
    assert_eq!(told("SuccessfulCreate"), pods);
    cluster.kubectl("1.32", &["scale", "rs", "told", "-n", n, "--replicas=0"]).good();
    until("and that they were removed", || told("SuccessfulDelete") == pods);
}
