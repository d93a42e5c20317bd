//! Power cuts, kills and I/O errors at every operation of the disk.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use coracle_agent::ledger::{Contents, Ledger, LedgerError};

use crate::disk::{Fault, SimDisk, Survives};
use crate::ledger::SimLedger;
use crate::steps::{after, differs, seal, step};

/// Steps of a whole run.
const RUN: u64 = 10;
/// Steps that show that a ledger works on, of every kind.
const SHORT: u64 = 4;
const ALL: [Survives; 4] = [Survives::Nothing, Survives::Everything, Survives::Any, Survives::Any];

/// A node's disk, and what its ledger has to hold.
#[derive(Clone)]
struct Node {
    disk: SimDisk,
    doubted: Arc<AtomicBool>,
    /// Acknowledged.
    holds: Contents,
    /// With the change whose outcome nobody knows.
    maybe: Option<Contents>,
}

impl Node {
    fn new(seed: u64) -> Node {
        Node { disk: SimDisk::new(seed), doubted: Arc::default(), holds: Contents::default(), maybe: None }
    }

    fn open(&self) -> Result<Ledger<SimLedger>, LedgerError> {
        Ledger::open(SimLedger::new(self.disk.clone(), self.doubted.clone()), seal())
    }

    /// Commits steps as long as it works. Whether all of them did.
    fn run(&mut self, ledger: &mut Ledger<SimLedger>, steps: std::ops::Range<u64>) -> bool {
        for number in steps {
            if !self.step(ledger, number) {
                return false;
            }
        }
        true
    }

    fn step(&mut self, ledger: &mut Ledger<SimLedger>, number: u64) -> bool {
        let change = step(number);
        let done = ledger.commit(&change).is_ok();
        if let Some(found) = ledger.take_found() {
            self.check(&found, "opened again");
            (self.holds, self.maybe) = (found, None);
        }
        let next = after(self.holds.clone(), &change);
        if done {
            (self.holds, self.maybe) = (next, None);
            return true;
        }
        // Removals are acted on, and written later. A change that was not tried, because opening failed,
        // leaves the doubt about the one before.
        let removals = change.removals();
        self.maybe = Some(self.maybe.take().map_or(next, |maybe| after(maybe, &removals)));
        self.holds = after(self.holds.clone(), &removals);
        false
    }

    fn check(&self, found: &Contents, when: &str) {
        let known = *found == self.holds || self.maybe.as_ref() == Some(found);
        assert!(known, "{when}: {}", differs(found, &self.holds));
    }

    /// What the next process finds.
    fn recovered(&self, before: &Contents) -> Ledger<SimLedger> {
        let ledger = self.open().unwrap_or_else(|e| panic!("{e}"));
        let found = ledger.read().unwrap_or_else(|e| panic!("{e}"));
        // Removals that could not be written are said again by the server.
        assert!(found == *before || self.maybe.as_ref() == Some(&found), "{}", differs(&found, before));
        ledger
    }

    fn cut(&self, survives: Survives, seed: u64) -> Node {
        let disk = self.disk.after_cut(survives, seed);
        Node { disk, doubted: Arc::default(), ..self.clone() }
    }

    fn killed(&self) -> Node {
        let doubted = AtomicBool::new(self.doubted.load(std::sync::atomic::Ordering::Relaxed));
        Node { disk: self.disk.after_kill(), doubted: Arc::new(doubted), ..self.clone() }
    }

    /// Recovers, works on, and loses its power once more.
    fn works_on(mut self, before: &Contents, seed: u64) {
        let mut ledger = self.recovered(before);
        (self.holds, self.maybe) = (ledger.read().unwrap_or_else(|e| panic!("{e}")), None);
        assert!(self.run(&mut ledger, 100..100 + SHORT), "the disk works");
        let cut = self.cut(Survives::Any, seed);
        drop(cut.recovered(&self.holds));
    }
}

