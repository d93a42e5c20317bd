//! A virtual machine under QEMU's emulation: booted, asked over its control port, ended by its pid.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::PATIENCE;

/// From power to a shell takes five to ten seconds on a quiet machine; emulation on a busy one is
/// many times slower.
const BOOT: Duration = Duration::from_secs(300);
/// The longest that one command in the machine may be silent.
const SILENCE: Duration = Duration::from_secs(600);

/// What is booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    /// Two processors, 1 GiB.
    Amd64,
    /// A board: one slow processor, 512 MiB, and no clock that goes on without power.
    Arm64,
}

impl Arch {
    pub fn name(self) -> &'static str {
        match self {
            Arch::Amd64 => "amd64",
            Arch::Arm64 => "arm64",
        }
    }

    fn emulator(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Arch::Amd64 => (
                "qemu-system-x86_64",
                &["-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1024"],
            ),
            Arch::Arm64 => (
                "qemu-system-aarch64",
                &["-M", "virt", "-cpu", "cortex-a72", "-smp", "1", "-m", "512", "-rtc", "base=1970-01-01T00:00:30"],
            ),
        }
    }

    fn console(self) -> &'static str {
        match self {
            Arch::Amd64 => "ttyS0",
            Arch::Arm64 => "ttyAMA0",
        }
    }
}

/// A machine that runs. Dropping it is a power cut.
pub struct Machine {
    name: String,
    qemu: Child,
    control: BufReader<UnixStream>,
    console: PathBuf,
    /// What was written to `/dev/coracle.trace`: each write returns when it is in this file.
    pub trace: PathBuf,
}

/// What a machine is made of.
pub struct Plan<'a> {
    pub name: &'a str,
    pub arch: Arch,
    /// The ext4 image that is its root; written to.
    pub disk: &'a Path,
    /// Options of its mount.
    pub mount: &'a str,
    /// Ports of this host's loopback that lead to ports of the machine.
    pub forwards: &'a [(u16, u16)],
}

impl Machine {
    /// Powers a machine on and waits until it takes commands.
    pub fn boot(plan: &Plan<'_>) -> Machine {
        let dir = plan.disk.parent().expect("the disk lies in a directory");
        let socket = dir.join(format!("{}.control", plan.name));
        let _ = fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).expect("a control socket");
        listener.set_nonblocking(true).expect("a socket that can be polled");
        let console = dir.join(format!("{}.console", plan.name));
        fs::write(&console, "").expect("a console file");
        let trace = dir.join(format!("{}.trace", plan.name));
        fs::write(&trace, "").expect("a trace file");
        let mut qemu = command(plan, &socket, &console, &trace).spawn().expect("QEMU: scripts/test.sh installs it");
        let Some(control) = accept(&listener, &mut qemu) else {
            let _ = qemu.kill();
            panic!("machine {} did not start:\n{}", plan.name, read(&console));
        };
        control.set_nonblocking(false).expect("a blocking socket");
        control.set_read_timeout(Some(BOOT)).expect("a time-out");
        let mut machine =
            Machine { name: plan.name.to_owned(), qemu, control: BufReader::new(control), console, trace };
        let (_, code) = machine.answer(&|_| ());
        assert_eq!(code, 0, "machine {} greets", plan.name);
        machine.control.get_ref().set_read_timeout(Some(SILENCE)).expect("a time-out");
        machine
    }

    /// Runs one line of shell in the machine: what it printed, and its exit code.
    pub fn run(&mut self, line: &str) -> (String, i32) {
        self.run_showing(line, &|_| ())
    }

    /// The same; each line of output is handed over as it comes.
    pub fn run_showing(&mut self, line: &str, show: &dyn Fn(&str)) -> (String, i32) {
        assert!(!line.contains('\n'), "a command is one line: {line:?}");
        writeln!(self.control.get_mut(), "{line}").expect("the machine takes commands");
        self.answer(show)
    }

    /// A line that has to succeed.
    #[track_caller]
    pub fn sh(&mut self, line: &str) -> String {
        let (said, code) = self.run(line);
        assert_eq!(code, 0, "in machine {}: {line}\n{said}", self.name);
        said
    }

    /// Runs a line again and again until it succeeds, as long as anything may take.
    #[track_caller]
    pub fn until(&mut self, line: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let (said, code) = self.run(line);
            if code == 0 {
                return said;
            }
            assert!(Instant::now() < end, "in machine {}, never: {line}\n{said}", self.name);
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// The output up to the line that tells the exit code.
    fn answer(&mut self, show: &dyn Fn(&str)) -> (String, i32) {
        let mut said = String::new();
        loop {
            let mut line = Vec::new();
            match self.control.read_until(b'\n', &mut line) {
                Ok(1..) => {}
                Ok(0) => panic!("machine {} went off; it had said:\n{said}", self.name),
                Err(e) => panic!("machine {} is silent ({e}); it had said:\n{said}", self.name),
            }
            let line = String::from_utf8_lossy(&line);
            if let Some(code) = line.strip_prefix("@@ ") {
                return (said, code.trim().parse().expect("an exit code"));
            }
            show(line.trim_end());
            said.push_str(&line);
        }
    }
}

