//! Containers for real: namespaces, mounts, cgroups, seccomp, logs, and what a crash leaves.
//!
//! Needs root and a static busybox (`busybox-static`), both of which `scripts/test.sh` sees to;
//! without them these tests fail. They run on cgroup v1, hybrid and v2. `CORACLE_PAUSE` names a
//! ready-made pause program; otherwise it is built.

mod support;

use std::fs;

use coracle_agent::runtime::*;
use coracle_shared::ids::PodUid;
use futures_lite::{AsyncReadExt, AsyncWriteExt};
use support::{Node, run, text_of};

fn bind(path: &std::path::Path, target: &str) -> Mount {
    let source = MountSource::Bind { path: path.into(), sub_path: None, propagation: Propagation::None };
    Mount { target: target.into(), source, read_only: false }
}

/// `Name:\tVALUE` out of `/proc/self/status`.
fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {status:?}")).trim()
}

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
        assert!(matches!(sandbox.start_container(&spec).await, Err(Error::Io { .. })), "an id is used once");
        sandbox.remove_container(&spec.id).await.unwrap();
        assert!(sandbox.containers().is_empty());
        sandbox.remove().await.unwrap();
    });
}

#[test]
fn a_container_sees_only_its_own() {
    run("isolation", async |node: &Node| {
        let sandbox = node.sandbox("a").await;
        let script = "hostname; echo $$; ls -d /proc/[0-9]* | wc -l; cut -d: -f3 /proc/self/cgroup | sort -u; \
                      ls /sys/class/net; cat /etc/layer; pwd; ls / | tr '\\n' ' '";
        let out = node.output(&sandbox, &node.shell("web", script)).await;
        let lines: Vec<_> = out.lines().collect();
        // On v1, hierarchies that limit nothing keep the pause's group.
        assert_eq!(&lines[..2], ["host-a", "1"]);
        // The shell and what it runs for this line.
        assert!(lines[2].parse::<u32>().unwrap() <= 3, "{out}");
        assert!(lines[3].starts_with('/') && out.contains("\nlo\ntop\n/\n"), "{out}");
        assert_eq!(*lines.last().unwrap(), "bin dev etc proc root sys tmp ");
        let own = ["ipc", "net", "uts", "pid", "mnt", "cgroup"].map(|ns| format!("readlink /proc/self/ns/{ns}; "));
        let out = node.output(&sandbox, &node.shell("ns", &own.concat())).await;
        for line in out.lines() {
            let kind = line.split(':').next().unwrap();
            let here = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
            assert_ne!(here.to_str().unwrap(), line, "shares the {kind} namespace");
        }
        assert_eq!(out.lines().count(), 6);
        sandbox.remove().await.unwrap();
    });
}

#[test]
fn nothing_of_the_node_can_be_reached_or_changed() {
    run("confined", async |node: &Node| {
        let sandbox = node.sandbox("a").await;
        let disk = fs::read_to_string("/proc/partitions").unwrap();
        let disk: Vec<&str> = disk.lines().nth(2).unwrap().split_whitespace().collect();
        let script = format!(
            "for f in /proc/sys/kernel/hostname /sys/kernel/x /sys/fs/cgroup/x; do echo > $f; done 2>&1 | grep -c 'Read-only\\|nonexistent'; \
             ls /sys/firmware /proc/acpi 2>/dev/null | grep -v : | grep -c . ; \
             mknod /tmp/disk b {} {} && head -c1 /tmp/disk 2>&1; mount -t tmpfs x /tmp 2>&1 | grep -c . ; \
             ls /proc/self/fd | tr '\\n' ' '; echo; head -c4 /dev/zero | wc -c; ls -lL /dev/ptmx | cut -c1-10",
            disk[0], disk[1]
        );
        let out = node.output(&sandbox, &node.shell("web", &script)).await;
        // The fourth descriptor is that of ls itself.
        let expect = "3\n0\nhead: /tmp/disk: Permission denied\n1\n0 1 2 3 \n4\ncrw-rw-rw-\n";
        assert_eq!(out, expect);
        sandbox.remove().await.unwrap();
    });
}

