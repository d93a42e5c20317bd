//! A throw-away node: run directory, cgroup, layers of busybox; and the proof that nothing is left.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};

use coracle_agent::runtime::*;
use coracle_shared::ids::PodUid;

pub struct Node {
    pub dir: PathBuf,
    pub name: String,
    pub runtime: Runtime,
    pub executor: Arc<smol::Executor<'static>>,
    pub layers: Vec<PathBuf>,
}

/// Runs a test on a node of its own and checks that it leaves nothing.
pub fn run<F: AsyncFnOnce(&Node)>(name: &str, test: F) {
    assert!(rustix::process::geteuid().is_root(), "these tests make namespaces and cgroups: run them as root");
    let node = Node::new(name);
    let executor = node.executor.clone();
    let body = std::panic::AssertUnwindSafe(|| smol::block_on(executor.run(test(&node))));
    if let Err(panic) = std::panic::catch_unwind(body) {
        node.abandon();
        std::panic::resume_unwind(panic);
    }
    node.assert_clean();
}

impl Node {
    fn new(name: &str) -> Node {
        let dir = std::env::temp_dir().join(format!("coracle-runtime-{}-{name}", std::process::id()));
        let layers = vec![layer(&dir, "top"), layer(&dir, "base")];
        let executor = Arc::new(smol::Executor::new());
        let name = format!("test-{}-{name}", std::process::id());
        let runtime = Runtime::new(config(&dir, &name), executor.clone()).expect("a runtime");
        for finding in runtime.findings() {
            println!("{}: {}", finding.what, finding.mend);
        }
        Node { dir, name, runtime, executor, layers }
    }

    /// What an agent's restart makes: nothing in memory is taken over.
    pub fn restart(&self) -> Runtime {
        Runtime::new(config(&self.dir, &self.name), self.executor.clone()).expect("a runtime")
    }

    /// The same after another boot.
    pub fn restart_as(&self, boot_id: &str) -> Runtime {
        let config = RuntimeConfig { boot_id: boot_id.into(), ..config(&self.dir, &self.name) };
        Runtime::new(config, self.executor.clone()).expect("a runtime")
    }

    pub fn sandbox_spec(&self, uid: &str) -> SandboxSpec {
        SandboxSpec {
            uid: PodUid(uid.into()),
            namespace: "default".into(),
            name: format!("pod-{uid}"),
            hostname: Some(format!("host-{uid}")),
            network: Network::New,
            host_pid: false,
            host_ipc: false,
            share_shm: false,
            sysctls: Vec::new(),
            resources: Resources::default(),
            note: b"note".to_vec(),
        }
    }

    pub async fn sandbox(&self, uid: &str) -> Sandbox {
        self.runtime.create_sandbox(&self.sandbox_spec(uid)).await.expect("a sandbox")
    }

    pub fn shell(&self, name: &str, script: &str) -> ContainerSpec {
        self.command(name, &["/bin/sh", "-c", script])
    }

    pub fn command(&self, name: &str, argv: &[&str]) -> ContainerSpec {
        ContainerSpec {
            id: ContainerId { name: name.into(), attempt: 0 },
            rootfs: Rootfs::Overlay { lowers: self.layers.clone(), upper: self.dir.join("upper") },
            argv: argv.iter().map(|a| a.to_string()).collect(),
            env: vec![("PATH".into(), "/bin".into())],
            cwd: String::new(),
            user: User::default(),
            mounts: Vec::new(),
            security: Security::default(),
            resources: Resources::default(),
            log: LogSpec { path: self.dir.join(format!("logs/{name}/0.log")), max_bytes: 1 << 20, max_files: 3 },
            stdin: false,
            termination_message_path: Some("/dev/termination-log".into()),
        }
    }

    /// Runs a container to its end and gives what it wrote, without the log's own words.
    pub async fn output(&self, sandbox: &Sandbox, spec: &ContainerSpec) -> String {
        sandbox.start_container(spec).await.unwrap_or_else(|e| panic!("{e}"));
        sandbox.wait(&spec.id).await.unwrap();
        let text = text_of(&spec.log.path);
        sandbox.remove_container(&spec.id).await.unwrap();
        let _ = fs::remove_dir_all(spec.log.path.parent().unwrap());
        text
    }

