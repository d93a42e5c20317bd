//! The node's own report, from the kernel's files.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use coracle_shared::report::{Condition, NodeReport, Resources};

/// How many pods a node takes: a /24 less network, broadcast and the node's own address, and the
/// kubelet's own default.
pub const MAX_PODS: u32 = 110;
/// Memory that the node keeps for itself: the smallest board has 256 MiB.
const RESERVED_MEMORY: u64 = 32 << 20;
/// Below this share of free space (in percent) images are collected and the node says DiskPressure.
pub const DISK_PRESSURE_FREE: u64 = 10;

/// What does not come from files.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    pub name: String,
    pub addresses: Vec<Ipv4Addr>,
    /// Named by the rooms that found them.
    pub conditions: Vec<Condition>,
    pub labels: BTreeMap<String, String>,
}

/// Reads the node's report. Files that are missing leave their fields empty: a node without
/// `/etc/machine-id` is a node all the same.
pub fn observe(root: &Path, state: &Path, facts: &NodeFacts) -> NodeReport {
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
    let capacity = capacity(&read("proc/meminfo"), state);
    let allocatable = Resources {
        memory_bytes: capacity.memory_bytes.saturating_sub(RESERVED_MEMORY),
        storage_bytes: capacity.storage_bytes / 100 * (100 - DISK_PRESSURE_FREE),
        ..capacity
    };
    let hostname = read("proc/sys/kernel/hostname").trim().to_owned();
    NodeReport {
        addresses: facts.addresses.clone(),
        hostname: if facts.name.is_empty() { hostname } else { facts.name.clone() },
        capacity,
        allocatable,
        architecture: architecture().to_owned(),
        os_image: os_name(&read("etc/os-release")),
        kernel: read("proc/sys/kernel/osrelease").trim().to_owned(),
        machine_id: read("etc/machine-id").trim().to_owned(),
        boot_id: read("proc/sys/kernel/random/boot_id").trim().to_owned(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        conditions: facts.conditions.clone(),
        labels: facts.labels.clone(),
    }
}

/// As images and `kubernetes.io/arch` name it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn capacity(meminfo: &str, state: &Path) -> Resources {
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let storage = rustix::fs::statvfs(state).map_or(0, |s| s.f_blocks.saturating_mul(s.f_frsize));
    Resources { cpu_millis: cpus * 1000, memory_bytes: memory_total(meminfo), storage_bytes: storage, pods: MAX_PODS }
}

/// `MemTotal` in bytes.
fn memory_total(meminfo: &str) -> u64 {
    meminfo_bytes(meminfo, "MemTotal:")
}

