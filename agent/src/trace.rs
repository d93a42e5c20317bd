//! `--trace`: a line on standard error when a stage of the node's work begins, and one when it ends.
//!
//! For people who look on, and for tests that cut the power in the middle of a stage: a stage whose end
//! was not written had not ended.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use coracle_images::Event;

static ON: AtomicBool = AtomicBool::new(false);

/// Traces from now on.
pub fn on() {
    ON.store(true, Ordering::Relaxed);
}

/// A stage that goes on until this is dropped.
#[must_use]
pub struct Stage {
    /// `None`: nobody looks.
    line: Option<String>,
}

/// Begins a stage of the work on something: `trace: begin pulling pod 3f…`.
pub fn stage(name: &str, what: impl Display) -> Stage {
    let line = ON.load(Ordering::Relaxed).then(|| format!("{name} {what}"));
    if let Some(line) = &line {
        eprintln!("trace: begin {line}");
    }
    Stage { line }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(line) = &self.line {
            eprintln!("trace: end {line}");
        }
    }
}

/// The stages of an image's pull: its bytes arrive; then what arrived is unpacked, checked and synced,
/// until this is dropped.
#[derive(Default)]
pub struct Pull(Mutex<Arrival>);

#[derive(Default)]
struct Arrival {
    missing: u64,
    arrived: u64,
    stage: Option<Stage>,
}

impl Pull {
    pub fn see(&self, event: Event, what: impl Display) {
        let mut arrival = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Resolved { missing_bytes: missing @ 1.., .. } => {
                *arrival = Arrival { missing, arrived: 0, stage: Some(stage("pulling", what)) };
            }
            Event::Layer { bytes, total, .. } if bytes == total => {
                arrival.arrived += total;
                if arrival.arrived == arrival.missing {
                    arrival.stage = None;
                    arrival.stage = Some(stage("unpacking", what));
                }
            }
            _ => {}
        }
    }
}
