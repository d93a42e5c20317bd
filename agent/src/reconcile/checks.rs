//! What probes and hooks say of a container, taken into its pod's state.

use super::state::{Now, State};
use super::view::PodView;
use crate::probes::{Kind, Verdict};

impl State {
    /// A container's postStart hook is done; one that failed ends the container.
    pub fn hooked(&mut self, view: &PodView, i: usize, well: bool, now: Now) {
        let c = &mut self.containers[i];
        c.hooking = false;
        if !well && c.running() {
            c.kill_by.get_or_insert(now.mono + u64::from(view.grace()) * 1000);
        }
    }

    /// A probe has answered. Says whether the container is to be restarted for it.
    pub fn probed(&mut self, view: &PodView, i: usize, kind: Kind, healthy: bool, now: Now) -> Option<Verdict> {
        let spec = kind.of(view.container(i)?)?;
        let verdict = self.probe_mut(i, kind)?.result(spec, healthy, now.mono);
        let c = &mut self.containers[i];
        match (kind, verdict) {
            (_, None) => {}
            (Kind::Readiness, Some(v)) => c.ready = v == Verdict::Healthy,
            (Kind::Startup, Some(Verdict::Healthy)) => c.started = true,
            (Kind::Liveness, Some(Verdict::Healthy)) => {}
            (Kind::Startup | Kind::Liveness, Some(Verdict::Unhealthy)) => {
                let grace = spec.termination_grace_period_seconds.unwrap_or_else(|| view.grace());
                c.kill_by.get_or_insert(now.mono + u64::from(grace) * 1000);
            }
        }
        verdict
    }
}
