//! The agent's ledger over a disk that fails: a power cut, a kill or an I/O error at every operation,
//! a full disk, flipped bytes; and ledgers of earlier releases.

mod crash;
#[allow(dead_code, reason = "the store's own tests use the rest of it")]
#[path = "../../server/store/tests/store/sim.rs"]
mod disk;
mod flips;
mod full;
mod golden;
#[path = "../sim/ledger.rs"]
mod ledger;
mod steps;
