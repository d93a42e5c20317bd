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
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"));
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

/// The condition that a disk so full makes.
pub fn disk_pressure(free: u64, total: u64) -> Condition {
    let status = total > 0 && free / (total / 100).max(1) < DISK_PRESSURE_FREE;
    let (reason, message) = if status {
        ("NodeHasDiskPressure", format!("{} MiB of {} MiB are free", free >> 20, total >> 20))
    } else {
        ("NodeHasNoDiskPressure", "the node has no disk pressure".to_owned())
    };
    Condition { kind: "DiskPressure".into(), status, reason: reason.into(), message }
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
    fn a_real_node_has_a_kernel_and_memory() {
        let report = observe(Path::new("/"), Path::new("/"), &NodeFacts { name: "n".into(), ..NodeFacts::default() });
        assert_eq!(report.hostname, "n");
        assert!(report.capacity.memory_bytes > report.allocatable.memory_bytes);
        assert!(report.capacity.cpu_millis >= 1000 && !report.kernel.is_empty());
    }
}
