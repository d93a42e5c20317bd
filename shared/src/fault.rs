//! Fault points: named places at which a test makes a program fail. They exist only with the cargo
//! feature `faults`; without it [`strikes`] is a constant `false` and nothing of them is compiled in.

use std::io;

/// The annotation of a pod that names a fault point: it strikes in the work on that pod, each time.
pub const ANNOTATION: &str = "coracle.dev/fault";

/// A fault point of a program: its name, and what it does there.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    pub name: &'static str,
    pub what: &'static str,
}

/// What to do when a point that ends the program strikes.
pub type Crash = fn(&str);

#[cfg(feature = "faults")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::{Crash, Point};

    /// A point that `--fault POINT[:N]` named.
    #[derive(Debug)]
    pub struct Armed {
        name: &'static str,
        /// Strikes at this passage alone; `None`: at each.
        only: Option<u64>,
        passed: AtomicU64,
    }

    impl Armed {
        pub fn parse(word: &str, points: &[Point]) -> Result<Armed, String> {
            let (name, only) = match word.split_once(':') {
                None => (word, None),
                Some((name, number)) => match number.parse::<u64>() {
                    Ok(n @ 1..) => (name, Some(n)),
                    _ => return Err(format!("--fault {word}: after the colon comes a number from 1 on")),
                },
            };
            let known = || points.iter().map(|p| p.name).collect::<Vec<_>>().join(", ");
            let found = points.iter().find(|p| p.name == name);
            let point = found.ok_or_else(|| format!("--fault {name}: no such point; there are {}", known()))?;
            Ok(Armed { name: point.name, only, passed: AtomicU64::new(0) })
        }

        pub fn strikes(&self) -> bool {
            let passage = self.passed.fetch_add(1, Ordering::Relaxed) + 1;
            self.only.is_none_or(|only| only == passage)
        }
    }

    struct All {
        points: Vec<Armed>,
        crash: Crash,
    }

    static ARMED: OnceLock<All> = OnceLock::new();

    /// Arms the points that `words` name, once for the whole program.
    ///
    /// # Errors
    /// A word names no point, for a person.
    pub fn arm(words: &[String], points: &[Point], crash: Crash) -> Result<(), String> {
        let points = words.iter().map(|word| Armed::parse(word, points)).collect::<Result<_, _>>()?;
        ARMED.set(All { points, crash }).map_err(|_| "fault points are armed once".to_owned())
    }

    /// Whether `point` strikes at this passage.
    pub fn strikes(point: &str) -> bool {
        ARMED.get().is_some_and(|all| all.points.iter().any(|armed| armed.name == point && armed.strikes()))
    }

    /// Ends the program if `point` strikes, or if `item` (a pod's annotation) names it.
    pub fn crash_in(point: &str, item: Option<&str>) {
        if item == Some(point) || strikes(point) {
            match ARMED.get() {
                Some(all) => (all.crash)(point),
                None => panic!("fault point {point}"),
            }
        }
    }
}

#[cfg(not(feature = "faults"))]
mod armed {
    /// No point strikes in a program without the feature.
    #[inline(always)]
    pub const fn strikes(_point: &str) -> bool {
        false
    }

    #[inline(always)]
    pub const fn crash_in(_point: &str, _item: Option<&str>) {}
}

pub use armed::*;

/// Ends the program if `point` strikes.
#[inline]
pub fn crash(point: &str) {
    crash_in(point, None);
}

/// Whether `point` strikes in the work on an item whose annotation is `item`.
#[inline]
pub fn strikes_in(point: &str, item: Option<&str>) -> bool {
    cfg!(feature = "faults") && (item == Some(point) || strikes(point))
}

/// An I/O error if `point` strikes.
///
/// # Errors
/// The one that a broken disk gives.
#[inline]
pub fn fails(point: &str) -> io::Result<()> {
    // EIO, as the kernel has it.
    const EIO: i32 = 5;
    if strikes(point) { Err(io::Error::from_raw_os_error(EIO)) } else { Ok(()) }
}

#[cfg(all(test, feature = "faults"))]
mod tests {
    use super::*;

    const POINTS: &[Point] = &[Point { name: "a-sync", what: "" }, Point { name: "a-crash", what: "" }];

    fn check(word: &str, want: Result<&[bool], &str>) {
        match (Armed::parse(word, POINTS), want) {
            (Ok(armed), Ok(want)) => {
                let got: Vec<bool> = want.iter().map(|_| armed.strikes()).collect();
                assert_eq!(got, want, "{word}");
            }
            (Err(e), Err(part)) => assert!(e.contains(part), "{e}"),
            (got, want) => panic!("{word}: {got:?}, not {want:?}"),
        }
    }

    #[test]
    fn a_point_strikes_each_time_or_at_one() {
        check("a-sync", Ok(&[true, true, true]));
        check("a-sync:2", Ok(&[false, true, false]));
        check("b", Err("there are a-sync, a-crash"));
        check("a-sync:0", Err("a number"));
        check("a-sync:x", Err("a number"));
        assert!(!strikes("a-sync"), "nothing is armed");
        assert!(strikes_in("a-sync", Some("a-sync")), "an item names it");
    }
}
