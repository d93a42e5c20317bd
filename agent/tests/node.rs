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

/// Whether the node says this of itself.
fn says(agent: &Agent, reason: &str) -> bool {
    agent.wrong().iter().any(|c| c == reason)
}

#[test]
fn a_full_card_and_one_that_cannot_be_written() {
    if !inside("a_full_card_and_one_that_cannot_be_written") {
        return;
    }
    let mut bed = Bed::new("card");
    bed.insert_card(400);
    let agent = bed.start();
    let sleeper = |image: &str| {
        json!({"terminationGracePeriodSeconds": 0, "volumes": [{"name": "e", "emptyDir": {}}],
            "containers": [{"name": "c", "image": image, "command": ["/bin/sleep", "7654321"],
                "volumeMounts": [{"name": "e", "mountPath": "/e"}]}]})
    };
    let pods = ["stays", "goes", "later"].map(|name| pod(name, sleeper(&bed.registry.image()), None));
    bed.tell(&agent, &[node_config(), pods[0].clone(), pods[1].clone()], &[]);
    agent.wait("stays", "Running c=Running");
    agent.wait("goes", "Running c=Running");
    assert!(!says(&agent, "DiskPressure/NodeHasDiskPressure"), "{:?}", agent.wrong());

    // One pod fills the card to the last byte; the ledger's reserve is what is left.
    // Promised space is not written, so that the card's file takes little memory.
    let promise = "i=0; for m in 50 10 1; do while busybox fallocate -l ${m}M /e/$i 2>/dev/null; do i=$((i+1)); done; rm -f /e/$i; done";
    let fill = format!("{promise}; cat /dev/zero > /e/rest");
    let (said, _) = exec(&agent, "goes", "c", &["/bin/sh", "-c", &fill], "");
    assert!(said.contains("No space left"), "{said}");
    assert!(says(&agent, "DiskPressure/NodeHasDiskPressure"));
    let stopping = pod("goes", sleeper(&bed.registry.image()), Some(0));
    bed.tell(&agent, &[stopping], &[]);
    bed.tell(&agent, &[], &["pod/uid-goes"]);
    agent.wait("goes", "");
    eventually("its removal frees the space", || !says(&agent, "DiskPressure/NodeHasDiskPressure"));

    // The kernel gives the card up after an error, and writes to it no more.
    let state = bed.path("state");
    command(&["mount", "-o", "remount,abort"], &[&state]);
    eventually("the node says so", || {
        // Older kernels find it out with the next write, whosever it is.
        let _ = std::fs::write(state.join("written"), "");
        says(&agent, "StateReadOnly/ReadOnlyFileSystem")
    });
    let refused = bed.try_to_tell(&agent, &[pods[2].clone()], &[]).expect_err("nothing can be written");
    assert!(refused.contains("ledger"), "{refused}");
    assert!(says(&agent, "LedgerFailing/CannotPersist"));
    assert_eq!(agent.shown("later"), "", "what cannot be remembered is not started");
    assert_eq!(agent.shown("stays"), "Running c=Running");
    bed.try_to_tell(&agent, &[], &["pod/uid-stays"]).expect_err("nothing can be written");
    agent.wait("stays", "");
    assert!(processes("sleep\x007654321").is_empty(), "it was removed all the same");
    agent.stop();

    // A person mends it. What it would not let go is taken away by the next start.
    command(&["umount"], &[&state]);
    // 1: it has mended something.
    command(&["sh", "-c", "fsck.ext4 -p \"$0\" || [ $? = 1 ]"], &[&bed.path("card")]);
    command(&["mount", "-o", "loop"], &[&bed.path("card"), &state]);
    assert!(state.join("pods/uid-stays").exists(), "it is still there");
    let agent = bed.start();
    bed.tell(&agent, &[pods[2].clone()], &["pod/uid-stays"]);
    agent.wait("later", "Running c=Running");
    agent.wait("stays", "");
    assert!(!state.join("pods/uid-stays").exists());
    // Also what the other pod had filled, if its removal was lost with the card.
    eventually("nothing is wrong", || agent.wrong().iter().all(|c| c.starts_with("RuntimeLimited")));
    bed.tell(&agent, &[], &["pod/uid-later"]);
    agent.wait("later", "");
    agent.stop();
    command(&["umount"], &[&state]);
}

