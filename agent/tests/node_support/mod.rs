//! A node under test: the agent's own `run` in a network namespace of its own, a registry on its
//! loopback, and a server's part played by the test.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use coracle_agent::link::{Desired, LinkState, Streams};
use coracle_agent::node::run::{Options, Uplink, run};
use coracle_images::Sha256;
use coracle_shared::codec;
use coracle_shared::desired::{Body, Cidr, DataItem, ItemId, NodeConfig, PodItem, SetKind};
use coracle_shared::ids::{Generation, PodUid};
use coracle_shared::session::Apply;
use serde_json::{Value, json};

/// How long anything may take on an emulated machine that does much else. Waits end as soon as they can.
pub const PATIENCE: Duration = Duration::from_secs(90);
const INSIDE: &str = "CORACLE_TEST_INSIDE";

/// Runs the calling test again in namespaces of its own. `true` inside them.
pub fn inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        for words in [
            "link set lo up",
            "link add up0 type veth peer name up1",
            "addr add 10.99.0.2/24 dev up0",
            "link set up0 up",
            "link set up1 up",
            "route add default via 10.99.0.1",
        ] {
            let status = Command::new("ip").args(words.split(' ')).status().expect("ip(8) of iproute2");
            assert!(status.success(), "ip {words}");
        }
        return true;
    }
    let exe = std::env::current_exe().expect("this test's own program");
    let status = Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private", "--"])
        .arg(exe)
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .status()
        .expect("unshare(1); these tests need root");
    assert!(status.success(), "{test}: {status}");
    false
}

/// Directories and desired state that outlive the agents of one test.
pub struct Bed {
    dir: tempfile::TempDir,
    pub name: String,
    pub registry: Registry,
    revision: u64,
}

/// A running agent.
pub struct Agent {
    pub desired: Arc<dyn Desired>,
    pub streams: Arc<dyn Streams>,
    stop: async_channel::Sender<()>,
    thread: Option<JoinHandle<()>>,
    socket: PathBuf,
}

impl Bed {
    pub fn new(name: &str) -> Bed {
        // Short: socket paths below it have a limit of 108 bytes.
        let dir = tempfile::Builder::new().prefix("ct").tempdir_in("/dev/shm").expect("a tmpfs");
        let name = format!("{name}-{}", std::process::id());
        Bed { dir, name, registry: Registry::start(), revision: 0 }
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    pub fn start(&self) -> Agent {
        let agent = PathBuf::from(env!("CARGO_BIN_EXE_coracle-agent"));
        let pause = agent.with_file_name("coracle-pause");
        assert!(pause.exists(), "{} is missing: build the workspace first", pause.display());
        let options = Options {
            name: self.name.clone(),
            state: self.path("state"),
            runtime_dir: self.path("run"),
            cgroup_root: PathBuf::from(cgroup_root()),
            pause,
            registries: None,
            program: agent,
        };
        fs::create_dir_all(&options.state).expect("a state directory");
        let socket = options.runtime_dir.join("agent.sock");
        let (stop, stopped) = async_channel::bounded::<()>(1);
        let (offered, offer) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let connect = |desired, streams, _| {
                offered.send((desired, streams)).expect("the test waits for it");
                let state = Arc::new(|| LinkState::Connecting { last: None });
                Uplink { work: Box::pin(std::future::pending()), state }
            };
            run(options, connect, async move { _ = stopped.recv().await }).expect("the node runs");
        });
        let (desired, streams) = offer.recv_timeout(PATIENCE).expect("the node offers its ledger");
        Agent { desired, streams, stop, thread: Some(thread), socket }
    }

    /// Says what the node should be, from now on.
    pub fn tell(&mut self, agent: &Agent, bodies: &[Body], deletes: &[&str]) {
        self.try_to_tell(agent, bodies, deletes).expect("the ledger takes it");
    }

    /// As [`Bed::tell`], with the ledger's answer.
    pub fn try_to_tell(&mut self, agent: &Agent, bodies: &[Body], deletes: &[&str]) -> Result<(), String> {
        self.revision += 1;
        let puts = bodies.iter().map(codec::item).collect();
        let deletes = deletes.iter().map(|id| ItemId((*id).to_owned())).collect();
        let generation = Some(Generation { epoch: 1, revision: self.revision });
        let change = Apply { set: SetKind::Node, puts, deletes, generation, complete: true };
        smol::block_on(agent.desired.apply(change)).map(drop)
    }

    /// Puts the state directory on a card of its own: an ext4 file system in a file of this size, of
    /// which only what is written takes memory.
    pub fn insert_card(&self, megabytes: u64) {
        let (image, state) = (self.path("card"), self.path("state"));
        fs::create_dir_all(&state).expect("a directory");
        fs::File::create(&image).and_then(|f| f.set_len(megabytes << 20)).expect("a file");
        command(&["mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1"], &[&image]);
        command(&["mount", "-o", "loop"], &[&image, &state]);
    }

    /// What a power cut leaves: no process, nothing of the run directory, and the state directory. To
    /// be called without an agent.
    pub fn reboot(&self) {
        self.kill_all();
        let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
        let run = self.path("run");
        let below = mounts.lines().filter_map(|l| l.split(' ').nth(1)).filter(|m| Path::new(m).starts_with(&run));
        below.collect::<Vec<_>>().into_iter().rev().for_each(|m| command(&["umount", "-l"], &[Path::new(m)]));
        fs::remove_dir_all(&run).expect("the run directory");
    }

    /// Ends the processes of all pods.
    fn kill_all(&self) {
        let pods = format!("/{}/", self.name);
        let own = std::process::id().to_string();
        let left = || -> Vec<i32> {
            let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
            let of_pods = entries.filter(|e| {
                let text = |file: &str| fs::read_to_string(e.path().join(file)).unwrap_or_default();
                // On cgroup v2 the dead stay in their group until they are waited for.
                e.file_name() != *own && text("cgroup").contains(&pods) && !text("stat").contains(") Z ")
            });
            of_pods.filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
        };
        eventually("the pods' processes end", || {
            let pids = left();
            for pid in pids.iter().filter_map(|p| rustix::process::Pid::from_raw(*p)) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            pids.is_empty()
        });
    }
}

