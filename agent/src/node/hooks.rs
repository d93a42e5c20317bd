//! Lifecycle hooks: what a container has done after its start and before its stop.
//!
//! A postStart hook runs once the container's program does; until it is done the container is not
//! ready, and if it fails the container is stopped. An agent that dies in the middle does not run it
//! again. A preStop hook runs inside the grace period: at its end the container is killed, hook or not.

use std::sync::Arc;
use std::time::Duration;

use futures_lite::FutureExt;

use super::Node;
use super::hands::{exec_probe, id};
use crate::probes::ask::{Question, ask, handler_question};
use crate::reconcile::driver::Input;
use crate::reconcile::fleet::Job;
use crate::reconcile::plan::Action;
use crate::reconcile::view::Handler;
use crate::runtime::{ContainerId, Sandbox};

/// An HTTP or TCP hook that is not answered within this has failed.
const ANSWER: Duration = Duration::from_secs(30);

/// The container whose start, if it succeeds, is followed by a hook.
pub(super) fn after_start(job: &Job) -> Option<usize> {
    let Action::Start(i) = job.action else { return None };
    job.view.container(i)?.lifecycle.post_start.as_ref().map(|_| i)
}

pub(super) async fn post_start(node: &Arc<Node>, job: &Job, i: usize) {
    let (Some(sandbox), Some(id)) = (node.sandbox(job.uid()), id(job, i)) else { return };
    let handler = job.view.container(i).and_then(|c| c.lifecycle.post_start.as_ref());
    let Some(handler) = handler else { return };
    let Some(result) = carry_out(handler, job, i, &sandbox, &id).await else { return };
    let result = result.map_err(|e| format!("PostStartHook failed: {e}"));
    let input = Input::Hooked { uid: job.uid().clone(), container: i, attempt: job.attempt, result };
    // Fails only when the driver has ended.
    let _ = node.inputs.send(input).await;
}

/// False when the container has ended meanwhile: there is nothing left to stop.
pub(super) async fn pre_stop(node: &Arc<Node>, job: &Job, i: usize, sandbox: &Sandbox, id: &ContainerId) -> bool {
    let handler = job.view.container(i).and_then(|c| c.lifecycle.pre_stop.as_ref());
    let Some(handler) = handler else { return true };
    match carry_out(handler, job, i, sandbox, id).await {
        None => false,
        Some(Ok(())) => true,
        Some(Err(e)) => {
            let message = format!("PreStopHook failed: {e}");
            let input = Input::PreStopFailed { uid: job.uid().clone(), container: i, message };
            let _ = node.inputs.send(input).await;
            true
        }
    }
}

/// `None` when the container ended first.
async fn carry_out(
    handler: &Handler,
    job: &Job,
    i: usize,
    sandbox: &Sandbox,
    id: &ContainerId,
) -> Option<Result<(), String>> {
    let container = job.view.container(i)?;
    let pod_ip = if job.view.spec.host_network { Some(std::net::Ipv4Addr::LOCALHOST) } else { job.pod_ip };
    let hook = async {
        if let Some(sleep) = &handler.sleep {
            smol::Timer::after(Duration::from_secs(u64::from(sleep.seconds))).await;
            return Some(Ok(()));
        }
        Some(match handler_question(handler, container, pod_ip) {
            Question::Exec(argv) => exec_probe(sandbox, id.clone(), argv).await,
            question => ask(&question, ANSWER).await,
        })
    };
    let ended = async {
        // Not found is ended as well.
        let _ = sandbox.wait(id).await;
        None
    };
    hook.or(ended).await
}
