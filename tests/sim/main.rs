//! The cluster in one process and in virtual time: the product's own store, pipeline, controllers,
//! scheduler, sessions, ledgers and pod machines; only disk, link, clock and runtime are fakes.
//!
//! `cargo test -p coracle-tests --test sim` runs 200 seeds. `-- --seed N` (or `SIM_SEED=N`) replays
//! one with its trace; `-- --seeds N` runs another number, `--from N` from another seed on.

#![allow(clippy::print_stdout, reason = "a test that prints its trace")]

mod acts;
mod agent;
mod chaos;
mod check;
mod clock;
#[allow(dead_code, reason = "the store's own tests use the rest of it")]
#[path = "../../server/store/tests/store/sim.rs"]
mod disk;
mod faults;
mod ledger;
mod link;
mod runtime;
mod server;
mod workload;
mod world;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use faults::Struck;
use world::{World, attempt};

/// Seeds of a usual run.
const SEEDS: u64 = 200;

struct Flags {
    seed: Option<u64>,
    from: u64,
    seeds: u64,
}

impl Flags {
    /// What the harness passes for other tests (filters, `--nocapture`) is not for this one; `None`:
    /// this test is not asked for.
    fn parse() -> Option<Flags> {
        let number = |text: Option<String>| text.and_then(|text| text.parse().ok());
        let mut flags = Flags { seed: number(std::env::var("SIM_SEED").ok()), from: 1, seeds: SEEDS };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--seed" => flags.seed = number(arguments.next()),
                "--seeds" => flags.seeds = number(arguments.next()).unwrap_or(SEEDS),
                "--from" => flags.from = number(arguments.next()).unwrap_or(1),
                "--list" | "--ignored" => return None,
                "--skip" | "--test-threads" | "--format" => drop(arguments.next()),
                other if other.starts_with('-') => {}
                filter if "sim".contains(filter) => {}
                _ => return None,
            }
        }
        Some(flags)
    }
}

/// Runs one seed to its end.
fn run(seed: u64, trace: bool) -> (Result<(), String>, Struck, u64) {
    let mut world = World::new(seed, trace);
    let outcome = attempt(|| world.live());
    let result = (outcome, world.struck.clone(), world.digest);
    if result.0.is_err() {
        // Half-done work may hold locks: nothing of it is put away.
        std::mem::forget(world);
    }
    result
}

/// Runs all seeds, on as many threads as there are cores; each seed has a world of its own. The error
/// is the first seed's that fails.
fn run_all(flags: &Flags) -> Result<Struck, String> {
    let (next, end) = (AtomicU64::new(flags.from), flags.from + flags.seeds);
    let (struck, failed) = (Mutex::new(Struck::default()), Mutex::new(BTreeMap::new()));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end || !lock(&failed).is_empty() {
                return;
            }
            let (outcome, faults, digest) = run(seed, false);
            lock(&struck).add(&faults);
            if let Err(why) = outcome {
                let replay = format!("replay it: cargo test -p coracle-tests --test sim -- --seed {seed}");
                lock(&failed).insert(seed, format!("seed {seed} fails: {why}\n{replay}"));
            } else if seed == flags.from && run(seed, false).2 != digest {
                lock(&failed).insert(seed, format!("seed {seed} does not replay: two runs of it differ"));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, |cores| cores.get()) {
            scope.spawn(work);
        }
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner).pop_first() {
        Some((_, why)) => Err(why),
        None => Ok(struck.into_inner().unwrap_or_else(PoisonError::into_inner)),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn main() -> ExitCode {
    let Some(flags) = Flags::parse() else { return ExitCode::SUCCESS };
    if let Some(seed) = flags.seed {
        let (outcome, struck, digest) = run(seed, true);
        println!("seed {seed}: trace {digest:016x}, faults {:?}", struck.0);
        return match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                println!("seed {seed} fails: {why}");
                ExitCode::FAILURE
            }
        };
    }
    std::panic::set_hook(Box::new(|_| {}));
    match judge(&flags) {
        Ok(()) => {
            println!("test result: ok. {} passed; 0 failed; 0 ignored; 0 measured; 0 filtered out", flags.seeds);
            ExitCode::SUCCESS
        }
        Err(why) => {
            println!("{why}\ntest result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out");
            ExitCode::FAILURE
        }
    }
}

/// Runs the seeds and says which faults struck; a kind that never did proves nothing.
fn judge(flags: &Flags) -> Result<(), String> {
    let struck = run_all(flags)?;
    println!("{} seeds hold; faults struck:", flags.seeds);
    struck.0.iter().for_each(|(kind, count)| println!("{count:>8} {kind:?}"));
    let never = struck.never();
    if never.is_empty() || flags.seeds < SEEDS { Ok(()) } else { Err(format!("never struck: {never:?}")) }
}