#[test]
fn a_pod_that_runs_once_does_not_run_again_after_a_reboot() {
    if !inside("a_pod_that_runs_once_does_not_run_again_after_a_reboot") {
        return;
    }
    let mut bed = Bed::new("once");
    let agent = bed.start();
    let image = bed.registry.image();
    let host = bed.path("ran");
    std::fs::create_dir(&host).expect("a directory");
    let spec = |policy: &str| {
        json!({"restartPolicy": policy, "terminationGracePeriodSeconds": 0,
            "volumes": [{"name": "h", "hostPath": {"path": host}}],
            "containers": [{"name": "c", "image": image, "volumeMounts": [{"name": "h", "mountPath": "/h"}],
                "command": ["/bin/sh", "-c", format!("echo ran >> /h/{policy}; exec sleep 6543210")]}]})
    };
    bed.tell(&agent, &[node_config(), pod("once", spec("Never"), None), pod("again", spec("Always"), None)], &[]);
    agent.wait("once", "Running c=Running");
    agent.wait("again", "Running c=Running");
    let ran = |policy: &str| std::fs::read_to_string(host.join(policy)).unwrap_or_default().lines().count();
    eventually("both run", || (ran("Never"), ran("Always")) == (1, 1));
    agent.stop();
    bed.reboot();
    let agent = bed.start();
    agent.wait("once", "Failed c=ContainerStatusUnknown");
    agent.wait("again", "Running c=Running");
    eventually("the other one runs again", || ran("Always") == 2);
    assert_eq!(ran("Never"), 1);
    // Known for good now.
    agent.stop();
    let agent = bed.start();
    agent.wait("once", "Failed c=ContainerStatusUnknown");
    bed.tell(&agent, &[], &["pod/uid-once", "pod/uid-again"]);
    agent.wait("once", "");
    agent.wait("again", "");
    assert_eq!(ran("Never"), 1);
    assert!(!bed.path("state/pods/uid-once").exists());
    agent.stop();
}

#[test]
fn hooks_run_after_the_start_and_before_the_stop() {
    if !inside("hooks_run_after_the_start_and_before_the_stop") {
        return;
    }
    let mut bed = Bed::new("hooks");
    let agent = bed.start();
    let host = bed.path("said");
    std::fs::create_dir(&host).expect("a directory");
    let say = |words: &str| json!({"exec": {"command": ["/bin/sh", "-c", words]}});
    let container = |name: &str, post: serde_json::Value, pre: serde_json::Value| {
        let script = format!(
            "trap 'echo term >> /h/{name}; exit 0' TERM; echo up >> /h/{name}; while true; do sleep 1000 & wait; done"
        );
        json!({"name": name, "image": bed.registry.image(), "command": ["/bin/sh", "-c", script],
            "volumeMounts": [{"name": "h", "mountPath": "/h"}], "lifecycle": {"postStart": post, "preStop": pre}})
    };
    // The hook waits for the program's own word, so that their order is known.
    let post = say("until [ -s /h/good ]; do :; done; echo post >> /h/good");
    let good = container("good", post, say("echo pre >> /h/good"));
    let bad = container("bad", say("echo no; exit 3"), json!({"sleep": {"seconds": 0}}));
    let spec = |c: &serde_json::Value, policy: &str| {
        json!({"restartPolicy": policy, "terminationGracePeriodSeconds": 30, "containers": [c],
            "volumes": [{"name": "h", "hostPath": {"path": host}}]})
    };
    bed.tell(
        &agent,
        &[node_config(), pod("good", spec(&good, "Always"), None), pod("bad", spec(&bad, "Never"), None)],
        &[],
    );
    let said = |name: &str| std::fs::read_to_string(host.join(name)).unwrap_or_default().replace('\n', " ");
    eventually("it is ready after its hook", || agent.pod("good")["containers"][0]["ready"] == true);
    assert_eq!(said("good"), "up post ");
    eventually("a hook that fails ends its container", || {
        agent.shown("bad").starts_with("Succeeded ") || agent.shown("bad").starts_with("Failed ")
    });
    bed.tell(&agent, &[pod("good", spec(&good, "Always"), Some(30))], &[]);
    bed.tell(&agent, &[], &["pod/uid-good", "pod/uid-bad"]);
    agent.wait("good", "");
    agent.wait("bad", "");
    assert_eq!(said("good"), "up post pre term ");
    agent.stop();
}
