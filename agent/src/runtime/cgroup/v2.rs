//! One unified hierarchy.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{
    CONTROLLERS, CPU_PERIOD, Cgroups, Entry, Finding, Resources, View, make, missing, quota, set, set_if_there,
};

pub struct Unified {
    root: PathBuf,
    /// Of [`CONTROLLERS`], those that can be used below the root.
    controllers: Vec<&'static str>,
    findings: Vec<Finding>,
}

/// Where cgroup2 is mounted, when it is the node's only hierarchy (`/sys/fs/cgroup` itself).
pub fn mount_point(mountinfo: &str) -> Option<PathBuf> {
    super::v1::mounts(mountinfo)
        .find(|m| m.kind == "cgroup2" && m.point == Path::new("/sys/fs/cgroup"))
        .map(|m| m.point)
}

impl Unified {
    pub fn open(mount: &Path, relative: &Path) -> io::Result<Unified> {
        let mut dir = mount.to_path_buf();
        let mut findings = Vec::new();
        let offered = fs::read_to_string(mount.join("cgroup.controllers"))?;
        let mut controllers: Vec<&'static str> =
            CONTROLLERS.into_iter().filter(|c| offered.split_whitespace().any(|o| o == *c)).collect();
        for controller in CONTROLLERS.into_iter().filter(|c| !controllers.contains(c)) {
            findings.push(missing(controller, "the kernel does not offer it"));
        }
        for part in relative.components() {
            enable(&dir, &mut controllers, &mut findings);
            dir.push(part);
            make(&dir)?;
        }
        enable(&dir, &mut controllers, &mut findings);
        for group in ["agent", "pause", "pods"] {
            make(&dir.join(group))?;
        }
        enable(&dir.join("pods"), &mut controllers, &mut findings);
        Ok(Unified { root: dir, controllers, findings })
    }
}

/// Hands the controllers on to the groups below `dir`. One that cannot be is taken off the list.
fn enable(dir: &Path, controllers: &mut Vec<&'static str>, findings: &mut Vec<Finding>) {
    let file = dir.join("cgroup.subtree_control");
    let on = fs::read_to_string(&file).unwrap_or_default();
    controllers.retain(|controller| {
        if on.split_whitespace().any(|c| c == *controller) {
            return true;
        }
        let result = set(&file, &format!("+{controller}"));
        if let Err(e) = &result {
            findings.push(missing(controller, &format!("{} does not take it: {e}", file.display())));
        }
        result.is_ok()
    });
}

impl Cgroups for Unified {
    fn create(&self, group: &str, limits: &Resources) -> io::Result<()> {
        make(&self.root.join(group))?;
        if limits.memory_limit_bytes.is_some() && self.has("memory") {
            // One process of a container killed for memory takes the others with it.
            set_if_there(&self.root.join(group).join("memory.oom.group"), "1")?;
        }
        self.update(group, limits)
    }

    fn create_parent(&self, group: &str, limits: &Resources) -> io::Result<()> {
        let dir = self.root.join(group);
        make(&dir)?;
        if !self.controllers.is_empty() {
            let all: Vec<_> = self.controllers.iter().map(|c| format!("+{c}")).collect();
            set(&dir.join("cgroup.subtree_control"), &all.join(" "))?;
        }
        self.update(group, limits)
    }

    fn update(&self, group: &str, limits: &Resources) -> io::Result<()> {
        let dir = self.root.join(group);
        if let Some(bytes) = limits.memory_limit_bytes.filter(|_| self.has("memory")) {
            set(&dir.join("memory.max"), &bytes.to_string())?;
            set_if_there(&dir.join("memory.swap.max"), "0")?;
        }
        if self.has("cpu") {
            if let Some(millis) = limits.cpu_request_millis {
                set(&dir.join("cpu.weight"), &super::weight(super::shares(millis)).to_string())?;
            }
            if let Some(millis) = limits.cpu_limit_millis {
                set(&dir.join("cpu.max"), &format!("{} {CPU_PERIOD}", quota(millis)))?;
            }
        }
        if let Some(pids) = limits.pids_limit.filter(|_| self.has("pids")) {
            set(&dir.join("pids.max"), &pids.to_string())?;
        }
        Ok(())
    }

    fn entry(&self, group: &str) -> Entry {
        let dir = self.root.join(group);
        Entry {
            join: Vec::new(),
            oom_file: self.has("memory").then(|| dir.join("memory.events")),
            kill_file: Some(dir.join("cgroup.kill")),
            into: Some(dir),
        }
    }

    fn directories(&self, group: &str) -> Vec<PathBuf> {
        vec![self.root.join(group)]
    }

    fn has(&self, controller: &str) -> bool {
        self.controllers.contains(&controller)
    }

    fn view(&self) -> View {
        View::Unified
    }

    fn findings(&self) -> &[Finding] {
        &self.findings
    }
}
