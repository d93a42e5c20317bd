//! Containers for real: namespaces, mounts, cgroups, seccomp, logs, and what a crash leaves.
//!
//! Needs root and a static busybox (`busybox-static`), both of which `scripts/test.sh` sees to;
//! without them these tests fail. They run on cgroup v1, hybrid and v2. `CORACLE_PAUSE` names a
//! ready-made pause program; otherwise it is built.

mod support;

use std::fs;

use coracle_agent::runtime::*;
use support::{Node, run};

#[test]
fn a_container_runs_and_its_end_and_output_are_known() {
    run("basic", async |node: &Node| {
        let sandbox = node.sandbox("a").await;
        let spec = node.shell("web", "echo out; echo err >&2; exit 3");
        let status = sandbox.start_container(&spec).await.unwrap();
        assert!(status.started_at > 0 && status.id == spec.id);
        let status = sandbox.wait(&spec.id).await.unwrap();
        let exit = status.exit.unwrap();
        assert_eq!((exit.code, exit.signal, exit.oom_killed, exit.lost), (3, None, false, false));
        let log = fs::read_to_string(&spec.log.path).unwrap();
        let mut lines: Vec<_> = log.lines().map(|l| l.split_once(' ').unwrap().1).collect();
        lines.sort();
        assert_eq!(lines, ["stderr F err", "stdout F out"]);
        assert!(matches!(sandbox.events().recv().await, Ok(Event::Exited(s)) if s.id == spec.id));
        sandbox.remove_container(&spec.id).await.unwrap();
        assert!(sandbox.containers().is_empty());
        sandbox.remove().await.unwrap();
    });
}

#[test]
fn a_container_sees_only_its_own() {
    run("isolation", async |node: &Node| {
        let sandbox = node.sandbox("a").await;
        let script = "hostname; echo pid $$; ls /proc | grep -c '^[0-9]'; ls /; cat /proc/self/cgroup | cut -d: -f3 | sort -u; \
                      grep -c . /proc/net/dev; mount | grep -c ' / '; echo > /dev/null && echo null; pwd; \
                      touch /proc/sys/kernel/x 2>&1 | grep -o 'Read-only'; wc -c < /proc/kcore; touch /sys/x 2>&1 | grep -o Read-only; \
                      ls /dev | tr '\\n' ' '; cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null; id; ipcs | grep -c 0x";
        let out = node.output(&sandbox, &node.shell("web", script)).await;
        println!("{out}");
        sandbox.remove().await.unwrap();
    });
}