/// Whatever a test leaves, also when it fails: its pods, the answerer of names, its cgroups.
impl Drop for Bed {
    fn drop(&mut self) {
        let own = i32::try_from(std::process::id()).expect("a process id");
        let mut roots = std::collections::BTreeSet::new();
        for (mount, below) in cgroups("/proc/self/cgroup") {
            // This process entered `ROOT/NODE/agent`.
            let Some(at) = below.find(&cgroup_root()) else { continue };
            let parent = PathBuf::from(format!("/sys/fs/cgroup/{mount}{}", &below[..at]));
            let _ = fs::write(parent.join("cgroup.procs"), own.to_string());
            roots.insert(parent.join(&cgroup_root()[1..]));
        }
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
            let cgroup = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
            if pid != own && cgroup.contains(&cgroup_root()) {
                let pid = rustix::process::Pid::from_raw(pid).expect("a process id");
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        roots.iter().for_each(|root| remove_groups(root));
    }
}

fn cgroup_root() -> String {
    format!("/coracle-test-{}", std::process::id())
}

/// (hierarchy's mount below /sys/fs/cgroup, path) of each line.
fn cgroups(file: &str) -> Vec<(String, String)> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = |l: &str| {
        let mut parts = l.splitn(3, ':');
        let (_, names, path) = (parts.next()?, parts.next()?, parts.next()?);
        let mount = match names.strip_prefix("name=") {
            Some(name) => name.to_owned(),
            None if names.is_empty() && Path::new("/sys/fs/cgroup/unified").exists() => "unified".to_owned(),
            None => names.to_owned(),
        };
        Some((mount, path.to_owned()))
    };
    text.lines().filter_map(line).collect()
}

/// Empty once what was in them has ended; the kernel takes a moment for that.
fn remove_groups(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_groups(&entry.path());
        }
    }
    let end = Instant::now() + PATIENCE;
    while fs::remove_dir(dir).is_err_and(|e| e.kind() == std::io::ErrorKind::ResourceBusy) && Instant::now() < end {
        std::thread::yield_now();
    }
}

/// Runs a program that has to succeed.
pub fn command(words: &[&str], paths: &[&Path]) {
    let status = Command::new(words[0]).args(&words[1..]).args(paths).status();
    assert!(status.as_ref().is_ok_and(|s| s.success()), "{words:?} {paths:?}: {status:?}");
}

impl Agent {
    /// The reasons of what is wrong with the node.
    pub fn wrong(&self) -> Vec<String> {
        let answer = self.ask("{\"command\":\"status\"}\n").unwrap_or_default();
        let all = answer["conditions"].as_array().into_iter().flatten();
        all.filter_map(|c| Some(format!("{}/{}", c["type"].as_str()?, c["reason"].as_str()?))).collect()
    }