#[test]
fn privileges_are_what_was_asked_for() {
    run("privileges", async |node: &Node| {
        let sandbox = node.sandbox("a").await;
        let mut number = 0;
        let mut check = async |security: Security, user: User, expect: [&str; 5]| {
            number += 1;
            let mut spec = node.shell(&format!("c{number}"), "cat /proc/self/status");
            (spec.security, spec.user) = (security.clone(), user);
            let out = node.output(&sandbox, &spec).await;
            let found = ["CapEff", "CapBnd", "CapInh", "NoNewPrivs", "Seccomp"].map(|n| field(&out, n));
            assert_eq!(found, expect, "{security:?}");
        };
        let default = "00000000a80425fb";
        let none = "0000000000000000";
        let list = |names: &[&str]| names.iter().map(|n| n.to_string()).collect::<Vec<_>>();
        check(Security::default(), User::default(), [default, default, none, "0", "2"]).await;
        let web = User { uid: 33, gid: 34, groups: vec![40] };
        check(Security::default(), web.clone(), [none, default, none, "0", "2"]).await;
        let restricted = Security {
            drop_capabilities: list(&["ALL"]),
            add_capabilities: list(&["NET_BIND_SERVICE"]),
            no_new_privileges: true,
            ..Security::default()
        };
        let bind = "0000000000000400";
        check(restricted, User::default(), [bind, bind, none, "1", "2"]).await;
        let unconfined = Security { seccomp: Seccomp::Unconfined, ..Security::default() };
        check(unconfined, User::default(), [default, default, none, "0", "0"]).await;
        let own = fs::read_to_string("/proc/self/status").unwrap();
        let all = field(&own, "CapEff");
        let privileged = Security { privileged: true, ..Security::default() };
        check(privileged, User::default(), [all, all, none, "0", "0"]).await;
        let mut spec = node.shell("user", "id -u; id -g; id -G; echo $HOME; touch /tmp/x && stat -c %u:%g:%a /tmp/x");
        spec.user = resolve_user(&node.layers, "web").unwrap();
        let out = node.output(&sandbox, &spec).await;
        assert_eq!(out, "33\n34\n34 40\n/tmp\n33:34:644\n");
        sandbox.remove().await.unwrap();
    });
}

#[test]
fn seccomp_answers_for_the_calls_it_stops() {
    run("seccomp", async |node: &Node| {
        let sandbox = node.sandbox("a").await;
        let out = node.output(&sandbox, &node.shell("a", "unshare -U true 2>&1; echo $?")).await;
        assert!(out.contains("Operation not permitted\n1\n"), "{out}");
        let mut spec = node.shell("b", "unshare -m true 2>&1; echo $?");
        spec.security.add_capabilities = vec!["SYS_ADMIN".into()];
        assert_eq!(node.output(&sandbox, &spec).await, "0\n");
        sandbox.remove().await.unwrap();
    });
}

#[test]
fn limits_hold_and_oom_is_told() {
    run("limits", async |node: &Node| {
        let sandbox = node.sandbox("a").await;
        let mut spec = node.shell("memory", "x=0123456789; while [ ${#x} -lt 300000000 ]; do x=$x$x; done");
        spec.resources.memory_limit_bytes = Some(16 << 20);
        sandbox.start_container(&spec).await.unwrap();
        let exit = sandbox.wait(&spec.id).await.unwrap().exit.unwrap();
        assert_eq!((exit.code, exit.signal, exit.oom_killed), (137, Some(9), true));
        let mut spec = node.shell("pids", "for i in 1 2 3 4 5 6 7 8; do sleep 60 & done; echo started");
        spec.resources.pids_limit = Some(4);
        let out = node.output(&sandbox, &spec).await;
        assert!(out.contains("can't fork") && !out.contains("started"), "{out}");
        let mut spec = node.shell(
            "cpu",
            "cat /sys/fs/cgroup/cpu*/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max /sys/fs/cgroup/cpu*/cpu.shares 2>/dev/null",
        );
        spec.resources.cpu_limit_millis = Some(250);
        spec.resources.cpu_request_millis = Some(100);
        let out = node.output(&sandbox, &spec).await;
        assert!(out.starts_with("25000\n102\n") || out.starts_with("25000 100000\n"), "{out}");
        sandbox.remove().await.unwrap();
    });
}