fn meminfo_bytes(meminfo: &str, name: &str) -> u64 {
    let line = meminfo.lines().find_map(|l| l.strip_prefix(name));
    line.and_then(|l| l.trim().trim_end_matches("kB").trim().parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// `PRETTY_NAME` of os-release(5).
fn os_name(release: &str) -> String {
    let line = release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    line.map(|l| l.trim_matches('"').to_owned()).unwrap_or_else(|| "Linux".into())
}

/// Free and total bytes of the file system that holds `path`.
pub fn disk(path: &Path) -> std::io::Result<(u64, u64)> {
    let s = rustix::fs::statvfs(path)?;
    Ok((s.f_bavail.saturating_mul(s.f_frsize), s.f_blocks.saturating_mul(s.f_frsize)))
}

/// The condition that a disk so full makes. Like its sisters it names the threshold, not the figure of
/// the moment: words that change with every look would be sent with every look.
pub fn disk_pressure(free: u64, total: u64) -> Condition {
    let status = total > 0 && free / (total / 100).max(1) < DISK_PRESSURE_FREE;
    let (reason, message) = if status {
        ("NodeHasDiskPressure", format!("less than {DISK_PRESSURE_FREE} % of {} MiB are free", total >> 20))
    } else {
        ("NodeHasNoDiskPressure", "the node has no disk pressure".to_owned())
    };
    Condition { kind: "DiskPressure".into(), status, reason: reason.into(), message }
}

/// Below this share of available memory (in percent) the node says MemoryPressure.
const MEMORY_PRESSURE_FREE: u64 = 5;
/// Below this share of free process numbers (in percent) the node says PIDPressure.
const PID_PRESSURE_FREE: u64 = 10;

/// The condition that `/proc/meminfo` tells of: what could be had without swapping.
pub fn memory_pressure(meminfo: &str) -> Condition {
    let (available, total) = (meminfo_bytes(meminfo, "MemAvailable:"), meminfo_bytes(meminfo, "MemTotal:"));
    let status = total > 0 && available < total / 100 * MEMORY_PRESSURE_FREE;
    let short = format!("less than {MEMORY_PRESSURE_FREE} % of {} MiB are available", total >> 20);
    pressure("MemoryPressure", status, ["NodeHasInsufficientMemory", "NodeHasSufficientMemory"], short, "memory")
}

/// The condition that `/proc/loadavg` tells of (its fourth field counts threads) under the kernel's
/// limits `pid_max` and `threads-max`.
pub fn pid_pressure(loadavg: &str, limits: &[String]) -> Condition {
    let threads = loadavg.split(' ').nth(3).and_then(|f| f.split('/').nth(1)).and_then(|n| n.parse::<u64>().ok());
    let limit = limits.iter().filter_map(|l| l.trim().parse::<u64>().ok()).min().unwrap_or(u64::MAX);
    let used = threads.unwrap_or(0);
    let status = limit.saturating_sub(used) < limit / 100 * PID_PRESSURE_FREE;
    let short = format!("less than {PID_PRESSURE_FREE} % of {limit} process numbers are free");
    pressure("PIDPressure", status, ["NodeHasInsufficientPID", "NodeHasSufficientPID"], short, "PID")
}

fn pressure(kind: &str, status: bool, [short, enough]: [&str; 2], why: String, of: &str) -> Condition {
    let (reason, message) = if status { (short, why) } else { (enough, format!("the node has no {of} pressure")) };
    Condition { kind: kind.into(), status, reason: reason.into(), message }
}

/// Whether the file system that holds `path` cannot be written: mounted so, or made so by the kernel
/// after an error, which only the mount table tells on newer ones.
pub fn is_read_only(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let mounted = rustix::fs::statvfs(path).is_ok_and(|s| s.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
    let Ok(device) = fs::metadata(path).map(|m| m.dev()) else { return mounted };
    let device = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    mounted || is_super_read_only(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default(), &device)
}

/// Whether mountinfo (proc_pid_mountinfo(5)) says so of a device: its last field has the options of
/// the file system itself.
fn is_super_read_only(mountinfo: &str, device: &str) -> bool {
    let of_device = |line: &&str| line.split(' ').nth(2) == Some(device);
    let options = |line: &str| line.rsplit(' ').next().unwrap_or_default().to_owned();
    let read_only = |o: &str| o.split(',').any(|word| word == "ro" || word == "emergency_ro");
    mountinfo.lines().filter(of_device).any(|line| read_only(&options(line)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_files() {
        assert_eq!(memory_total("MemFree: 1 kB\nMemTotal:       16384 kB\n"), 16 << 20);
        assert_eq!(memory_total("nonsense"), 0);
        assert_eq!(
            os_name("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"),
            "Debian GNU/Linux 12 (bookworm)"
        );
        assert_eq!(os_name(""), "Linux");
    }

    #[test]
    fn pressure_begins_below_the_threshold() {
        assert!(!disk_pressure(10 << 30, 100 << 30).status);
        assert!(disk_pressure(9 << 30, 100 << 30).status);
        assert!(!disk_pressure(0, 0).status);
    }

    #[test]
    fn a_pressure_that_lasts_is_the_same_at_every_look() {
        assert_eq!(disk_pressure(9 << 30, 100 << 30), disk_pressure(5 << 30, 100 << 30));
        let memory = |available| memory_pressure(&format!("MemTotal: 1000000 kB\nMemAvailable: {available} kB\n"));
        assert_eq!(memory(40_000), memory(30_000));
        let processes = |used| pid_pressure(&format!("0.1 0.1 0.1 1/{used} 77\n"), &["4000".to_owned()]);
        assert_eq!(processes(3700), processes(3800));
    }

    #[test]
    fn a_card_that_the_kernel_gave_up_is_read_only() {
        let line = |options: &str| format!("36 35 98:0 /a /b rw,noatime shared:1 - ext4 /dev/x {options}\n");
        assert!(is_super_read_only(&line("ro,errors=remount-ro"), "98:0"));
        assert!(is_super_read_only(&line("rw,emergency_ro"), "98:0"));
        assert!(!is_super_read_only(&line("rw,errors=remount-ro"), "98:0"));
        assert!(!is_super_read_only(&line("ro"), "98:1"));
    }

    #[test]
    fn memory_and_process_numbers_run_short() {
        let memory = |available| memory_pressure(&format!("MemTotal: 1000000 kB\nMemAvailable: {available} kB\n"));
        assert!(!memory(60_000).status);
        let short = memory(40_000);
        assert!(short.status && short.message.starts_with("less than 5 % of 976 MiB"), "{short:?}");
        assert!(!memory_pressure("").status, "what cannot be read is not short");
        let limits = ["32768\n".to_owned(), "4000\n".to_owned()];
        assert!(!pid_pressure("0.1 0.1 0.1 1/3000 77\n", &limits).status);
        assert!(pid_pressure("0.1 0.1 0.1 1/3700 77\n", &limits).status);
        assert!(!pid_pressure("", &[]).status);
    }

    #[test]
    fn a_real_node_has_a_kernel_and_memory() {
        let report = observe(Path::new("/"), Path::new("/"), &NodeFacts { name: "n".into(), ..NodeFacts::default() });
        assert_eq!(report.hostname, "n");
        assert!(report.capacity.memory_bytes > report.allocatable.memory_bytes);
        assert!(report.capacity.cpu_millis >= 1000 && !report.kernel.is_empty());
    }
}
