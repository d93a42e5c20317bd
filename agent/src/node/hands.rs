//! Does what the pod machine asks for, each job as a task of its own.

use std::sync::Arc;
use std::time::Duration;

use coracle_shared::ids::PodUid;
use coracle_shared::report::Exit;
use futures_lite::{AsyncReadExt, FutureExt};

use super::start::{pod_resources, signal_number};
use super::{Node, hooks};
use crate::fault;
use crate::probes::Kind;
use crate::probes::ask::{Question, ask, question};
use crate::reconcile::driver::Input;
use crate::reconcile::effects::Effects;
use crate::reconcile::fleet::{Job, Outcome};
use crate::reconcile::plan::Action;
use crate::reconcile::state::{Fault, SandboxInfo, StartFault, Started};
use crate::report::exit_reason;
use crate::runtime::{self, ContainerId, ContainerStatus, Event, ExecSpec, Network, Sandbox, SandboxSpec};
use crate::trace;

/// How much of an exec probe's output its event may say.
const PROBE_OUTPUT: usize = 1 << 10;

/// The agent's own [`Effects`]. Cheap to clone.
#[derive(Clone)]
pub struct Hands(pub Arc<Node>);

impl Effects for Hands {
    fn begin(&self, job: Job) {
        let node = Arc::clone(&self.0);
        let work = async move {
            let uid = job.uid().clone();
            let started = hooks::after_start(&job).map(|i| (i, job.clone()));
            let outcome = perform(&node, job).await;
            let well = matches!(outcome, Outcome::Started(_, Ok(_)));
            // Fails only when the driver has ended: nobody waits for it any more.
            let _ = node.inputs.send(Input::Done(uid, outcome)).await;
            if let Some((i, job)) = started.filter(|_| well) {
                hooks::post_start(&node, &job, i).await;
            }
        };
        self.0.executor.spawn(work).detach();
    }

    fn forget(&self, uid: &PodUid) {
        self.0.pods().remove(uid);
    }
}

async fn perform(node: &Arc<Node>, job: Job) -> Outcome {
    match job.action {
        Action::EnsureImage(i) => {
            let _permit = node.gates.pulls.acquire().await;
            let own = Arc::clone(node);
            Outcome::Image(i, smol::unblock(move || own.pull(&job, i)).await)
        }
        Action::PrepareVolumes => Outcome::Volumes(volumes(node, job).await),
        Action::RefreshVolumes => Outcome::Refreshed(volumes(node, job).await),
        Action::CreateSandbox => Outcome::Sandbox(create_sandbox(node, job).await),
        Action::Start(i) => Outcome::Started(i, start(node, job, i).await),
        Action::SignalStop(i) => {
            stop(node, &job, i).await;
            Outcome::Signalled
        }
        Action::SignalKill(i) => {
            kill(node, &job, i).await;
            Outcome::Signalled
        }
        Action::Probe(i, kind) => Outcome::Probed(i, kind, probe(node, &job, i, kind).await),
        Action::Teardown { forget } => {
            fault::crash_in("teardown-crash", fault::of_pod(&job.view.metadata.annotations));
            Outcome::TornDown(teardown(node, job.uid(), forget).await)
        }
        Action::Record => {
            let Some(report) = job.report else { return Outcome::Recorded(Ok(())) };
            let keeper = node.keeper.clone();
            let written = node.blocking(move || keeper.record(*report)).await;
            Outcome::Recorded(written.map_err(|e| Fault::new("LedgerError", e.to_string())))
        }
    }
}

async fn volumes(node: &Arc<Node>, job: Job) -> Result<(), Fault> {
    if job.view.spec.volumes.is_empty() {
        return Ok(());
    }
    let own = Arc::clone(node);
    node.blocking(move || own.make_volumes(&job)).await
}

async fn create_sandbox(node: &Arc<Node>, job: Job) -> Result<SandboxInfo, Fault> {
    let _stage = trace::stage("starting", job.uid());
    let fault = |e: &dyn std::fmt::Display| Fault::new("FailedCreatePodSandBox", e.to_string());
    let own = Arc::clone(node);
    let uid = job.uid().clone();
    let host_network = job.view.spec.host_network;
    let spec = sandbox_spec(&job);
    let prepared = node.blocking(move || -> Result<_, Fault> {
        if host_network {
            own.write_etc(&job, None).map_err(|e| fault(&e))?;
            return Ok((Network::Host, None));
        }
        let attached = own.network.attach(job.uid()).map_err(|e| fault(&e))?;
        own.write_etc(&job, Some(attached.ip)).map_err(|e| fault(&e))?;
        let netns = std::fs::File::open(&attached.netns).map_err(|e| fault(&e))?;
        Ok((Network::Namespace(Arc::new(netns.into())), Some(attached.ip)))
    });
    let (network, pod_ip) = prepared.await?;
    let sandbox = node.runtime.create_sandbox(&SandboxSpec { network, ..spec }).await.map_err(|e| fault(&e))?;
    let watch = watch(node, &sandbox);
    node.live(&uid, |live| {
        live.watch = Some(watch);
        live.sandbox = Some(sandbox);
    });
    Ok(SandboxInfo { pod_ip })
}

