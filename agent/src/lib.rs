//! coracle-agent: runs a node's pods from its ledger.

pub mod fault;
pub mod identity;
pub mod ledger;
pub mod link;
pub mod network;
pub mod node;
pub mod probes;
pub mod reconcile;
pub mod report;
pub mod runtime;
#[allow(unsafe_code)]
mod sys;
pub mod tls;
pub mod trace;
pub mod volumes;
