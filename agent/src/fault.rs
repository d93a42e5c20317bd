//! The agent's fault points: see [`coracle_shared::fault`].

use std::collections::BTreeMap;

pub use coracle_shared::fault::*;

/// All of them. `coracle-agent --help` of a build with the feature and `docs/faults.md` list them too.
pub const POINTS: &[Point] = &[
    Point { name: "start-crash", what: "dies before it starts a container" },
    Point { name: "start-unrecorded", what: "dies when a container was started and nobody was told" },
    Point { name: "teardown-crash", what: "dies before it takes a pod's sandbox away" },
    Point { name: "publish-crash", what: "dies when a change is in the ledger and not acted on" },
    Point { name: "reconcile-hang", what: "the reconcile loop hangs before it begins a container's start" },
    Point { name: "ledger-write", what: "a write to the ledger fails" },
    Point { name: "ledger-sync", what: "a sync of the ledger fails" },
    Point { name: "image-sync", what: "the sync after an image was unpacked fails" },
];

/// Arms what `--fault` named.
///
/// # Errors
/// A word that names no point.
#[cfg(feature = "faults")]
pub fn arm_all(words: &[String]) -> Result<(), String> {
    arm(words, POINTS, |point| {
        eprintln!("fault point {point} strikes");
        std::process::abort()
    })
}

/// The point that a pod's annotation names, for the work on that pod.
pub fn of_pod(annotations: &BTreeMap<String, String>) -> Option<&str> {
    annotations.get(ANNOTATION).map(String::as_str)
}