impl Machine {
    /// Cuts the power: what the machine had not synced to its disk is gone.
    pub fn cut(mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        if thread::panicking() {
            eprintln!("---- console of machine {}\n{}\n----", self.name, read(&self.console));
        }
    }
}

fn read(console: &Path) -> String {
    String::from_utf8_lossy(&fs::read(console).unwrap_or_default()).into_owned()
}

fn accept(listener: &UnixListener, qemu: &mut Child) -> Option<UnixStream> {
    let end = Instant::now() + BOOT;
    while Instant::now() < end && qemu.try_wait().is_ok_and(|ended| ended.is_none()) {
        match listener.accept() {
            Ok((stream, _)) => return Some(stream),
            Err(e) if e.kind() == ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(20)),
            Err(e) => panic!("the control socket: {e}"),
        }
    }
    None
}

fn command(plan: &Plan<'_>, control: &Path, console: &Path, trace: &Path) -> Command {
    let boot = boot_files(plan.arch);
    let (program, machine) = plan.arch.emulator();
    let mut network = "user,id=net".to_owned();
    for (here, there) in plan.forwards {
        network.push_str(&format!(",hostfwd=tcp:127.0.0.1:{here}-:{there}"));
    }
    // However the test ends, its machine ends with it.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", program]).args(machine);
    command.args(["-nodefaults", "-no-reboot", "-display", "none", "-monitor", "none"]);
    command.arg("-serial").arg(format!("file:{}", console.display()));
    command.arg("-kernel").arg(boot.join("vmlinuz")).arg("-initrd").arg(boot.join("initrd"));
    command.arg("-append").arg(format!("console={} quiet panic=-1 machine.mount={}", plan.arch.console(), plan.mount));
    command.arg("-drive").arg(format!("file={},if=none,id=disk,format=raw", plan.disk.display()));
    command.args(["-device", "virtio-blk-pci,drive=disk", "-device", "virtio-rng-pci"]);
    command.args(["-netdev", &network, "-device", "virtio-net-pci,netdev=net,romfile="]);
    command.arg("-chardev").arg(format!("socket,id=control,path={}", control.display()));
    command.args(["-device", "virtio-serial-pci", "-device", "virtserialport,chardev=control,name=coracle.control"]);
    command.arg("-chardev").arg(format!("file,id=trace,path={}", trace.display()));
    command.args(["-device", "virtserialport,chardev=trace,name=coracle.trace"]);
    command.stdin(Stdio::null()).stdout(Stdio::inherit()).stderr(Stdio::inherit());
    command
}

/// Where `scripts/vm.sh` put this architecture's kernel and initramfs.
pub fn boot_files(arch: Arch) -> PathBuf {
    let dir = std::env::var_os("CORACLE_VM").map(PathBuf::from);
    let dir = dir.expect("CORACLE_VM is not set: run these tests by scripts/test.sh").join(arch.name());
    assert!(dir.join("initrd").exists(), "{} is not made: run scripts/vm.sh", dir.display());
    dir
}
