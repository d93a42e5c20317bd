//! The running cluster: its programs, its clients, and what a person would do with them.

use std::env;
use std::fs;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything may take on a slow, busy machine before a test calls it missing.
const PATIENCE: Duration = Duration::from_secs(120);

/// The cluster in `CORACLE_E2E` (a directory that `up.sh` filled), with the kubectls of `CORACLE_KUBECTLS`.
pub struct Cluster {
    pub dir: PathBuf,
    kubectls: PathBuf,
    pub info: Value,
}

/// What a command printed, and whether it succeeded.
#[derive(Debug)]
pub struct Output {
    pub ok: bool,
    pub out: String,
    pub err: String,
}

impl Output {
    /// The output of a command that has to succeed.
    #[track_caller]
    pub fn good(self) -> String {
        assert!(self.ok, "the command failed:\n{}{}", self.out, self.err);
        self.out
    }

    /// The message of a command that has to fail.
    #[track_caller]
    pub fn bad(self) -> String {
        assert!(!self.ok, "the command should have failed:\n{}{}", self.out, self.err);
        self.err
    }
}

impl Cluster {
    /// Fails loudly when the tests are not run by `scripts/test.sh`.
    pub fn get() -> Cluster {
        let var = |name: &str| {
            env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run these tests by scripts/test.sh"))
        };
        let dir = PathBuf::from(var("CORACLE_E2E"));
        let info = fs::read_to_string(dir.join("info.json")).expect("info.json of the cluster");
        Cluster {
            kubectls: var("CORACLE_KUBECTLS").into(),
            info: serde_json::from_str(&info).expect("info.json is JSON"),
            dir,
        }
    }

    pub fn kubectl(&self, version: &str, arguments: &[&str]) -> Output {
        self.kubectl_with(version, arguments, "", &[])
    }

    /// kubectl with standard input and further environment.
    pub fn kubectl_with(&self, version: &str, arguments: &[&str], input: &str, environment: &[(&str, &str)]) -> Output {
        let mut command = Command::new(self.kubectls.join(format!("kubectl-{version}")));
        // A home of its own: kubectl caches discovery there.
        let home = self.dir.join(format!("home-{version}"));
        command.args(arguments).env("KUBECONFIG", self.dir.join("kubeconfig")).env("HOME", home);
        command.envs(environment.iter().copied());
        run(command, input)
    }

    pub fn kubectl_child(&self, version: &str, arguments: &[&str]) -> Child {
        Command::new(self.kubectls.join(format!("kubectl-{version}")))
            .args(arguments)
            .env("KUBECONFIG", self.dir.join("kubeconfig"))
            .env("HOME", self.dir.join(format!("home-{version}")))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("kubectl starts")
    }

    pub fn coracle(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(self.dir.join("bin/coracle"));
        command.arg("--kubeconfig").arg(self.dir.join("kubeconfig")).args(arguments);
        run(command, "")
    }

