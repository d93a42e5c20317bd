//! An x86-64 machine whose control groups are v2 alone.

use std::path::PathBuf;

use coracle_tests::until;
use serde_json::Value;

use crate::disk::{Root, programs, work_dir};
use crate::host::{Host, is_true};
use crate::machine::{Arch, Machine, Plan, boot_files};

const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: limited}
spec:
  restartPolicy: Never
  containers:
    - name: c
      image: "@IMAGE@"
      command: ["/bin/sh", "-c", "cd /sys/fs/cgroup; for f in memory.max memory.swap.max memory.oom.group cpu.max cpu.weight pids.max; do echo $f $(cat $f); done; echo said; exec sleep 1000000"]
      resources: {requests: {cpu: 100m}, limits: {memory: 48Mi, cpu: 250m}}
---
apiVersion: v1
kind: Pod
metadata: {name: greedy}
spec:
  restartPolicy: Never
  containers:
    - name: c
      image: "@IMAGE@"
      command: ["/bin/sh", "-c", "x=0123456789; while [ ${#x} -lt 300000000 ]; do x=$x$x; done"]
      resources: {limits: {memory: 16Mi}}
"#;

/// What the limits above are in the files of cgroup v2; the pids limit is every container's.
const LIMITS: &str = "memory.max 50331648\nmemory.swap.max 0\nmemory.oom.group 1\ncpu.max 25000 100000\n\
                      cpu.weight 4\npids.max 4096\n";

fn machine(name: &str, root: &Root) -> Machine {
    let disk = work_dir().join(format!("{name}.ext4"));
    root.image(&disk);
    let mut machine = Machine::boot(&Plan { name, arch: Arch::Amd64, disk: &disk, mount: "rw", forwards: &[] });
    let mounts = machine.sh("cat /proc/self/mounts");
    assert!(mounts.contains("/sys/fs/cgroup cgroup2 ") && !mounts.contains(" cgroup rw"), "not v2 alone:\n{mounts}");
    let controllers = machine.sh("cat /sys/fs/cgroup/cgroup.subtree_control");
    for controller in ["cpu", "memory", "pids", "io"] {
        assert!(controllers.split_whitespace().any(|c| c == controller), "{controller} is off: {controllers}");
    }
    machine
}

fn root() -> Root {
    let mut root = Root::new(&boot_files(Arch::Amd64).join("busybox"));
    root.add_tools();
    root
}

/// One server on this host, one node in the machine, real images: limits are in the kernel's files, and
/// hold.
#[test]
fn limits_hold_on_cgroup_v2() {
    let host = Host::start(&work_dir());
    let image = host.push_busybox("box", &[("amd64", &boot_files(Arch::Amd64).join("busybox"))]);
    let mut root = root();
    for program in ["coracle-agent", "coracle-pause"] {
        root.add_program(&programs().join(program));
    }
    root.write("etc/registries.json", &host.registries_for_machines());
    let mut machine = machine("limits", &root);
    let bin = programs();
    let bin = bin.display();
    machine.sh(&format!(
        "{bin}/coracle-agent --state /var/coracle --name machine --registries /etc/registries.json --join '{}' >/dev/console 2>&1 &",
        host.join_line()
    ));
    host.wait("node", "machine", "Ready", |node| is_true(node, "Ready"));
    host.apply(&PODS.replace("@IMAGE@", &image));

    host.wait("pod", "limited", "Running", |pod| pod["status"]["phase"] == "Running");
    until("the container has read its limits", || host.coracle(&["logs", "limited"]).out.contains("said"));
    assert_eq!(host.coracle(&["logs", "limited"]).good(), format!("{LIMITS}said\n"), "as the container sees them");
    let uid = host.object("pod", "limited")["metadata"]["uid"].as_str().expect("a uid").to_owned();
    let group = format!("/sys/fs/cgroup/coracle/machine/pods/{uid}/c_0");
    let files = "memory.max memory.swap.max memory.oom.group cpu.max cpu.weight pids.max";
    let seen = machine.sh(&format!("cd {group}; for f in {files}; do echo $f $(cat $f); done"));
    assert_eq!(seen, LIMITS, "as the node's kernel has them");
    assert_eq!(
        machine.sh(&format!("wc -l <{group}/cgroup.procs")).trim(),
        "1",
        "the container's process is in its group"
    );

    let ended = |pod: &Value| pod["status"]["containerStatuses"][0]["state"]["terminated"].is_object();
    let pod = host.wait("pod", "greedy", "its end", ended);
    let end = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&end["reason"], &end["exitCode"]), (&"OOMKilled".into(), &137.into()), "{end}");
    assert_eq!(pod["status"]["phase"], "Failed");
    assert_eq!(host.object("pod", "limited")["status"]["containerStatuses"][0]["restartCount"], 0);

    host.coracle(&["delete", "pod", "limited", "--grace-period", "0"]).good();
    machine.until(&format!("[ ! -e /sys/fs/cgroup/coracle/machine/pods/{uid} ]"));
}

/// Runs on the host alone: the machine's kernel 6.1 goes on naming a card that it gave up writable, and
/// the node sees that it can not persist, but not yet why.
const ON_THE_HOST: &str = "a_full_card_and_one_that_cannot_be_written";

/// The node's own suites as they were built for this host, but for [`ON_THE_HOST`].
#[test]
fn the_node_suites_pass_on_cgroup_v2() {
    let suites = std::env::var("CORACLE_NODE_SUITES").expect("CORACLE_NODE_SUITES: run these tests by scripts/test.sh");
    let suites: Vec<PathBuf> = suites.split_whitespace().map(PathBuf::from).collect();
    assert!(suites.len() >= 3, "runtime, network and node are wanted: {suites:?}");
    let mut root = root();
    for program in ["coracle-agent", "coracle-pause"].map(|p| programs().join(p)).iter().chain(&suites) {
        root.add_program(program);
    }
    let mut machine = machine("suites", &root);
    let pause = programs().join("coracle-pause");
    let mut failed = Vec::new();
    for suite in &suites {
        let options = format!("--test-threads=2 --skip {ON_THE_HOST}");
        let line = format!("CORACLE_PAUSE={} {} {options} 2>&1 | tee /dev/console", pause.display(), suite.display());
        let (said, _) = machine.run_showing(&line, &|line| println!("  v2: {line}"));
        let summary = said.lines().rfind(|l| l.starts_with("test result:")).unwrap_or("no summary").to_owned();
        println!("{summary}");
        if !summary.starts_with("test result: ok.") {
            failed.push(format!("{}: {summary}", suite.display()));
        }
    }
    assert!(failed.is_empty(), "on cgroup v2: {failed:#?}");
}
