//! What the unpacking process gives away before it reads the first foreign byte.

use std::os::fd::BorrowedFd;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr,
    Scope,
};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::limits::{ADDRESS_SPACE, DESCRIPTORS};

/// Owners, modes, devices, file capabilities, and `trusted.*` attributes.
const NEEDED: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SYS_ADMIN);

/// Restricts the calling thread, and those that it starts, to files below `root` and to few
/// resources. Answers with what this kernel or this user cannot do: the layer is unpacked all the
/// same, with the other means (paths that the kernel keeps below the root) still in place.
pub fn confine(root: BorrowedFd<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    for (resource, most) in
        [(Resource::Core, 0), (Resource::Nofile, DESCRIPTORS), (Resource::As, ADDRESS_SPACE), (Resource::Memlock, 0)]
    {
        if let Err(error) = setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) }) {
            warnings.push(format!("cannot limit {resource:?}: {error}"));
        }
    }
    if let Err(error) = rustix::thread::set_no_new_privs(true) {
        warnings.push(format!("cannot give up new privileges: {error}"));
    }
    if let Err(error) = restrict_files(root) {
        warnings.push(format!("Landlock with links between directories (Linux 5.19) is not available: {error}"));
    }
    if let Err(error) = drop_capabilities() {
        warnings.push(format!("cannot drop capabilities: {error}"));
    }
    warnings
}

fn drop_capabilities() -> rustix::io::Result<()> {
    let now = rustix::thread::capabilities(None)?;
    let kept = now.permitted & NEEDED;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets)
}

/// Version 2 of Landlock's interface at least, because version 1 forbids every link and rename
/// between directories; from newer ones, what the kernel has.
fn restrict_files(root: BorrowedFd<'_>) -> Result<(), landlock::RulesetError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V2))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V5))?
        .handle_access(AccessNet::from_all(ABI::V4))?
        .scope(Scope::from_all(ABI::V6))?
        .create()?
        .add_rule(PathBeneath::new(root, AccessFs::from_all(ABI::V5)))?
        .restrict_self()?;
    Ok(())
}