fn sandbox_spec(job: &Job) -> SandboxSpec {
    let spec = &job.view.spec;
    let m = &job.view.metadata;
    SandboxSpec {
        uid: m.uid.clone(),
        namespace: m.namespace.clone(),
        name: m.name.clone(),
        hostname: (!spec.host_network).then(|| job.view.hostname().to_owned()),
        network: Network::New,
        host_pid: spec.host_pid,
        host_ipc: spec.host_ipc,
        share_shm: spec.containers.len() > 1,
        sysctls: spec.security_context.sysctls.iter().map(|s| (s.name.clone(), s.value.clone())).collect(),
        resources: pod_resources(&job.view),
        note: super::adopt::note(&m.namespace, &m.name),
    }
}

/// Hands on what happens in a sandbox for as long as the task is held.
pub(super) fn watch(node: &Arc<Node>, sandbox: &Sandbox) -> smol::Task<()> {
    let (node, sandbox) = (Arc::clone(node), sandbox.clone());
    let executor = Arc::clone(&node.executor);
    let task = async move {
        let events = sandbox.events();
        while let Ok(event) = events.recv().await {
            match event {
                Event::Exited(status) => tell_exit(&node, &sandbox, status).await,
                Event::SandboxDied => {
                    for status in sandbox.containers() {
                        node.live(sandbox.uid(), |live| live.runs.remove(&run_key(&status.id)));
                    }
                    let _ = node.inputs.send(Input::SandboxDied(sandbox.uid().clone())).await;
                    return;
                }
            }
        }
    };
    executor.spawn(task)
}

pub(super) fn run_key(id: &ContainerId) -> (String, u32) {
    (id.name.clone(), id.attempt)
}

async fn tell_exit(node: &Arc<Node>, sandbox: &Sandbox, status: ContainerStatus) {
    let uid = sandbox.uid().clone();
    let Some(exit) = exit_of(sandbox, &status).await else { return };
    node.live(&uid, |live| live.runs.remove(&run_key(&status.id)));
    let ContainerId { name: container, attempt } = status.id;
    let _ = node.inputs.send(Input::Exited { uid, container, attempt, exit }).await;
}

/// How a container ended, in the API's words.
pub(super) async fn exit_of(sandbox: &Sandbox, status: &ContainerStatus) -> Option<Exit> {
    let ended = status.exit.as_ref()?;
    let (code, reason) =
        if ended.lost { (255, "Unknown") } else { (ended.code, exit_reason(ended.code, ended.oom_killed)) };
    Some(Exit {
        code,
        signal: ended.signal,
        reason: reason.to_owned(),
        message: sandbox.termination_message(&status.id).await,
        started_at: status.started_at,
        finished_at: ended.finished_at,
        container_id: container_id(sandbox.uid(), &status.id),
    })
}

/// `coracle://UID/NAME_ATTEMPT`: unique over time, and enough to find the container again.
pub(super) fn container_id(uid: &PodUid, id: &ContainerId) -> String {
    format!("coracle://{uid}/{id}")
}

async fn start(node: &Arc<Node>, job: Job, i: usize) -> Result<Started, StartFault> {
    let uid = job.uid().clone();
    let _stage = trace::stage("starting", &uid);
    let view = Arc::clone(&job.view);
    let item = fault::of_pod(&view.metadata.annotations);
    fault::crash_in("start-crash", item);
    let Some(sandbox) = node.sandbox(&uid) else { return Err(StartFault::Create("the pod has no sandbox".into())) };
    let name = job.view.container(i).map(|c| c.name.clone()).unwrap_or_default();
    let last = end_former(&sandbox, &name, job.attempt).await;
    let own = Arc::clone(node);
    let spec = node.blocking(move || own.prepare(&job, i, last.as_ref())).await?;
    node.live(&uid, |live| live.runs.insert(run_key(&spec.id), async_channel::bounded(1)));
    match sandbox.start_container(&spec).await {
        Ok(status) => {
            fault::crash_in("start-unrecorded", item);
            Ok(Started { container_id: container_id(&uid, &status.id), started_at: status.started_at })
        }
        Err(error) => {
            node.live(&uid, |live| live.runs.remove(&run_key(&spec.id)));
            Err(match error {
                runtime::Error::Start { .. } => StartFault::Run(error.to_string()),
                error => StartFault::Create(error.to_string()),
            })
        }
    }
}