#[test]
fn limits_change_in_place() {
    run("update", async |node: &Node| {
        let sandbox = node.sandbox("a").await;
        let spec = node.shell("web", "sleep 1000");
        sandbox.start_container(&spec).await.unwrap();
        let limits = Resources { pids_limit: Some(7), ..Resources::default() };
        sandbox.update(&spec.id, &limits).await.unwrap();
        let found = support::cgroup_roots(&node.name)
            .iter()
            .any(|dir| fs::read_to_string(dir.join("pods/a/web_0/pids.max")).is_ok_and(|t| t.trim() == "7"));
        assert!(found);
        sandbox.remove().await.unwrap();
    });
}

#[test]
fn volumes_are_where_they_should_be() {
    run("volumes", async |node: &Node| {
        let sandbox = node.sandbox("a").await;
        let volume = node.dir.join("volume");
        fs::create_dir_all(volume.join("sub")).unwrap();
        fs::write(volume.join("sub/file"), "inside\n").unwrap();
        fs::create_dir_all(volume.join("etc")).unwrap();
        std::os::unix::fs::symlink("/etc", volume.join("out")).unwrap();
        let mut spec = node.shell(
            "web",
            "cat /data/sub/file /one/file /f; echo new > /data/new && cat /data/new; touch /one/x 2>&1 | grep -c Read-only; \
             df -k /scratch | tail -1 | awk '{print $2}'; touch /x 2>&1 | grep -c Read-only; ls -d /made /out/* ",
        );
        let sub = |path: &str, target: &str| Mount {
            target: target.into(),
            source: MountSource::Bind {
                path: volume.clone(),
                sub_path: Some(path.into()),
                propagation: Propagation::None,
            },
            read_only: true,
        };
        let scratch = MountSource::Tmpfs { size: Some(1 << 20), mode: 0o1777 };
        spec.mounts = vec![
            bind(&volume, "/data"),
            sub("sub", "/one"),
            bind(&volume.join("sub/file"), "/f"),
            Mount { target: "/scratch".into(), source: scratch, read_only: false },
            sub("a/b/c", "/made"),
            // A link that leads out of the volume stays in it.
            sub("out", "/out"),
        ];
        spec.security.read_only_root = true;
        // Its targets must be there: a read-only root takes none afterwards, but they are made before.
        let out = node.output(&sandbox, &spec).await;
        assert!(out.starts_with("inside\ninside\ninside\nnew\n1\n1024\n1\n"), "{out}");
        assert!(out.contains("/made") && !out.contains("/out/passwd"), "{out}");
        assert!(volume.join("a/b/c").is_dir());
        sandbox.remove().await.unwrap();
    });
}

#[test]
fn a_working_directory_is_made() {
    run("cwd", async |node: &Node| {
        let sandbox = node.sandbox("a").await;
        let mut spec = node.shell("web", "pwd; umask; ulimit -c >/dev/null; echo $PATH $NAME");
        spec.cwd = "/srv/deep/er".into();
        spec.env = vec![("NAME".into(), "a b".into())];
        let out = node.output(&sandbox, &spec).await;
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        assert_eq!(out, format!("/srv/deep/er\n0022\n{path} a b\n"));
        sandbox.remove().await.unwrap();
    });
}

