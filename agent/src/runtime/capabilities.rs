//! Capabilities by name, and the usual default set.

use super::{Error, Security};

/// In the order of their numbers.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, NET_RAW,
/// SYS_CHROOT, MKNOD, AUDIT_WRITE, SETFCAP.
const DEFAULT: u64 = 0xa804_25fb;
const ALL: u64 = u64::MAX;

/// The set that `security` asks for, as bits; ones that the kernel lacks may be in it.
///
/// # Errors
/// [`Error::Invalid`] for a name that no capability has.
pub fn wanted(security: &Security) -> Result<u64, Error> {
    if security.privileged {
        return Ok(ALL);
    }
    let add = security.add_capabilities.iter().map(|n| bits(n)).collect::<Result<Vec<_>, _>>()?;
    let drop = security.drop_capabilities.iter().map(|n| bits(n)).collect::<Result<Vec<_>, _>>()?;
    // "drop ALL, add X" is X; "add ALL, drop X" is all but X: ALL first, single names after.
    let mut set = if drop.contains(&ALL) { 0 } else { DEFAULT };
    if add.contains(&ALL) {
        set = ALL;
    }
    for bit in drop.iter().filter(|b| **b != ALL) {
        set &= !bit;
    }
    for bit in add.iter().filter(|b| **b != ALL) {
        set |= bit;
    }
    Ok(set)
}

fn bits(name: &str) -> Result<u64, Error> {
    let upper = name.to_ascii_uppercase();
    let plain = upper.strip_prefix("CAP_").unwrap_or(&upper);
    if plain == "ALL" {
        return Ok(ALL);
    }
    let number = NAMES.iter().position(|n| *n == plain);
    number.map(|n| 1 << n).ok_or_else(|| Error::Invalid(format!("unknown capability {name:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_follow_add_and_drop() {
        let check = |add: &[&str], drop: &[&str], expect: u64| {
            let list = |names: &[&str]| names.iter().map(|n| n.to_string()).collect();
            let security =
                Security { add_capabilities: list(add), drop_capabilities: list(drop), ..Security::default() };
            assert_eq!(wanted(&security).unwrap(), expect, "add {add:?} drop {drop:?}");
        };
        check(&[], &[], DEFAULT);
        check(&["NET_ADMIN"], &[], DEFAULT | 1 << 12);
        check(&["CAP_SYS_TIME"], &["ALL"], 1 << 25);
        check(&["ALL"], &["sys_admin"], ALL & !(1 << 21));
        check(&[], &["MKNOD", "NET_RAW"], DEFAULT & !(1 << 27) & !(1 << 13));
    }

    #[test]
    fn an_unknown_name_is_refused() {
        let security = Security { add_capabilities: vec!["FLY".into()], ..Security::default() };
        assert!(wanted(&security).is_err());
    }
}