    /// After a failure: ends what still runs and removes what goes.
    fn abandon(&self) {
        for dir in cgroup_roots(&self.name) {
            let procs = fs::read_to_string(dir.join("pause/cgroup.procs")).unwrap_or_default();
            for pid in procs.lines().filter_map(|p| rustix::process::Pid::from_raw(p.parse().ok()?)) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(300));
        for dir in cgroup_roots(&self.name) {
            let _ = Command::new("find").arg(dir).args(["-depth", "-type", "d", "-exec", "rmdir", "{}", ";"]).status();
        }
        let _ = fs::remove_dir_all(&self.dir);
    }

    /// Every process, mount and cgroup of this node must be gone, but for its empty roots.
    fn assert_clean(&self) {
        let mut left = Vec::new();
        let here = self.dir.to_string_lossy().into_owned();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        left.extend(mounts.lines().filter(|l| l.contains(&here)).map(|l| format!("mount {l}")));
        for dir in cgroup_roots(&self.name) {
            for group in ["pods", "pause"] {
                let procs = fs::read_to_string(dir.join(group).join("cgroup.procs")).unwrap();
                left.extend(procs.lines().map(|p| format!("process {p} in {group}")));
                let below = fs::read_dir(dir.join(group)).unwrap().flatten();
                left.extend(below.filter(|e| e.path().is_dir()).map(|e| format!("cgroup {:?}", e.path())));
            }
        }
        let pods = fs::read_dir(self.dir.join("run/pods")).unwrap();
        left.extend(pods.flatten().map(|e| format!("directory {:?}", e.path())));
        let uppers = fs::read_dir(self.dir.join("upper")).into_iter().flatten().flatten();
        left.extend(uppers.map(|e| format!("upper {:?}", e.path())));
        assert!(left.is_empty(), "left behind: {left:#?}");
        for dir in cgroup_roots(&self.name) {
            for group in ["pods", "pause", "agent", ""] {
                fs::remove_dir(dir.join(group)).unwrap();
            }
        }
        fs::remove_dir_all(&self.dir).unwrap();
    }
}

/// The content of a log, its lines joined.
pub fn text_of(path: &Path) -> String {
    let log = fs::read_to_string(path).unwrap_or_default();
    log.lines().map(|l| l.splitn(4, ' ').nth(3).unwrap_or_default().to_string() + "\n").collect()
}

fn config(dir: &Path, node: &str) -> RuntimeConfig {
    RuntimeConfig {
        run_dir: dir.join("run"),
        pause_path: pause_program().to_path_buf(),
        cgroup_root: "/".into(),
        node: node.into(),
        boot_id: fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().into(),
        log_budget: 64 << 20,
    }
}

/// Where this node's groups are, in every hierarchy.
pub fn cgroup_roots(node: &str) -> Vec<PathBuf> {
    fn find(dir: &Path, node: &str, depth: u32, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if !entry.file_type().is_ok_and(|t| t.is_dir()) {
                continue;
            }
            if entry.file_name() == *node {
                found.push(path);
            } else if depth > 0 {
                find(&path, node, depth - 1, found);
            }
        }
    }
    let mut found = Vec::new();
    find(Path::new("/sys/fs/cgroup"), node, 4, &mut found);
    found
}

pub fn pause_program() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        if let Some(path) = std::env::var_os("CORACLE_PAUSE") {
            return path.into();
        }
        let status = Command::new(env!("CARGO")).args(["build", "-q", "-p", "coracle-pause"]).status().unwrap();
        assert!(status.success(), "coracle-pause does not build");
        // …/target/debug/deps/runtime-HASH
        let own = std::env::current_exe().unwrap();
        own.parent().unwrap().parent().unwrap().join("coracle-pause")
    })
}

/// A layer: the base has busybox, the top one a file that hides the base's.
fn layer(dir: &Path, name: &str) -> PathBuf {
    let root = dir.join("layers").join(name);
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::write(root.join("etc/layer"), format!("{name}\n")).unwrap();
    if name == "base" {
        for dir in ["bin", "proc", "sys", "dev", "tmp", "root"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        fs::copy(busybox(), root.join("bin/busybox")).unwrap();
        let list = Command::new(busybox()).arg("--list").output().unwrap();
        for applet in String::from_utf8(list.stdout).unwrap().lines().filter(|a| *a != "busybox") {
            symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/tmp:/bin/sh\n").unwrap();
        fs::write(root.join("etc/group"), "root:x:0:\nweb:x:34:\nlog:x:40:web\n").unwrap();
    }
    root
}

fn busybox() -> PathBuf {
    let found = ["/bin/busybox", "/usr/bin/busybox"].iter().map(PathBuf::from).find(|p| p.exists());
    found.expect("busybox: scripts/test.sh installs the package busybox-static")
}