#[test]
fn a_container_that_cannot_start_says_why_and_leaves_nothing() {
    run("failures", async |node: &Node| {
        let sandbox = node.sandbox("a").await;
        let check = async |spec: ContainerSpec, stage: &str, errno: i32| {
            match sandbox.start_container(&spec).await {
                Err(Error::Start { stage: at, source, .. }) => {
                    assert_eq!((at.as_str(), source.raw_os_error()), (stage, Some(errno)));
                }
                other => panic!("{other:?}"),
            }
            assert!(sandbox.containers().is_empty());
        };
        check(node.command("a", &["/no/such"]), "exec", libc::ENOENT).await;
        check(node.command("b", &["nosuch"]), "exec", libc::ENOENT).await;
        check(node.command("c", &["/etc/passwd"]), "exec", libc::EACCES).await;
        let mut spec = node.shell("d", "true");
        spec.mounts = vec![bind(&node.dir.join("missing"), "/data")];
        check(spec, "mount source", libc::ENOENT).await;
        let mut spec = node.shell("e", "true");
        spec.cwd = "/etc/passwd".into();
        check(spec, "working directory", libc::ENOTDIR).await;
        let none = node.command("f", &[]);
        assert!(matches!(sandbox.start_container(&none).await, Err(Error::Invalid(_))));
        // The same id may be used again: nothing of the failure is left.
        assert_eq!(node.output(&sandbox, &node.shell("a", "echo fine")).await, "fine\n");
        sandbox.remove().await.unwrap();
    });
}

async fn read(mut file: smol::Async<fs::File>) -> String {
    let mut text = String::new();
    file.read_to_string(&mut text).await.unwrap();
    text
}

#[test]
fn exec_runs_beside_the_container() {
    run("exec", async |node: &Node| {
        let sandbox = node.sandbox("a").await;
        let mut spec = node.shell("web", "sleep 1000");
        spec.env.push(("WHO".into(), "container".into()));
        spec.user = User { uid: 33, gid: 34, groups: vec![40] };
        sandbox.start_container(&spec).await.unwrap();
        let exec = |script: &str, stdin: bool| ExecSpec {
            container: spec.id.clone(),
            argv: ["/bin/sh", "-c", script].map(String::from).into(),
            env: None,
            stdin,
        };
        let mut running = sandbox.exec(&exec("cat; echo $WHO >&2; exit 7", true)).await.unwrap();
        let mut stdin = running.stdin.take().unwrap();
        stdin.write_all(b"through").await.unwrap();
        drop(stdin);
        let exit = running.wait().await.unwrap();
        assert_eq!((exit.code, exit.signal), (7, None));
        assert_eq!((read(running.stdout).await, read(running.stderr).await), ("through".into(), "container\n".into()));
        let listing = sandbox.exec(&exec("ls / | tr '\\n' ' '", false)).await.unwrap();
        listing.wait().await.unwrap();
        assert_eq!(read(listing.stdout).await, "bin dev etc proc root sys tmp ");
        // As confined as the container, and in its namespaces and cgroup.
        let script = "grep -h 'Cap[EB]\\|Seccomp:\\|^Uid' /proc/self/status /proc/1/status | sort | uniq -c | grep -vc '^ *2 '; \
                      ps | grep -c 'sleep 1000'; cat /proc/self/cgroup > /tmp/a; diff /tmp/a /proc/1/cgroup && echo same";
        let running = sandbox.exec(&exec(script, false)).await.unwrap();
        running.wait().await.unwrap();
        let out = read(running.stdout).await;
        assert!(out.starts_with("0\n") && out.ends_with("same\n"), "{out}");
        for (argv, errno) in [("/no/such", libc::ENOENT), ("/etc/passwd", libc::EACCES)] {
            let spec = ExecSpec { container: spec.id.clone(), argv: vec![argv.into()], env: None, stdin: false };
            match sandbox.exec(&spec).await {
                Err(Error::Start { stage, source, .. }) => {
                    assert_eq!((stage.as_str(), source.raw_os_error()), ("exec", Some(errno)));
                }
                _ => panic!("ran {argv}"),
            }
        }
        // The container's end is the exec's end, and afterwards there is nothing to run in.
        let running = sandbox.exec(&exec("sleep 1000", false)).await.unwrap();
        sandbox.kill(&spec.id).await.unwrap();
        assert_eq!(running.wait().await.unwrap().signal, Some(9));
        assert!(matches!(sandbox.exec(&exec("true", false)).await, Err(Error::NotFound(_))));
        sandbox.remove().await.unwrap();
    });
}

