//! The whole node with the real runtime, network, images and volumes: needs root, `ip`, `unshare`,
//! `tar`, `busybox-static`, and the workspace's `coracle-pause` built.

mod node_support;

use node_support::*;
use serde_json::json;

#[test]
fn a_pod_from_registry_to_gone() {
    if !inside("a_pod_from_registry_to_gone") {
        return;
    }
    let mut bed = Bed::new("life");
    let agent = bed.start();
    let script = "echo started $A $B $FROM; echo $(cat /conf/k) $(cat /secret/pw); exec sleep 1234567";
    let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [{"name": "web", "image": bed.registry.image(),
        "command": ["/bin/sh", "-c", script],
        "env": [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "pw"}}}],
        "resources": {"limits": {"memory": "64Mi", "cpu": "500m"}},
        "volumeMounts": [{"name": "c", "mountPath": "/conf"}, {"name": "s", "mountPath": "/secret"}, {"name": "e", "mountPath": "/e"}]}],
        "volumes": [{"name": "c", "configMap": {"name": "conf"}}, {"name": "s", "secret": {"secretName": "s"}}, {"name": "e", "emptyDir": {}}]});
    let parts = [data(false, "conf", &[("k", "v1")]), data(true, "s", &[("pw", "hunter2")])];
    bed.tell(&agent, &[node_config(), parts[0].clone(), parts[1].clone(), pod("web", spec.clone(), None)], &[]);
    agent.wait("web", "Running web=Running");
    // Running is told once the shell runs; its `exec` and its words come when they come.
    eventually("the program runs", || processes("sleep\x001234567").len() == 1);
    let said = "started 1 hunter2 image\nv1 hunter2\n";
    eventually("its words are in the log", || read_log(&agent, "web", "web", false) == said);

    // A command beside it.
    let (said, code) = exec(&agent, "web", "web", &["cat"], "over stdin");
    assert_eq!((said.as_str(), code), ("over stdin", 0));
    assert_eq!(exec(&agent, "web", "web", &["/bin/sh", "-c", "exit 3"], "").1, 3);
    let (said, _) = exec(&agent, "web", "web", &["/bin/sh", "-c", "hostname; cat /etc/resolv.conf"], "");
    assert!(said.starts_with("web\nnameserver 10.43.0.10\nsearch default.svc.cluster.local"), "{said}");

    // A changed ConfigMap shows; nothing restarts.
    bed.tell(&agent, &[data(false, "conf", &[("k", "v2")])], &[]);
    eventually("the ConfigMap changes", || exec(&agent, "web", "web", &["cat", "/conf/k"], "").0 == "v2");
    assert_eq!(agent.pod("web")["containers"][0]["restarts"], 0);

    bed.tell(&agent, &[pod("web", spec, Some(1))], &[]);
    bed.tell(&agent, &[], &["pod/uid-web"]);
    agent.wait("web", "");
    assert!(processes("sleep\x001234567").is_empty());
    for left in ["run/volumes/uid-web", "state/pods/uid-web", "run/logs/uid-web"] {
        assert!(!bed.path(left).exists(), "{left} is left behind");
    }
    agent.stop();
}

#[test]
fn what_cannot_run_says_why() {
    if !inside("what_cannot_run_says_why") {
        return;
    }
    let mut bed = Bed::new("why");
    let agent = bed.start();
    let image = bed.registry.image();
    let one = |image: &str, command: &[&str], policy: &str| {
        json!({"restartPolicy": policy, "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": image, "command": command}]})
    };
    let missing = image.replace("box", "none");
    let mut needs = one(&image, &["/bin/true"], "Never");
    needs["containers"][0]["envFrom"] = json!([{"configMapRef": {"name": "later"}}]);
    bed.tell(
        &agent,
        &[
            node_config(),
            pod("nopull", one(&missing, &[], "Always"), None),
            pod("noprogram", one(&image, &["/nothing"], "Never"), None),
            pod("fails", one(&image, &["/bin/false"], "Never"), None),
            pod("works", one(&image, &["/bin/true"], "Never"), None),
            pod("loops", one(&image, &["/bin/false"], "Always"), None),
            pod("waits", needs, None),
        ],
        &[],
    );
    agent.wait("works", "Succeeded c=Completed");
    agent.wait("fails", "Failed c=Error");
    agent.wait("noprogram", "Failed c=StartError");
    agent.wait("nopull", "Pending c=ImagePullBackOff");
    agent.wait("loops", "Running c=CrashLoopBackOff");
    agent.wait("waits", "Pending c=CreateContainerConfigError");
    bed.tell(&agent, &[data(false, "later", &[("A", "1")])], &[]);
    agent.wait("waits", "Succeeded c=Completed");
    let all = ["nopull", "noprogram", "fails", "works", "loops", "waits"];
    let ids: Vec<String> = all.iter().map(|name| format!("pod/uid-{name}")).collect();
    bed.tell(&agent, &[], &ids.iter().map(String::as_str).collect::<Vec<_>>());
    all.iter().for_each(|name| agent.wait(name, ""));
    agent.stop();
}
