//! One hierarchy a controller (or a few), each with a place of its own for the caller.

use std::io;
use std::path::{Path, PathBuf};

use super::{
    CONTROLLERS, CPU_PERIOD, Cgroups, Entry, Finding, Resources, View, make, missing, quota, set, set_if_there,
};

/// Kernel limit of memory.limit_in_bytes: anything above means none.
const UNLIMITED: &str = "-1";

pub struct Split {
    hierarchies: Vec<Hierarchy>,
    findings: Vec<Finding>,
}

struct Hierarchy {
    /// The mount's controllers, as its mount option: `cpu,cpuacct`.
    option: String,
    controllers: Vec<&'static str>,
    /// The node's root in it.
    root: PathBuf,
}

/// A line of `/proc/self/mountinfo`, as far as cgroups need it.
pub struct Mount {
    pub kind: String,
    pub point: PathBuf,
    /// The part of the hierarchy that is mounted.
    pub root: PathBuf,
    pub options: String,
}

pub fn mounts(mountinfo: &str) -> impl Iterator<Item = Mount> {
    mountinfo.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let mut right = right.split(' ');
        Some(Mount {
            root: left.next()?.into(),
            point: left.next()?.into(),
            kind: right.next()?.into(),
            options: right.nth(1)?.into(),
        })
    })
}

/// The caller's group of each controller, out of `/proc/self/cgroup`.
fn own_group<'a>(own: &'a str, controller: &str) -> Option<&'a str> {
    own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let names = fields.next()?;
        names.split(',').any(|n| n == controller).then(|| fields.next())?
    })
}

/// The directory of `group` below a mount that may show only part of its hierarchy.
fn below(mount: &Mount, group: &str) -> PathBuf {
    let group = Path::new(group);
    mount.point.join(group.strip_prefix(&mount.root).or(group.strip_prefix("/")).unwrap_or(Path::new("")))
}

impl Split {
    pub fn open(mountinfo: &str, own: &str, relative: &Path) -> io::Result<Split> {
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        let mut findings = Vec::new();
        for controller in CONTROLLERS {
            let is = |m: &Mount| m.kind == "cgroup" && m.options.split(',').any(|o| o == controller);
            let found = mounts(mountinfo).find(is).zip(own_group(own, controller));
            let Some((mount, group)) = found else {
                findings.push(missing(controller, "no v1 hierarchy has it"));
                continue;
            };
            // Once the agent has moved into its own group, that group's parent is the root.
            let agent = relative.join("agent");
            let base = below(&mount, group);
            let base = if base.ends_with(&agent) { strip(&base, &agent) } else { base };
            let root = base.join(relative);
            match hierarchies.iter_mut().find(|h| h.root == root) {
                Some(h) => h.controllers.push(controller),
                None => {
                    hierarchies.push(Hierarchy { option: option(&mount), controllers: vec![controller], root });
                }
            }
        }
        if hierarchies.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "no cgroup hierarchy is mounted"));
        }
        for hierarchy in &hierarchies {
            for group in ["agent", "pause", "pods"] {
                std::fs::create_dir_all(hierarchy.root.join(group))?;
            }
        }
        Ok(Split { hierarchies, findings })
    }
}

fn strip(path: &Path, tail: &Path) -> PathBuf {
    path.components().take(path.components().count() - tail.components().count()).collect()
}

/// `cpu,cpuacct` out of `rw,cpu,cpuacct`.
fn option(mount: &Mount) -> String {
    mount.options.split(',').filter(|o| !matches!(*o, "rw" | "ro" | "xattr")).collect::<Vec<_>>().join(",")
}

