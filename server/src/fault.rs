//! The server's fault points: see [`coracle_shared::fault`].

pub use coracle_shared::fault::*;

/// All of them. `coracle-server --help` of a build with the feature and `docs/faults.md` list them too.
pub const POINTS: &[Point] = &[
    Point { name: "append-crash", what: "dies when a write is in the journal and not answered" },
    Point { name: "store-sync", what: "a sync of the store's files fails" },
    Point { name: "checkpoint-crash", what: "dies in the middle of a checkpoint" },
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