/// Runs on a disk that fails at an operation. The node, and what was acknowledged when it first
/// failed; `None`: nothing failed any more.
fn fail(at: u64, fault: Fault) -> Option<(Node, Contents)> {
    let mut node = Node::new(at);
    let mut ledger = node.open().expect("nothing fails yet");
    node.disk.inject(at, fault);
    let mut before = Contents::default();
    for number in 0..RUN {
        before = node.holds.clone();
        if !node.step(&mut ledger, number) {
            break;
        }
    }
    if !node.disk.struck() {
        return None;
    }
    // What it still tries goes to the failed disk.
    let failed = node.killed();
    failed.disk.inject(0, Fault::Errors(0));
    drop(ledger);
    Some((failed, before))
}

#[test]
fn a_power_cut_at_every_operation() {
    let mut cuts = 0;
    while let Some((node, before)) = fail(cuts, Fault::Cut) {
        for (seed, survives) in ALL.into_iter().enumerate() {
            println!("cut at operation {cuts}, {survives:?} survives, seed {seed}");
            node.cut(survives, seed as u64).works_on(&before, cuts);
        }
        cuts += 1;
    }
    assert!(cuts > 80, "only {cuts} operations were cut");
}

#[test]
fn a_power_cut_while_a_new_ledger_is_made() {
    for cut in 0.. {
        let node = Node::new(cut);
        node.disk.inject(cut, Fault::Cut);
        let made = node.open();
        if !node.disk.struck() {
            assert!(cut > 3, "only {cut} operations were cut");
            return;
        }
        assert!(made.is_err(), "it was made although its disk failed");
        for (seed, survives) in ALL.into_iter().enumerate() {
            let left = node.cut(survives, seed as u64);
            // It held nothing: whether it opens or is moved aside is all one.
            if let Ok(ledger) = left.open() {
                assert_eq!(ledger.read().expect("an empty ledger"), Contents::default());
            }
        }
    }
}

#[test]
fn a_power_cut_at_every_operation_of_a_recovery() {
    let mut again = 0;
    for first in (0..80).step_by(7) {
        let Some((node, before)) = fail(first, Fault::Cut) else { break };
        for second in 0.. {
            let mut node = node.cut(Survives::Any, second);
            // As after a failed sync and a kill: everything is written again first.
            node.doubted = Arc::new(AtomicBool::new(second % 2 == 1));
            node.disk.inject(second / 2, Fault::Cut);
            drop(node.open());
            if !node.disk.struck() {
                break;
            }
            for survives in ALL {
                println!("cut at operation {first}, again at {second}, {survives:?} survives");
                drop(node.cut(survives, second).recovered(&before));
            }
            again += 1;
        }
    }
    assert!(again > 50, "only {again} recoveries were cut");
}

/// The same process goes on; then the power goes.
#[test]
fn an_io_error_at_every_operation() {
    for errors in [1, 3, 30] {
        let mut struck = 0;
        for at in 0.. {
            println!("{errors} errors from operation {at} on");
            let mut node = Node::new(at);
            let mut ledger = node.open().expect("nothing fails yet");
            node.disk.inject(at, Fault::Errors(errors));
            for number in 0..RUN {
                node.step(&mut ledger, number);
            }
            if !node.disk.struck() {
                break;
            }
            struck += 1;
            node.disk.heal();
            // What could not be written is offered again.
            assert!(node.run(&mut ledger, 40..40 + SHORT), "it works again when the disk does");
            for seed in 0..3 {
                node.cut(Survives::Any, seed).works_on(&node.holds, at);
            }
        }
        assert!(struck > 80, "only {struck} operations failed");
    }
}

/// The agent is killed after the error: the kernel's memory still shows what the disk has not.
#[test]
fn an_io_error_a_kill_and_a_power_cut() {
    for errors in [1, 4] {
        for at in 0.. {
            println!("{errors} errors from operation {at} on");
            let Some((node, before)) = fail(at, Fault::Errors(errors)) else { break };
            for seed in 0..2 {
                node.killed().works_on(&before, seed);
                node.cut(Survives::Any, seed).works_on(&before, seed);
            }
        }
    }
}