impl Hierarchy {
    fn update(&self, group: &str, limits: &Resources) -> io::Result<()> {
        let dir = self.root.join(group);
        for controller in &self.controllers {
            match *controller {
                "memory" => memory(&dir, limits)?,
                "cpu" => {
                    if let Some(millis) = limits.cpu_request_millis {
                        set(&dir.join("cpu.shares"), &super::shares(millis).to_string())?;
                    }
                    if let Some(millis) = limits.cpu_limit_millis {
                        set_if_there(&dir.join("cpu.cfs_period_us"), &CPU_PERIOD.to_string())?;
                        set(&dir.join("cpu.cfs_quota_us"), &quota(millis).to_string())?;
                    }
                }
                _ => {
                    if let Some(pids) = limits.pids_limit {
                        set(&dir.join("pids.max"), &pids.to_string())?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Memory with swap must never be below memory alone, whichever way the limit moves.
fn memory(dir: &Path, limits: &Resources) -> io::Result<()> {
    let Some(bytes) = limits.memory_limit_bytes else { return Ok(()) };
    let (memory, swap) = (dir.join("memory.limit_in_bytes"), dir.join("memory.memsw.limit_in_bytes"));
    let _ = set(&swap, UNLIMITED);
    set(&memory, &bytes.to_string())?;
    set_if_there(&swap, &bytes.to_string())
}

impl Cgroups for Split {
    fn create(&self, group: &str, limits: &Resources) -> io::Result<()> {
        for hierarchy in &self.hierarchies {
            make(&hierarchy.root.join(group))?;
            hierarchy.update(group, limits)?;
        }
        Ok(())
    }

    fn create_parent(&self, group: &str, limits: &Resources) -> io::Result<()> {
        self.create(group, limits)
    }

    fn update(&self, group: &str, limits: &Resources) -> io::Result<()> {
        self.hierarchies.iter().try_for_each(|h| h.update(group, limits))
    }

    fn entry(&self, group: &str) -> Entry {
        let memory = self.hierarchies.iter().find(|h| h.controllers.contains(&"memory"));
        Entry {
            join: self.hierarchies.iter().map(|h| h.root.join(group).join("tasks")).collect(),
            into: None,
            oom_file: memory.map(|h| h.root.join(group).join("memory.oom_control")),
            kill_file: self.hierarchies.first().map(|h| h.root.join(group).join("cgroup.procs")),
        }
    }

    fn directories(&self, group: &str) -> Vec<PathBuf> {
        self.hierarchies.iter().map(|h| h.root.join(group)).collect()
    }

    fn has(&self, controller: &str) -> bool {
        self.hierarchies.iter().any(|h| h.controllers.contains(&controller))
    }

    fn view(&self) -> View {
        View::Controllers(self.hierarchies.iter().map(|h| h.option.clone()).collect())
    }

    fn findings(&self) -> &[Finding] {
        &self.findings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:33 /docker/abc /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn groups_resolve_per_controller_under_the_callers_own() {
        let own = "8:pids:/docker/abc/x\n4:memory:/api/d9\n1:cpu,cpuacct:/\n0::/\n";
        let check = |controller: &str, expect: &str| {
            let mount = mounts(MOUNTS).find(|m| m.options.split(',').any(|o| o == controller)).unwrap();
            assert_eq!(below(&mount, own_group(own, controller).unwrap()), Path::new(expect));
        };
        check("cpu", "/sys/fs/cgroup/cpu,cpuacct");
        check("memory", "/sys/fs/cgroup/memory/api/d9");
        check("pids", "/sys/fs/cgroup/pids/x");
        assert_eq!(own_group(own, "io"), None);
    }

    #[test]
    fn a_mount_keeps_its_controllers_as_option() {
        let mount = mounts(MOUNTS).nth(1).unwrap();
        assert_eq!(option(&mount), "cpu,cpuacct");
        assert_eq!(super::super::v2::mount_point(MOUNTS), None);
    }

    #[test]
    fn a_limit_that_the_node_cannot_hold_is_refused_with_its_mend() {
        let cpu = Hierarchy { option: "cpu".into(), controllers: vec!["cpu"], root: "/c".into() };
        let node = Split { hierarchies: vec![cpu], findings: vec![missing("memory", "no v1 hierarchy has it")] };
        let check = |limits: Resources| super::super::check(&node, &limits);
        assert!(check(Resources { cpu_limit_millis: Some(1), ..Resources::default() }).is_ok());
        let refused = check(Resources { memory_limit_bytes: Some(1), ..Resources::default() });
        assert!(refused.unwrap_err().to_string().contains("cgroup_enable=memory"));
    }
}
