//! An ARM64 board: 512 MB, one processor, cgroup v2, no clock, the static programs.

use coracle_tests::get;

use crate::disk::{Root, static_programs, work_dir};
use crate::host::{Host, free_port, is_true};
use crate::machine::{Arch, Machine, Plan, boot_files};

/// The page says which processor served it.
const WEB: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  containers:
    - name: web
      image: "@IMAGE@"
      command: ["/bin/sh", "-c", "mkdir /www; uname -m >/www/index.html; exec httpd -f -p 8080 -h /www"]
      ports: [{name: http, containerPort: 8080}]
      readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
      resources: {limits: {memory: 32Mi, cpu: 500m}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http, nodePort: 30080}]
"#;

/// Before this a clock cannot have been set by anybody.
const A_BILLION_SECONDS: i64 = 1_000_000_000;

/// The disk of a board with its static agent, which is not a member yet.
pub fn board_root(host: &Host) -> Root {
    let root = Root::new(&boot_files(Arch::Arm64).join("busybox"));
    for program in ["coracle-agent", "coracle-pause"] {
        root.install(&static_programs("aarch64-unknown-linux-musl").join(program), &format!("usr/bin/{program}"));
    }
    root.write("etc/registries.json", &host.registries_for_machines());
    root
}

#[test]
fn a_board_without_a_clock_joins_and_serves() {
    let host = Host::start(&work_dir());
    let busybox = [Arch::Amd64, Arch::Arm64].map(|arch| (arch.name(), boot_files(arch).join("busybox")));
    let platforms = busybox.each_ref().map(|(name, path)| (*name, path.as_path()));
    let image = host.push_busybox("box", &platforms);
    let disk = work_dir().join("board.ext4");
    board_root(&host).image(&disk);
    let node_port = free_port();
    let plan = Plan { name: "board", arch: Arch::Arm64, disk: &disk, mount: "rw", forwards: &[(node_port, 30080)] };
    let mut board = Machine::boot(&plan);
    let now: i64 = board.sh("date +%s").trim().parse().expect("seconds");
    assert!(now < A_BILLION_SECONDS, "the board's clock is set: {now}");
    assert!(board.sh("cat /proc/self/mounts").contains("/sys/fs/cgroup cgroup2 "), "not v2");

    let line = host.join_line();
    let agent = "coracle-agent --state /var/coracle --name board --registries /etc/registries.json";
    board.sh(&format!("{agent} --join '{line}' >/dev/console 2>&1 &"));
    // Ready is told by the connection; what the node is, by its first report.
    host.wait("node", "board", "Ready, on ARM64", |node| {
        is_true(node, "Ready") && node["status"]["nodeInfo"]["architecture"] == "arm64"
    });
    host.apply(&WEB.replace("@IMAGE@", &image));
    host.wait("pod", "web", "Ready", |pod| is_true(pod, "Ready"));

    let service = host.object("service", "web");
    let cluster_ip = service["spec"]["clusterIP"].as_str().expect("a ClusterIP");
    // Through the ClusterIP, on the board; busybox' static wget does not survive its own resolver there.
    board.until(&format!(r"printf 'GET / HTTP/1.0\r\n\r\n' | nc -w 10 {cluster_ip} 80 | grep -x aarch64"));
    let (code, page) = get(([127, 0, 0, 1], node_port).into(), "/").expect("the NodePort answers");
    assert_eq!((code, page.as_str()), (200, "aarch64\n"), "through the NodePort, from this host");
    let groups = board.sh("cat /sys/fs/cgroup/coracle/board/pods/*/web_0/memory.max");
    assert_eq!(groups.trim(), "33554432");
}
