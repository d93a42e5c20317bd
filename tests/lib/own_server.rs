//! A server of a test's own, on a state directory that the test may fill, break and restore.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::cluster::{Output, run, until};

/// A stopped or running `coracle-server`, ended with the value.
pub struct OwnServer {
    bin: PathBuf,
    pub state: PathBuf,
    /// Where its kubeconfig and log are: never on the disk under test.
    pub work: PathBuf,
    port: u16,
    child: Option<Child>,
}

impl OwnServer {
    /// Of the programs in `bin`, on `state`; not yet started.
    pub fn new(bin: &Path, state: &Path, work: &Path) -> OwnServer {
        // Free a moment ago; nothing else on a test machine takes it meanwhile.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        OwnServer { bin: bin.to_owned(), state: state.to_owned(), work: work.to_owned(), port, child: None }
    }

    fn spawn(&self) -> Child {
        let log = File::options().create(true).append(true).open(self.log()).expect("a log");
        Command::new(self.bin.join("coracle-server"))
            .arg("--state")
            .arg(&self.state)
            .arg("--listen")
            .arg(format!("127.0.0.1:{}", self.port))
            .arg("--kubeconfig")
            .arg(self.kubeconfig())
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the server's program starts")
    }

    /// Starts it and waits until it answers.
    #[track_caller]
    pub fn start(&mut self) {
        let mut child = self.spawn();
        until("the server answers", || {
            let ended = child.try_wait().expect("a child");
            assert!(ended.is_none(), "the server ended: {}", self.said());
            self.coracle(&["get", "--raw", "/readyz"], "").ok
        });
        self.child = Some(child);
    }

    /// Starts it where it has to refuse; what it says.
    #[track_caller]
    pub fn refuse(&mut self) -> String {
        fs::remove_file(self.log()).expect("a log");
        let mut child = self.spawn();
        let mut code = None;
        until("the server refuses to start", || {
            code = child.try_wait().expect("a child").map(|status| status.code());
            code.is_some() || self.coracle(&["get", "--raw", "/readyz"], "").ok
        });
        let said = self.said();
        if code != Some(Some(1)) {
            let _ = child.kill();
            let _ = child.wait();
            panic!("it did not refuse ({code:?}): {said}");
        }
        said
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it is a child");
            child.wait().expect("it ends");
        }
    }

    /// Lets it end in order.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            assert!(run(command("kill", &[&child.id().to_string()]), "").ok);
            child.wait().expect("it ends");
        }
    }

    /// `coracle` as its administrator.
    pub fn coracle(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = Command::new(self.bin.join("coracle"));
        command.arg("--kubeconfig").arg(self.kubeconfig()).args(arguments);
        run(command, input)
    }

    /// Applies a ConfigMap with a value of some size.
    pub fn put(&self, name: &str, letter: char, size: usize) -> Output {
        let data = letter.to_string().repeat(size);
        let object = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{v: {data}}}\n");
        self.coracle(&["apply", "-f", "-"], &object)
    }

    /// The value of a ConfigMap.
    pub fn value(&self, name: &str) -> Option<String> {
        let got = self.coracle(&["get", "configmap", name, "-o", "json"], "");
        let object: serde_json::Value = got.ok.then(|| serde_json::from_str(&got.out).expect("JSON"))?;
        object["data"]["v"].as_str().map(str::to_owned)
    }

    fn kubeconfig(&self) -> PathBuf {
        self.work.join("kubeconfig")
    }

    fn log(&self) -> PathBuf {
        self.work.join("server.log")
    }

    /// What it has said so far.
    pub fn said(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// A small ext4 disk in a file, mounted; unmounted with the value.
pub struct Disk {
    image: PathBuf,
    pub mount: PathBuf,
}

impl Disk {
    /// Makes and mounts one of `mib` MiB below `work`.
    #[track_caller]
    pub fn new(work: &Path, mib: u64) -> Disk {
        let (image, mount) = (work.join("disk.img"), work.join("disk"));
        fs::create_dir_all(&mount).expect("a directory");
        File::create(&image).and_then(|file| file.set_len(mib << 20)).expect("an image");
        run(command("mkfs.ext4", &["-q", "-m", "0", &image.to_string_lossy()]), "").good();
        let disk = Disk { image, mount };
        disk.mount();
        disk
    }

    #[track_caller]
    pub fn mount(&self) {
        let (image, mount) = (self.image.to_string_lossy(), self.mount.to_string_lossy());
        run(command("mount", &["-o", "loop,errors=remount-ro", &image, &mount]), "").good();
    }

    #[track_caller]
    pub fn unmount(&self) {
        run(command("umount", &[&self.mount.to_string_lossy()]), "").good();
    }

    /// Checks and mends it while it is not mounted.
    #[track_caller]
    pub fn mend(&self) {
        // 1: errors were corrected.
        let checked = command("e2fsck", &["-fy", &self.image.to_string_lossy()]).output().expect("e2fsck runs");
        assert!(matches!(checked.status.code(), Some(0 | 1)), "{checked:?}");
    }

    /// The name of its device in /sys.
    pub fn device(&self) -> String {
        let mounts = fs::read_to_string("/proc/self/mounts").expect("the mounts");
        let mount = self.mount.to_string_lossy();
        let line = mounts.lines().find(|line| line.split(' ').nth(1) == Some(&*mount)).expect("it is mounted");
        line.split(' ').next().and_then(|device| device.rsplit('/').next()).expect("a device").to_owned()
    }

    /// Takes all its free space with a file; removing that gives it back.
    #[track_caller]
    pub fn fill(&self) -> PathBuf {
        let path = self.mount.join("filler");
        let mut file = File::create(&path).expect("a file");
        for size in [1 << 20, 4096] {
            let piece = vec![1; size];
            while std::io::Write::write_all(&mut file, &piece).is_ok() {}
        }
        file.sync_all().expect("synced");
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = run(command("umount", &["-l", &self.mount.to_string_lossy()]), "");
    }
}