    /// `up.sh` on this cluster.
    pub fn up(&self, arguments: &[&str]) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").join("scripts/up.sh");
        let mut command = Command::new("bash");
        command.arg(script).arg("--dir").arg(&self.dir).args(arguments);
        run(command, "")
    }

    pub fn object(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        let output = self.coracle(&["get", kind, name, "-n", namespace, "-o", "json"]);
        output.ok.then(|| serde_json::from_str(&output.out).expect("JSON"))
    }

    pub fn objects(&self, kind: &str, namespace: &str) -> Vec<Value> {
        let list: Value =
            serde_json::from_str(&self.coracle(&["get", kind, "-n", namespace, "-o", "json"]).good()).expect("JSON");
        list["items"].as_array().cloned().unwrap_or_default()
    }

    pub fn pid(&self, name: &str) -> u32 {
        let text = fs::read_to_string(self.dir.join(format!("run/{name}.pid"))).expect("a pid file");
        text.trim().parse().expect("a pid")
    }

    /// Ends a program as a power cut or an OOM would.
    pub fn kill(&self, name: &str) {
        let pid = self.pid(name);
        assert!(run_words(&["kill", "-KILL", &pid.to_string()]).ok);
        until(&format!("{name} is gone"), || !Path::new(&format!("/proc/{pid}/exe")).exists() || zombie(pid));
    }

    pub fn node_ip(&self, node: usize) -> IpAddr {
        self.info["nodes"][node]["ip"].as_str().expect("a node's ip").parse().expect("an address")
    }

    pub fn node_port(&self, node: usize, port: u16) -> SocketAddr {
        SocketAddr::new(self.node_ip(node), port)
    }

    pub fn registry(&self) -> &str {
        self.info["registry"].as_str().expect("a registry")
    }

    /// The demonstration's image: busybox with a web server.
    pub fn image(&self) -> String {
        format!("{}/demo/web:1", self.registry())
    }

    /// Makes a small image for one architecture, pushes it, and answers with its reference.
    pub fn push_image(&self, name: &str, architecture: &str) -> String {
        let work = self.dir.join("images").join(name);
        let layer = work.join("layer/bin");
        fs::create_dir_all(&layer).expect("a directory for the layer");
        fs::write(layer.join("nothing"), "nothing runs here").expect("a file in the layer");
        let (layout, reference) = (work.join("oci"), format!("{}/{name}:1", self.registry()));
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").join("scripts/image.sh");
        let mut make = Command::new("bash");
        make.arg(script).arg(&layout).args(["1", architecture, r#"{"Cmd":["/bin/nothing"]}"#]).arg(work.join("layer"));
        run(make, "").good();
        let mut push = Command::new("skopeo");
        push.args(["copy", "--all", "--dest-tls-verify=false"]);
        push.arg(format!("oci:{}:1", layout.display())).arg(format!("docker://{reference}"));
        run(push, "").good();
        reference
    }

    /// A namespace of this test's own, deleted with the value.
    pub fn namespace(&self, name: &str) -> Namespace<'_> {
        self.kubectl("1.32", &["create", "namespace", name]).good();
        Namespace { cluster: self, name: name.to_owned() }
    }

    /// Waits until what other tests deleted is gone, pods included.
    pub fn until_no_namespace_ends(&self) {
        until("deleted namespaces are gone", || {
            self.objects("namespaces", "default").iter().all(|n| n["status"]["phase"] == "Active")
        });
    }

    /// Applies a manifest in which `@IMAGE@` is the demonstration's image.
    #[track_caller]
    pub fn apply(&self, namespace: &str, manifest: &str) -> String {
        let manifest = manifest.replace("@IMAGE@", &self.image());
        self.kubectl_with("1.32", &["apply", "-n", namespace, "-f", "-"], &manifest, &[]).good()
    }

    /// Waits until a pod's phase is this, and answers with the pod.
    #[track_caller]
    pub fn phase(&self, namespace: &str, pod: &str, phase: &str) -> Value {
        self.pod_until(namespace, pod, phase, |p| p["status"]["phase"] == phase)
    }

    /// Waits until something holds of a pod, and answers with the pod.
    #[track_caller]
    pub fn pod_until(&self, namespace: &str, pod: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            last = self.object("pod", namespace, pod).unwrap_or_default();
            if holds(&last) {
                return last;
            }
            thread::sleep(Duration::from_millis(100));
        }
        panic!("pod {namespace}/{pod} never came to {what}: {:#}", last["status"]);
    }
}

/// A namespace that goes with the test.
pub struct Namespace<'a> {
    cluster: &'a Cluster,
    pub name: String,
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        let output = self.cluster.kubectl("1.32", &["delete", "namespace", &self.name, "--wait=false"]);
        if !output.ok && !thread::panicking() {
            panic!("deleting namespace {}: {}", self.name, output.err);
        }
    }
}

fn zombie(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

/// Polls what no event tells from outside; fails when it does not come.
#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(100));
    }
}

pub fn run_words(words: &[&str]) -> Output {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    run(command, "")
}

pub(crate) fn run(mut command: Command, input: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_owned();
    let feeder = thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let output = child.wait_with_output().expect("the command ends");
    let _ = feeder.join();
    Output {
        ok: output.status.success(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
