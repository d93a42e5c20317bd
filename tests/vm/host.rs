//! What a machine meets on this host: a server and a registry on its loopback, which user-mode
//! networking shows to the machine as 10.0.2.2.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use coracle_tests::{Output, run_words, until};
use serde_json::Value;

use crate::disk::programs;

/// This host, as a machine sees it.
pub const HOST: &str = "10.0.2.2";

pub struct Host {
    dir: tempfile::TempDir,
    api: u16,
    registry: u16,
    server: Option<Process>,
    _registry: Process,
}

/// A process that ends with the test, however that ends.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(mut command: Vec<String>, log: &Path) -> Process {
    let log = fs::File::options().create(true).append(true).open(log).expect("a log");
    let program = command.remove(0);
    let mut child = Command::new("setpriv");
    child.args(["--pdeathsig", "KILL", "--", &program]).args(command);
    let (out, errors) = (log.try_clone().expect("a descriptor"), log);
    Process(child.stdin(Stdio::null()).stdout(out).stderr(errors).spawn().expect("setpriv(1)"))
}

/// A port that nobody listens on at this moment, for TCP and UDP.
pub fn free_port() -> u16 {
    for _ in 0..100 {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        if std::net::UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port on the loopback");
}

impl Host {
    /// A server without nodes, and an empty registry.
    pub fn start(work: &Path) -> Host {
        let dir = tempfile::Builder::new().prefix("host").tempdir_in(work).expect("a directory");
        let (api, registry) = (free_port(), free_port());
        let settings = format!(
            "version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {}/registry}}}}\nhttp: {{addr: \"127.0.0.1:{registry}\"}}\n",
            dir.path().display()
        );
        fs::write(dir.path().join("registry.yml"), settings).expect("settings");
        // Image names carry the registry as machines see it; the server asks it where it is.
        let registries = format!(
            r#"{{"registries":{{"{HOST}:{registry}":{{"plainHttp":true,"mirrors":["http://127.0.0.1:{registry}"]}}}}}}"#
        );
        fs::write(dir.path().join("registries.json"), registries).expect("settings");
        let settings = dir.path().join("registry.yml").to_string_lossy().into_owned();
        let command = vec!["docker-registry".to_owned(), "serve".to_owned(), settings];
        let process = start(command, &dir.path().join("registry.log"));
        let mut host = Host { dir, api, registry, server: None, _registry: process };
        host.start_server();
        until("the registry listens", || TcpStream::connect(("127.0.0.1", registry)).is_ok());
        host
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    pub fn start_server(&mut self) {
        let path = |below: &str| self.path(below).to_string_lossy().into_owned();
        let program = programs().join("coracle-server").to_string_lossy().into_owned();
        let listen = format!("127.0.0.1:{}", self.api);
        let (state, kubeconfig, registries) = (path("server"), path("kubeconfig"), path("registries.json"));
        let command = [
            &program,
            "--state",
            &state,
            "--listen",
            &listen,
            "--advertise",
            HOST,
            "--advertise",
            "127.0.0.1",
            "--kubeconfig",
            &kubeconfig,
            "--registries",
            &registries,
        ];
        let command = command.into_iter().map(|w| w.to_string()).collect();
        self.server = Some(start(command, &self.path("server.log")));
        until("the server is ready", || self.coracle(&["get", "--raw", "/readyz"]).ok);
    }

    pub fn coracle(&self, arguments: &[&str]) -> Output {
        let (program, kubeconfig) = (programs().join("coracle"), self.path("kubeconfig"));
        let mut words = vec![program.to_str().expect("UTF-8"), "--kubeconfig", kubeconfig.to_str().expect("UTF-8")];
        words.extend(arguments);
        run_words(&words)
    }

    pub fn join_line(&self) -> String {
        self.coracle(&["token", "create", "--uses", "1"]).good().trim().to_owned()
    }

    /// What an agent in a machine needs to know of the registry.
    pub fn registries_for_machines(&self) -> String {
        format!(r#"{{"registries":{{"{HOST}:{}":{{"plainHttp":true}}}}}}"#, self.registry)
    }

    /// Pushes a busybox image of these architectures; answers with the name that pods use.
    pub fn push_busybox(&self, name: &str, platforms: &[(&str, &Path)]) -> String {
        for (architecture, busybox) in platforms {
            self.add_platform(name, architecture, busybox, &self.path("images").join(name).join(architecture));
        }
        self.push(name)
    }

    /// Pushes an image of one layer: busybox, and what the directory holds.
    pub fn push_layer(&self, name: &str, architecture: &str, busybox: &Path, layer: &Path) -> String {
        self.add_platform(name, architecture, busybox, layer);
        self.push(name)
    }

    fn add_platform(&self, name: &str, architecture: &str, busybox: &Path, layer: &Path) {
        for dir in ["bin", "etc", "tmp"] {
            fs::create_dir_all(layer.join(dir)).expect("a directory");
        }
        fs::copy(busybox, layer.join("bin/busybox")).expect("busybox");
        for applet in ["sh", "cat", "echo", "sleep", "httpd", "uname", "mkdir", "sha256sum"] {
            symlink("busybox", layer.join("bin").join(applet)).expect("a link");
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").join("scripts/image.sh");
        let layout = self.path("images").join(name).join("oci");
        let words = [&script, &layout, layer].map(|path| path.to_string_lossy().into_owned());
        let config = r#"{"Env":["PATH=/bin"],"Cmd":["/bin/sh"]}"#;
        run_words(&["bash", &words[0], &words[1], "1", architecture, config, &words[2]]).good();
    }

    fn push(&self, name: &str) -> String {
        let from = format!("oci:{}:1", self.path("images").join(name).join("oci").display());
        let to = format!("docker://127.0.0.1:{}/{name}:1", self.registry);
        run_words(&["skopeo", "copy", "--all", "--dest-tls-verify=false", &from, &to]).good();
        format!("{HOST}:{}/{name}:1", self.registry)
    }

    /// Ends the server as a power cut of its own would.
    pub fn stop_server(&mut self) {
        self.server = None;
    }

    pub fn apply(&self, manifest: &str) {
        let file = self.path("manifest.yaml");
        fs::write(&file, manifest).expect("a manifest");
        self.coracle(&["apply", "-f", &file.to_string_lossy()]).good();
    }

    pub fn object(&self, kind: &str, name: &str) -> Value {
        let output = self.coracle(&["get", kind, name, "-o", "json"]);
        if output.ok { serde_json::from_str(&output.out).expect("JSON") } else { Value::Null }
    }

    /// Waits until something holds of an object.
    #[track_caller]
    pub fn wait(&self, kind: &str, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let end = std::time::Instant::now() + crate::PATIENCE;
        loop {
            let object = self.object(kind, name);
            if holds(&object) {
                return object;
            }
            assert!(std::time::Instant::now() < end, "{kind} {name} never came to {what}: {:#}", object["status"]);
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
    }
}

/// A condition of an object is True.
pub fn is_true(object: &Value, kind: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|c| c["type"] == kind && c["status"] == "True"))
}
