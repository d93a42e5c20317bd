//! Probes: when one is due and what its answers mean (pure), and the asking itself.

pub mod ask;
mod grpc;

use crate::reconcile::view::{ContainerView, Probe};

/// The three probes of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Startup,
    Liveness,
    Readiness,
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Startup, Kind::Liveness, Kind::Readiness];

    /// The container's probe of this kind.
    pub fn of(self, container: &ContainerView) -> Option<&Probe> {
        match self {
            Kind::Startup => container.startup_probe.as_ref(),
            Kind::Liveness => container.liveness_probe.as_ref(),
            Kind::Readiness => container.readiness_probe.as_ref(),
        }
    }

    /// As events name it.
    pub fn title(self) -> &'static str {
        match self {
            Kind::Startup => "Startup",
            Kind::Liveness => "Liveness",
            Kind::Readiness => "Readiness",
        }
    }
}

/// A threshold that was crossed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Healthy,
    Unhealthy,
}

/// The answers of one probe so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeState {
    /// When to ask next (monotonic milliseconds).
    next: u64,
    asking: bool,
    successes: u32,
    failures: u32,
}

impl ProbeState {
    /// A probe of a container that began to run at `now`.
    pub fn new(probe: &Probe, now: u64) -> Self {
        let next = now + u64::from(probe.initial_delay_seconds) * 1000;
        Self { next, asking: false, successes: 0, failures: 0 }
    }

    /// When to ask, unless an answer is awaited.
    pub fn due(&self) -> Option<u64> {
        (!self.asking).then_some(self.next)
    }

    pub fn begin(&mut self, now: u64) {
        self.asking = true;
        self.next = now;
    }

    /// Takes an answer in; a verdict each time the threshold is met.
    pub fn result(&mut self, probe: &Probe, healthy: bool, now: u64) -> Option<Verdict> {
        self.asking = false;
        // Counted from the question, so that a slow answer does not stretch the period.
        self.next = (self.next + u64::from(probe.period_seconds.max(1)) * 1000).max(now);
        if healthy {
            (self.successes, self.failures) = (self.successes.saturating_add(1), 0);
            (self.successes >= probe.success_threshold.max(1)).then_some(Verdict::Healthy)
        } else {
            (self.successes, self.failures) = (0, self.failures.saturating_add(1));
            (self.failures >= probe.failure_threshold.max(1)).then_some(Verdict::Unhealthy)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers (`+`, `-`) a second apart against the verdicts (`H`, `U`, `.`).
    fn check(probe: &Probe, answers: &str, want: &str) {
        let mut state = ProbeState::new(probe, 0);
        let mut got = String::new();
        for answer in answers.chars() {
            let now = state.due().expect("no answer is awaited");
            state.begin(now);
            assert_eq!(state.due(), None);
            got.push(match state.result(probe, answer == '+', now) {
                None => '.',
                Some(Verdict::Healthy) => 'H',
                Some(Verdict::Unhealthy) => 'U',
            });
        }
        assert_eq!(got, want, "{answers}");
    }

    #[test]
    fn verdicts_follow_the_thresholds() {
        let probe =
            |success, failure| Probe { success_threshold: success, failure_threshold: failure, ..Probe::default() };
        check(&probe(1, 3), "+--+---", "H..H..U");
        check(&probe(2, 1), "-++-+", "U.HU.");
        check(&probe(0, 0), "+-", "HU");
    }

    #[test]
    fn the_period_counts_from_the_question() {
        let probe = Probe { period_seconds: 5, initial_delay_seconds: 2, ..Probe::default() };
        let mut state = ProbeState::new(&probe, 1_000);
        assert_eq!(state.due(), Some(3_000));
        state.begin(3_000);
        state.result(&probe, true, 4_500);
        assert_eq!(state.due(), Some(8_000));
        state.begin(8_000);
        state.result(&probe, true, 20_000);
        assert_eq!(state.due(), Some(20_000));
    }
}
