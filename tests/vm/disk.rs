//! The root file system of a machine: a directory that is filled, then made an ext4 image.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use coracle_tests::run_words;

/// Programs of this host that a node's own tests call.
const TOOLS: [&str; 10] =
    ["dash", "ip", "nft", "nsenter", "unshare", "mount", "umount", "tar", "mkfs.ext4", "fsck.ext4"];
/// Large enough for the dev-profile programs and some images; sparse on the host.
const IMAGE_BYTES: u64 = 2 << 30;
/// Large enough for a node with a few small images and the space that pulls leave alone.
const SMALL_IMAGE_BYTES: u64 = 1 << 30;

pub struct Root {
    dir: tempfile::TempDir,
    copied: BTreeSet<PathBuf>,
}

impl Root {
    /// A small Debian-like system: dash, busybox, and the tools that node tests call.
    pub fn new(busybox: &Path) -> Root {
        let dir = tempfile::Builder::new().prefix("root").tempdir_in(work_dir()).expect("a directory");
        let root = Root { dir, copied: BTreeSet::new() };
        for below in
            ["usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "etc", "proc", "sys", "dev", "run", "tmp", "root", "var"]
        {
            fs::create_dir_all(root.path(below)).expect("a directory");
        }
        for name in ["bin", "sbin", "lib", "lib64"] {
            symlink(format!("usr/{name}"), root.path(name)).expect("a link");
        }
        root.install(busybox, "usr/bin/busybox");
        let list = run_words(&["busybox", "--list"]).good();
        for applet in list.lines().filter(|a| *a != "busybox" && *a != "sh") {
            symlink("busybox", root.path("usr/bin").join(applet)).expect("a link");
        }
        symlink("busybox", root.path("usr/bin/sh")).expect("a link");
        symlink("../bin/busybox", root.path("usr/sbin/init")).expect("a link");
        let guest = Path::new(env!("CARGO_MANIFEST_DIR")).join("vm/guest");
        root.install(&guest.join("start.sh"), "usr/sbin/start");
        root.install(&guest.join("control.sh"), "usr/sbin/control");
        root.write("etc/inittab", &fs::read_to_string(guest.join("inittab")).expect("inittab"));
        root.write("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n");
        root.write("etc/group", "root:x:0:\nnogroup:x:65534:\n");
        root.write("etc/protocols", "icmp 1 ICMP\ntcp 6 TCP\nudp 17 UDP\n");
        root.write("etc/hosts", "127.0.0.1 localhost machine\n");
        root.write("etc/resolv.conf", "nameserver 10.0.2.3\n");
        root
    }

    /// The host's tools, with a shell that calls them rather than its own applets.
    pub fn add_tools(&mut self) {
        for tool in TOOLS {
            let found = ["/usr/bin", "/usr/sbin"].map(|dir| Path::new(dir).join(tool)).into_iter().find(|p| p.exists());
            let found = found.unwrap_or_else(|| panic!("{tool} is missing: scripts/test.sh installs it"));
            self.add_program(&found);
        }
        let shell = self.path("usr/bin/sh");
        fs::remove_file(&shell).expect("busybox's shell");
        symlink("dash", shell).expect("a link");
    }

    fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(below)
    }

    pub fn write(&self, below: &str, text: &str) {
        fs::write(self.path(below), text).expect("a file of the root");
    }

    /// A program at a place of its own.
    pub fn install(&self, from: &Path, below: &str) {
        let to = self.path(below);
        let _ = fs::remove_file(&to);
        fs::copy(from, &to).unwrap_or_else(|e| panic!("{}: {e}", from.display()));
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).expect("permissions");
    }

    /// A program of this host with its shared libraries, at the same paths, without debugging symbols.
    pub fn add_program(&mut self, path: &Path) {
        self.add_file(path);
        let path = path.to_str().expect("a UTF-8 path");
        let libraries = run_words(&["ldd", path]);
        // A static program has none, and ldd says so by failing.
        let libraries = if libraries.ok { libraries.out } else { String::new() };
        for word in libraries.split_whitespace().filter(|w| w.starts_with('/')) {
            self.add_file(Path::new(word));
        }
    }

    fn add_file(&mut self, path: &Path) {
        if !self.copied.insert(path.to_owned()) {
            return;
        }
        let to = self.path(path.strip_prefix("/").expect("an absolute path"));
        fs::create_dir_all(to.parent().expect("a parent")).expect("a directory");
        let _ = fs::remove_file(&to);
        let from = fs::canonicalize(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let status =
            Command::new("strip").args(["--strip-debug", "-o"]).arg(&to).arg(&from).status().expect("strip(1)");
        assert!(status.success(), "strip {}", from.display());
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).expect("permissions");
    }

    /// Makes the ext4 image.
    pub fn image(&self, to: &Path) {
        self.image_of(to, IMAGE_BYTES);
    }

    /// The same on a disk that soon is full.
    pub fn small_image(&self, to: &Path) {
        self.image_of(to, SMALL_IMAGE_BYTES);
    }

    fn image_of(&self, to: &Path, bytes: u64) {
        let file = fs::File::create(to).expect("an image file");
        file.set_len(bytes).expect("a sparse file");
        let (root, to) = (self.dir.path().to_str().expect("UTF-8"), to.to_str().expect("UTF-8"));
        run_words(&["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1", "-d", root, to]).good();
    }
}

/// Where these tests work: beside the programs that were built, so that a full disk is noticed there.
pub fn work_dir() -> PathBuf {
    let dir = programs().join("../vm-tests");
    fs::create_dir_all(&dir).expect("a directory below target/");
    fs::canonicalize(dir).expect("an absolute path")
}

/// Those of another architecture are static and lie beside them.
pub fn static_programs(triple: &str) -> PathBuf {
    let dir = programs().join("..").join(triple).join("board");
    assert!(dir.join("coracle-agent").exists(), "{} is not built: scripts/test.sh does", dir.display());
    dir
}

/// The directory of the programs under test, which were built with this test.
pub fn programs() -> PathBuf {
    let own = std::env::current_exe().expect("this test's own program");
    own.parent().and_then(Path::parent).expect("target/PROFILE/deps").to_path_buf()
}