    fn ask(&self, question: &str) -> std::io::Result<Value> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.write_all(question.as_bytes())?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }

    /// `CONTAINER=STATE` of every container of a pod, or nothing.
    pub fn shown(&self, pod: &str) -> String {
        let answer = self.ask("{\"command\":\"ps\"}\n").unwrap_or_default();
        let pods = answer["pods"].as_array().cloned().unwrap_or_default();
        let Some(pod) = pods.iter().find(|p| p["name"] == pod) else { return String::new() };
        let words = pod["containers"].as_array().into_iter().flatten();
        let word = |c: &Value| format!("{}={}", c["name"].as_str().unwrap_or(""), c["state"].as_str().unwrap_or(""));
        format!("{} {}", pod["phase"].as_str().unwrap_or(""), words.map(word).collect::<Vec<_>>().join(" "))
    }

    pub fn pod(&self, pod: &str) -> Value {
        let answer = self.ask("{\"command\":\"ps\"}\n").unwrap_or_default();
        answer["pods"].as_array().into_iter().flatten().find(|p| p["name"] == pod).cloned().unwrap_or_default()
    }

    /// Waits until the pod is shown as `want`.
    pub fn wait(&self, pod: &str, want: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            let shown = self.shown(pod);
            if shown == want {
                return;
            }
            if Instant::now() > end {
                let log = if shown.is_empty() { String::new() } else { read_log(self, pod, "web", false) };
                panic!("{pod} is {shown:?}, not {want:?}: {}\n{log}", self.pod(pod));
            }
            // The socket has no events: a look now and then, bounded above.
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends the agent as SIGTERM does; pods go on.
    pub fn stop(mut self) {
        self.stop.send_blocking(()).expect("it runs");
        self.thread.take().expect("once").join().expect("it ended well");
    }
}

pub fn node_config() -> Body {
    let cidr = |d, prefix| Cidr { address: std::net::Ipv4Addr::new(10, d, 0, 0), prefix };
    Body::Node(NodeConfig {
        pod_cidr: Some(cidr(42, 24)),
        cluster_cidr: cidr(42, 16),
        service_cidr: cidr(43, 16),
        dns_ip: std::net::Ipv4Addr::new(10, 43, 0, 10),
        domain: "cluster.local".into(),
    })
}

pub fn pod(name: &str, spec: Value, stop: Option<u32>) -> Body {
    let object =
        json!({"metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")}, "spec": spec});
    Body::Pod(PodItem {
        uid: PodUid(format!("uid-{name}")),
        namespace: "default".into(),
        name: name.into(),
        object: object.to_string().into_bytes(),
        stop,
    })
}

pub fn data(secret: bool, name: &str, values: &[(&str, &str)]) -> Body {
    let data = values.iter().map(|(k, v)| ((*k).to_owned(), v.as_bytes().to_vec())).collect();
    Body::Data(DataItem { secret, namespace: "default".into(), name: name.into(), data })
}

/// A registry with one image, `box:1`: busybox with a shell.
pub struct Registry {
    address: std::net::SocketAddr,
}

impl Registry {
    fn start() -> Registry {
        let files = Arc::new(image());
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let files = Arc::clone(&files);
                std::thread::spawn(move || drop(answer(stream, &files)));
            }
        });
        Registry { address }
    }

    pub fn image(&self) -> String {
        format!("{}/box:1", self.address)
    }
}

type Files = Mutex<BTreeMap<String, (String, Vec<u8>)>>;