/// The tests of confinement again, by a node whose root is not that of its mount namespace.
#[test]
fn a_node_in_a_chroot_confines_as_well() {
    let dir = tempfile::tempdir().unwrap();
    // Everything of the machine at another place, under the same paths inside.
    let script = "mount --make-rprivate / && mount --rbind / \"$0\" && exec chroot \"$0\" \"$@\"";
    let mut command = std::process::Command::new("unshare");
    command.env("CORACLE_PAUSE", support::pause_program());
    command.args(["--mount", "sh", "-c", script]).arg(dir.path()).arg(std::env::current_exe().unwrap());
    command.args(["--exact", "exec_runs_beside_the_container", "a_container_sees_only_its_own"]);
    let output = command.output().unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && out.contains("2 passed"), "{out}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_signal_reaches_the_containers_process() {
    run("signal", async |node: &Node| {
        let sandbox = node.sandbox("a").await;
        let spec = node.shell("web", "trap 'echo bye; exit 5' TERM; echo ready; while true; do sleep 0.1; done");
        sandbox.start_container(&spec).await.unwrap();
        wait_for_text(&spec, "ready\n").await;
        sandbox.signal(&spec.id, libc::SIGTERM).await.unwrap();
        let exit = sandbox.wait(&spec.id).await.unwrap().exit.unwrap();
        assert_eq!((exit.code, text_of(&spec.log.path).as_str()), (5, "ready\nbye\n"));
        sandbox.signal(&spec.id, libc::SIGTERM).await.unwrap();
        let unknown = ContainerId { name: "other".into(), attempt: 0 };
        assert!(matches!(sandbox.signal(&unknown, 15).await, Err(Error::NotFound(_))));
        sandbox.remove().await.unwrap();
    });
}

/// Follows the log until it is `text`.
async fn wait_for_text(spec: &ContainerSpec, text: &str) {
    let (_running, ended) = async_channel::bounded::<()>(1);
    let query = LogQuery { follow: true, ..LogQuery::default() };
    let mut reader = LogReader::new(&spec.log.path, query, ended);
    let mut seen = String::new();
    while !seen.contains(text) {
        seen += &String::from_utf8(reader.next().await.unwrap().unwrap()).unwrap();
    }
}

#[test]
fn a_termination_message_is_kept() {
    run("message", async |node: &Node| {
        let sandbox = node.sandbox("a").await;
        let mut spec = node.shell("web", "echo because > /dev/termination-log");
        spec.user = User { uid: 33, gid: 34, groups: Vec::new() };
        sandbox.start_container(&spec).await.unwrap();
        sandbox.wait(&spec.id).await.unwrap();
        assert_eq!(sandbox.termination_message(&spec.id).await, "because\n");
        let unknown = ContainerId { name: "other".into(), attempt: 0 };
        assert_eq!(sandbox.termination_message(&unknown).await, "");
        sandbox.remove().await.unwrap();
    });
}

#[test]
fn logs_are_rotated_within_their_bound() {
    run("rotation", async |node: &Node| {
        let sandbox = node.sandbox("a").await;
        let mut spec = node.shell("web", "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done");
        (spec.log.max_bytes, spec.log.max_files) = (32 << 10, 3);
        sandbox.start_container(&spec).await.unwrap();
        sandbox.wait(&spec.id).await.unwrap();
        let dir = spec.log.path.parent().unwrap();
        let files: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap()).collect();
        assert_eq!(files.len(), 3);
        assert!(files.iter().all(|f| f.metadata().unwrap().len() <= 32 << 10));
        let (_running, ended) = async_channel::bounded::<()>(1);
        let query = LogQuery { tail: Some(1000), ..LogQuery::default() };
        let mut reader = LogReader::new(&spec.log.path, query, ended);
        let mut all = String::new();
        while let Some(chunk) = reader.next().await {
            all += &String::from_utf8(chunk.unwrap()).unwrap();
        }
        let expect: String = (2000..3000).map(|i| format!("line {i}\n")).collect();
        assert_eq!(all, expect);
        sandbox.remove().await.unwrap();
    });
}