/// Removes what is left of earlier runs; gives the end of the last one.
async fn end_former(sandbox: &Sandbox, name: &str, attempt: u32) -> Option<Exit> {
    let mut last = None;
    for status in sandbox.containers().into_iter().filter(|s| s.id.name == name && s.id.attempt < attempt) {
        last = exit_of(sandbox, &status).await;
        if let Err(e) = sandbox.remove_container(&status.id).await {
            eprintln!("pod {}: container {}: {e}", sandbox.uid(), status.id);
        }
    }
    last
}

pub(super) fn id(job: &Job, i: usize) -> Option<ContainerId> {
    Some(ContainerId { name: job.view.container(i)?.name.clone(), attempt: job.attempt })
}

async fn stop(node: &Arc<Node>, job: &Job, i: usize) {
    let (Some(sandbox), Some(id)) = (node.sandbox(job.uid()), id(job, i)) else { return };
    if !hooks::pre_stop(node, job, i, &sandbox, &id).await {
        return;
    }
    let (own, asked) = (Arc::clone(node), job.clone());
    let signal = node.blocking(move || own.held_image(&asked, i).map(|image| image.config.stop_signal)).await;
    let signal = signal_number(&signal.unwrap_or_default());
    if let Err(e) = sandbox.signal(&id, signal).await {
        eprintln!("pod {}: signal {signal} to {id}: {e}", job.uid());
    }
}

async fn kill(node: &Arc<Node>, job: &Job, i: usize) {
    let (Some(sandbox), Some(id)) = (node.sandbox(job.uid()), id(job, i)) else { return };
    match sandbox.kill(&id).await {
        // Told twice is as good as once, and an event may be lost.
        Ok(status) => tell_exit(node, &sandbox, status).await,
        Err(e) => eprintln!("pod {}: kill {id}: {e}", job.uid()),
    }
}

async fn teardown(node: &Arc<Node>, uid: &PodUid, forget: bool) -> Result<(), Fault> {
    let fault = |message: String| Fault::new("FailedKillPod", message);
    if let Some(sandbox) = node.sandbox(uid) {
        let removed = sandbox.remove().await;
        removed.map_err(|errors| fault(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")))?;
    }
    node.live(uid, |live| {
        live.sandbox = None;
        live.watch = None;
        live.runs.clear();
    });
    let (own, of) = (Arc::clone(node), uid.clone());
    let rest = node.blocking(move || {
        own.network.detach(&of).map_err(|e| e.to_string())?;
        if forget { own.erase(&of) } else { Ok(()) }
    });
    rest.await.map_err(fault)
}

async fn probe(node: &Arc<Node>, job: &Job, i: usize, kind: Kind) -> Result<(), String> {
    let Some((container, probe)) = job.view.container(i).and_then(|c| Some((c, kind.of(c)?))) else {
        return Err("no such probe".into());
    };
    let timeout = Duration::from_secs(u64::from(probe.timeout_seconds.max(1)));
    let pod_ip = if job.view.spec.host_network { Some(std::net::Ipv4Addr::LOCALHOST) } else { job.pod_ip };
    match question(probe, container, pod_ip) {
        Question::Exec(argv) => {
            let (Some(sandbox), Some(id)) = (node.sandbox(job.uid()), id(job, i)) else {
                return Err("the container is not running".into());
            };
            let late = async {
                smol::Timer::after(timeout).await;
                Err(format!("command timed out after {} s", timeout.as_secs()))
            };
            exec_probe(&sandbox, id, argv).or(late).await
        }
        question => ask(&question, timeout).await,
    }
}

pub(super) async fn exec_probe(sandbox: &Sandbox, container: ContainerId, argv: Vec<String>) -> Result<(), String> {
    let spec = ExecSpec { container, argv, env: None, stdin: false };
    let mut exec = sandbox.exec(&spec).await.map_err(|e| e.to_string())?;
    let mut output = Vec::new();
    // Read to the end, so that the command is not stopped by a full pipe; only the head is kept.
    let mut chunk = [0; 1024];
    while let Ok(n @ 1..) = exec.stdout.read(&mut chunk).await {
        let room = PROBE_OUTPUT.saturating_sub(output.len());
        output.extend_from_slice(&chunk[..n.min(room)]);
    }
    match exec.wait().await {
        Ok(status) if status.code == 0 => Ok(()),
        Ok(status) => Err(format!("exit code {}: {}", status.code, String::from_utf8_lossy(&output).trim())),
        Err(e) => Err(e.to_string()),
    }
}