fn image() -> Files {
    let root = tempfile::tempdir().expect("a directory");
    for dir in ["bin", "tmp", "etc", "www"] {
        fs::create_dir(root.path().join(dir)).expect("a directory");
    }
    fs::copy("/usr/bin/busybox", root.path().join("bin/busybox")).expect("busybox-static");
    for name in ["sh", "sleep", "cat", "echo", "true", "false", "env", "httpd", "ls", "hostname"] {
        std::os::unix::fs::symlink("busybox", root.path().join("bin").join(name)).expect("a link");
    }
    fs::write(root.path().join("www/index.html"), "hello\n").expect("a page");
    fs::write(root.path().join("etc/passwd"), "root:x:0:0::/:/bin/sh\n").expect("users");
    let layer = Command::new("tar").args(["-C"]).arg(root.path()).args(["-c", "."]).output().expect("tar(1)").stdout;
    let digest = |bytes: &[u8]| format!("sha256:{}", Sha256::of(bytes).hex());
    let architecture = coracle_agent::report::node::architecture();
    let config = json!({"architecture": architecture, "os": "linux", "config": {"Cmd": ["/bin/sh"], "Env": ["FROM=image"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]}});
    let config = config.to_string().into_bytes();
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let part = |kind: &str, bytes: &[u8]| json!({"mediaType": kind, "digest": digest(bytes), "size": bytes.len()});
    let manifest = json!({"schemaVersion": 2, "mediaType": kind,
        "config": part("application/vnd.oci.image.config.v1+json", &config),
        "layers": [part("application/vnd.oci.image.layer.v1.tar", &layer)]});
    let manifest = manifest.to_string().into_bytes();
    let mut files = BTreeMap::new();
    files.insert("/v2/".to_owned(), ("application/json".to_owned(), b"{}".to_vec()));
    for reference in ["1".to_owned(), digest(&manifest)] {
        files.insert(format!("/v2/box/manifests/{reference}"), (kind.to_owned(), manifest.clone()));
    }
    for blob in [layer, config] {
        files.insert(format!("/v2/box/blobs/{}", digest(&blob)), ("application/octet-stream".to_owned(), blob));
    }
    Mutex::new(files)
}

fn answer(stream: TcpStream, files: &Files) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    loop {
        let mut first = String::new();
        if reader.read_line(&mut first)? == 0 {
            return Ok(());
        }
        let mut line = String::new();
        while reader.read_line(&mut line)? > 2 {
            line.clear();
        }
        let mut words = first.split(' ');
        let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let found = files.lock().expect("not poisoned").get(path).cloned();
        let (status, (kind, body)) = match found {
            Some(file) => ("200 OK", file),
            None => ("404 Not Found", ("application/json".to_owned(), b"{}".to_vec())),
        };
        let head = format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes())?;
        if method != "HEAD" {
            stream.write_all(&body)?;
        }
    }
}

/// Reads a log to its end.
pub fn read_log(agent: &Agent, pod: &str, container: &str, previous: bool) -> String {
    use coracle_shared::wire::{LogsOpen, Target};
    let target =
        Target { namespace: "default".into(), pod: pod.into(), uid: String::new(), container: container.into() };
    let request = LogsOpen { target, previous, ..LogsOpen::default() };
    smol::block_on(async {
        let mut reader = agent.streams.open_logs(request).await.expect("a log");
        let mut text = String::new();
        futures_lite::AsyncReadExt::read_to_string(&mut reader, &mut text).await.expect("text");
        text
    })
}

/// Runs a command in a container: what it said, and its exit code.
pub fn exec(agent: &Agent, pod: &str, container: &str, command: &[&str], stdin: &str) -> (String, i32) {
    use coracle_shared::wire::{ExecIn, ExecOpen, ExecOut, Target};
    let target =
        Target { namespace: "default".into(), pod: pod.into(), uid: String::new(), container: container.into() };
    let command = command.iter().map(|w| (*w).to_owned()).collect();
    let request = ExecOpen { target, command, stdin: true, stdout: true, stderr: true, tty: false };
    smol::block_on(async {
        let stream = agent.streams.open_exec(request).await.expect("a command");
        // A command that has ended reads no more: its exit code says the rest.
        let _ = stream.input.send(ExecIn::Stdin(stdin.as_bytes().to_vec())).await;
        let _ = stream.input.send(ExecIn::CloseStdin).await;
        let mut said = Vec::new();
        while let Ok(out) = stream.output.recv().await {
            match out {
                ExecOut::Stdout(bytes) | ExecOut::Stderr(bytes) => said.extend(bytes),
                ExecOut::Exit(code) => return (String::from_utf8_lossy(&said).into_owned(), code),
                other => panic!("{other:?}"),
            }
        }
        panic!("no exit code after {said:?}")
    })
}

/// Waits for what no event tells of: looks now and then, for [`PATIENCE`] at most.
pub fn eventually(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What of a test's pods is left on the machine: processes by a word in their arguments.
pub fn processes(word: &str) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("proc").flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else { continue };
        let mut text = Vec::new();
        let read = fs::File::open(Path::new("/proc").join(entry.file_name()).join("cmdline"))
            .and_then(|mut f| f.read_to_end(&mut text));
        if read.is_ok() && String::from_utf8_lossy(&text).contains(word) {
            found.push(pid);
        }
    }
    found
}
