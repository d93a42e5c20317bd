//! What goes wrong, and how often it did.

use std::collections::BTreeMap;

/// The kinds of fault. Over a run of many seeds each has to strike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    ServerKilled,
    ServerPowerCut,
    ServerCutMidWrite,
    ServerDiskErrors,
    AgentKilled,
    NodePowerCut,
    LedgerCutMidWrite,
    LedgerErrors,
    LinkReset,
    LinkDown,
    NodeLostForLong,
    MessageLate,
    MessageLost,
    OldConnectionOvertaken,
    ContainerDied,
    SandboxDied,
    StartFailed,
    PullFailed,
    TeardownFailed,
    JobHung,
    NodeDeleted,
}

pub const ALL: [Kind; 21] = [
    Kind::ServerKilled,
    Kind::ServerPowerCut,
    Kind::ServerCutMidWrite,
    Kind::ServerDiskErrors,
    Kind::AgentKilled,
    Kind::NodePowerCut,
    Kind::LedgerCutMidWrite,
    Kind::LedgerErrors,
    Kind::LinkReset,
    Kind::LinkDown,
    Kind::NodeLostForLong,
    Kind::MessageLate,
    Kind::MessageLost,
    Kind::OldConnectionOvertaken,
    Kind::ContainerDied,
    Kind::SandboxDied,
    Kind::StartFailed,
    Kind::PullFailed,
    Kind::TeardownFailed,
    Kind::JobHung,
    Kind::NodeDeleted,
];

/// How often each kind struck.
#[derive(Clone, Debug, Default)]
pub struct Struck(pub BTreeMap<Kind, u64>);

impl Struck {
    pub fn note(&mut self, kind: Kind) {
        *self.0.entry(kind).or_default() += 1;
    }

    pub fn add(&mut self, other: &Struck) {
        for (kind, count) in &other.0 {
            *self.0.entry(*kind).or_default() += count;
        }
    }

    pub fn never(&self) -> Vec<Kind> {
        ALL.into_iter().filter(|kind| !self.0.contains_key(kind)).collect()
    }
}
