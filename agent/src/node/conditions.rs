//! The node's conditions: what is short, what is broken, and what mends it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use coracle_shared::desired::Cidr;
use coracle_shared::ids::PodUid;
use coracle_shared::report::{Condition, PodReport};

use super::Node;
use crate::network::ForeignDrop;
use crate::reconcile::driver::Board;
use crate::reconcile::owner::QUARANTINED;
use crate::report::node::{disk, disk_pressure, is_read_only, memory_pressure, pid_pressure};

/// All that is to be said of the node now. The three pressures are always among them.
pub fn of(node: &Node, board: &Board, state: &Path) -> Vec<Condition> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let (free, total) = disk(state).unwrap_or((0, 0));
    let threads = [read("/proc/sys/kernel/pid_max"), read("/proc/sys/kernel/threads-max")];
    let mut all = vec![
        disk_pressure(free, total),
        memory_pressure(&read("/proc/meminfo")),
        pid_pressure(&read("/proc/loadavg"), &threads),
    ];
    if is_read_only(state) {
        let message = format!(
            "{} cannot be written: what runs goes on and can be removed, nothing new starts; look at `dmesg`, then \
             `mount -o remount,rw` or replace the card",
            state.display()
        );
        all.push(yes("StateReadOnly", "ReadOnlyFileSystem", message));
    }
    for finding in node.runtime.findings() {
        all.push(yes("RuntimeLimited", "MissingFeature", format!("{}; {}", finding.what, finding.mend)));
    }
    all.extend(quarantine(&board.read()));
    if let Some(why) = node.keeper.failing() {
        let message = format!("pods can be removed, none can be started: {why}");
        all.push(yes("LedgerFailing", "CannotPersist", message));
    }
    match node.network.foreign_drops() {
        Ok((drops, Some(pods))) => all.extend(firewall(&drops, pods)),
        Ok((_, None)) => {}
        // Said once a look: without it only the hint is missing.
        Err(e) => eprintln!("network: {e}"),
    }
    all
}

fn yes(kind: &str, reason: &str, message: String) -> Condition {
    Condition { kind: kind.into(), status: true, reason: reason.into(), message }
}

/// Names the chains of other programs that drop what goes between pods, and what lets it by.
fn firewall(drops: &[ForeignDrop], pods: Cidr) -> Option<Condition> {
    let first = drops.first()?;
    let chains: Vec<_> = drops.iter().map(|d| d.chain.as_str()).collect();
    let network = format!("{}/{}", pods.address, pods.prefix);
    let message = format!(
        "another firewall on this node drops forwarded packets ({}), so pods do not reach each other; let theirs by: \
         `nft insert rule {chain} ip saddr {network} accept` and `nft insert rule {chain} ip daddr {network} accept`, \
         or the same in that firewall's own settings",
        chains.join(", "),
        chain = first.chain,
    );
    Some(yes("ForwardingBlocked", "ForeignFirewall", message))
}

/// Names the pods that are left alone.
fn quarantine(reports: &BTreeMap<PodUid, PodReport>) -> Option<Condition> {
    // Enough to look at; the pods say it themselves.
    const NAMED: usize = 5;
    let held = || reports.values().filter(|r| r.reason == QUARANTINED);
    let named: Vec<_> = held().take(NAMED).map(|r| format!("{}/{}", r.namespace, r.name)).collect();
    (!named.is_empty()).then(|| {
        let (count, names) = (held().count(), named.join(", "));
        let message = format!("the agent crashed twice over {count} pods and leaves them alone for a while: {names}");
        yes("PodsQuarantined", "AgentCrashed", message)
    })
}