#[test]
fn pods_outlive_their_agent_and_nothing_is_missed() {
    run("adopt", async |node: &Node| {
        let sandbox = node.sandbox("a").await;
        let counting =
            node.shell("count", "i=0; while [ $i -lt 40 ]; do echo $i; i=$((i+1)); sleep 0.02; done; exit 4");
        let staying = node.shell("stay", "sleep 1000");
        sandbox.start_container(&counting).await.unwrap();
        sandbox.start_container(&staying).await.unwrap();
        let (pid, before) = (sandbox.pid(), sandbox.containers());
        drop(sandbox);

        let runtime = node.restart();
        let found = runtime.adopt().await.unwrap();
        assert_eq!(found.len(), 1);
        let sandbox = &found[0];
        assert!(sandbox.is_alive());
        assert_eq!((sandbox.uid().0.as_str(), sandbox.note(), sandbox.pid()), ("a", &b"note"[..], pid));
        assert_eq!(
            sandbox.containers().iter().map(|c| c.started_at).collect::<Vec<_>>(),
            before.iter().map(|c| c.started_at).collect::<Vec<_>>()
        );
        let exit = sandbox.wait(&counting.id).await.unwrap().exit.unwrap();
        assert_eq!((exit.code, exit.lost), (4, false));
        let expect: String = (0..40).map(|i| format!("{i}\n")).collect();
        assert_eq!(text_of(&counting.log.path), expect);

        // Ends while no agent is there.
        sandbox.signal(&staying.id, libc::SIGKILL).await.unwrap();
        drop(found);
        let found = node.restart().adopt().await.unwrap();
        let exit = found[0].wait(&staying.id).await.unwrap().exit.unwrap();
        assert_eq!((exit.signal, exit.lost), (Some(9), false));
        found[0].remove().await.unwrap();
        assert!(node.restart().adopt().await.unwrap().is_empty());
    });
}

#[test]
fn a_killed_pause_takes_its_containers_with_it() {
    run("pause-killed", async |node: &Node| {
        let sandbox = node.sandbox("a").await;
        let done = node.shell("done", "exit 2");
        let running = node.shell("web", "sleep 1000 & sleep 1000");
        sandbox.start_container(&done).await.unwrap();
        sandbox.wait(&done.id).await.unwrap();
        sandbox.start_container(&running).await.unwrap();
        let pid = rustix::process::Pid::from_raw(sandbox.pid() as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        let exit = sandbox.wait(&running.id).await.unwrap().exit.unwrap();
        assert_eq!((exit.code, exit.lost), (137, true));
        assert!(!sandbox.is_alive());
        assert!(sandbox.processes(&running.id).is_empty());
        assert!(matches!(sandbox.start_container(&done).await, Err(Error::Dead)));
        drop(sandbox);
        let found = node.restart().adopt().await.unwrap();
        assert!(!found[0].is_alive());
        let exits: Vec<_> =
            found[0].containers().into_iter().map(|c| c.exit.unwrap()).map(|e| (e.code, e.lost)).collect();
        assert_eq!(exits, [(2, false), (137, true)]);
        found[0].remove().await.unwrap();
    });
}

#[test]
fn an_earlier_boot_is_not_taken_for_running() {
    run("boot", async |node: &Node| {
        let sandbox = node.sandbox("a").await;
        let spec = node.shell("web", "sleep 1000");
        sandbox.start_container(&spec).await.unwrap();
        let later = node.restart_as("another-boot");
        let found = later.adopt().await.unwrap();
        assert!(!found[0].is_alive() && found[0].containers()[0].exit.as_ref().unwrap().lost);
        sandbox.remove().await.unwrap();
    });
}

#[test]
fn a_pods_containers_share_what_they_should() {
    run("sharing", async |node: &Node| {
        let spec = SandboxSpec {
            share_shm: true,
            sysctls: vec![("net.ipv4.ip_default_ttl".into(), "77".into())],
            ..node.sandbox_spec("a")
        };
        let sandbox = node.runtime.create_sandbox(&spec).await.unwrap();
        let first = node.shell("first", "echo shared > /dev/shm/x; sleep 1000");
        sandbox.start_container(&first).await.unwrap();
        let script = "while ! grep shared /dev/shm/x 2>/dev/null; do sleep 0.02; done; \
                      cat /proc/sys/net/ipv4/ip_default_ttl; ls -d /proc/[0-9]* | wc -l";
        let out = node.output(&sandbox, &node.shell("second", script)).await;
        assert!(out.starts_with("shared\n77\n"), "{out}");
        sandbox.remove().await.unwrap();
        let bad = SandboxSpec { sysctls: vec![("kernel.panic".into(), "1".into())], ..spec };
        assert!(matches!(node.runtime.create_sandbox(&bad).await, Err(Error::Invalid(_))));
    });
}

#[test]
fn a_host_pid_pod_is_ended_whole() {
    run("host-pid", async |node: &Node| {
        let spec = SandboxSpec { host_pid: true, ..node.sandbox_spec("a") };
        let sandbox = node.runtime.create_sandbox(&spec).await.unwrap();
        let spec = node.shell("web", "sleep 1001 & sleep 1002 & echo $$; sleep 1000");
        sandbox.start_container(&spec).await.unwrap();
        wait_for_text(&spec, "\n").await;
        let pids = sandbox.processes(&spec.id);
        assert!(text_of(&spec.log.path).trim().parse().is_ok_and(|pid: u32| pids.contains(&pid)));
        sandbox.kill(&spec.id).await.unwrap();
        sandbox.remove_container(&spec.id).await.unwrap();
        let again = ContainerSpec { id: ContainerId { attempt: 1, ..spec.id.clone() }, ..spec };
        sandbox.start_container(&again).await.unwrap();
        sandbox.remove().await.unwrap();
    });
}

#[test]
fn a_sandbox_that_cannot_be_leaves_nothing() {
    run("bad-sandbox", async |node: &Node| {
        for uid in ["", "../x", "a/b"] {
            let spec = SandboxSpec { uid: PodUid(uid.into()), ..node.sandbox_spec("a") };
            assert!(matches!(node.runtime.create_sandbox(&spec).await, Err(Error::Invalid(_))));
        }
        let spec = SandboxSpec { sysctls: vec![("net.no.such".into(), "1".into())], ..node.sandbox_spec("a") };
        assert!(matches!(node.runtime.create_sandbox(&spec).await, Err(Error::Start { .. })));
        let sandbox = node.sandbox("a").await;
        assert!(matches!(node.runtime.create_sandbox(&node.sandbox_spec("a")).await, Err(Error::Io { .. })));
        assert!(sandbox.is_alive());
        sandbox.remove().await.unwrap();
    });
}

#[test]
fn a_pause_refuses_what_it_does_not_understand() {
    run("garbage", async |node: &Node| {
        use std::io::{Read, Write};
        let sandbox = node.sandbox("a").await;
        let socket = node.dir.join("run/pods/a/pause.sock");
        for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 64], &[255; 64], &[7, 0, 0, 0, 3, 0, 1, 0, 0, 0, 9]] {
            let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
            stream.write_all(garbage).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            // Closed, or refused in the protocol's own way; never a crash.
            let _ = stream.read_to_end(&mut Vec::new());
        }
        assert_eq!(node.output(&sandbox, &node.shell("web", "echo fine")).await, "fine\n");
        sandbox.remove().await.unwrap();
    });
}
