//! The blocking halves of jobs: what is computed and written before the runtime is asked.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use async_channel::Sender;
use coracle_images::{Credential, Image, ImageError, Policy, Reference};
use coracle_shared::ids::PodUid;
use coracle_shared::report::Exit;
use serde::{Deserialize, Serialize};

use super::start::{Start, check_user, image_env, user_words};
use super::{Live, Node, logged_runs};
use crate::reconcile::driver::Input;
use crate::reconcile::env::{Surroundings, environment};
use crate::reconcile::fleet::Job;
use crate::reconcile::state::{Fault, PulledImage, StartFault};
use crate::reconcile::view::{PodView, PullPolicy};
use crate::runtime::{ContainerSpec, resolve_user};
use crate::trace;
use crate::volumes::{self, HostNames, Volume};

/// What a later agent has to know of a pod's containers beyond what the runtime tells it. Lies on the
/// run directory's tmpfs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Record {
    pub containers: BTreeMap<String, RunRecord>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RunRecord {
    pub attempt: u32,
    pub image_ref: String,
    pub image_id: String,
    /// Of the run before: code, signal, reason, message, started, finished, id.
    pub last: Option<LastRun>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LastRun {
    code: i32,
    signal: Option<i32>,
    reason: String,
    message: String,
    started_at: i64,
    finished_at: i64,
    container_id: String,
}

impl From<&Exit> for LastRun {
    fn from(e: &Exit) -> Self {
        let e = e.clone();
        LastRun {
            code: e.code,
            signal: e.signal,
            reason: e.reason,
            message: e.message,
            started_at: e.started_at,
            finished_at: e.finished_at,
            container_id: e.container_id,
        }
    }
}

impl From<LastRun> for Exit {
    fn from(e: LastRun) -> Self {
        Exit {
            code: e.code,
            signal: e.signal,
            reason: e.reason,
            message: e.message,
            started_at: e.started_at,
            finished_at: e.finished_at,
            container_id: e.container_id,
        }
    }
}

impl Node {
    pub(super) fn record_path(&self, uid: &PodUid) -> PathBuf {
        self.volumes.in_memory(uid).join("record.json")
    }

    pub(super) fn read_record(&self, uid: &PodUid) -> Record {
        // A missing or torn record costs names in a report, nothing else.
        fs::read(self.record_path(uid)).ok().and_then(|b| serde_json::from_slice(&b).ok()).unwrap_or_default()
    }

    fn write_record(&self, uid: &PodUid, record: &Record) -> io::Result<()> {
        let path = self.record_path(uid);
        let temp = path.with_extension("new");
        fs::create_dir_all(self.volumes.in_memory(uid))?;
        fs::write(&temp, serde_json::to_vec(record)?)?;
        fs::rename(temp, path)
    }

    pub(super) fn around(&self, job: &Job) -> Surroundings {
        Surroundings {
            node: self.name.clone(),
            host_ip: self.network.uplink().ok().map(|u| u.address),
            pod_ip: job.pod_ip,
            cpu_millis: self.allocatable.cpu_millis,
            memory_bytes: self.allocatable.memory_bytes,
        }
    }

    /// What each volume of the pod holds and where it lies.
    fn planned(&self, job: &Job) -> Result<BTreeMap<String, Volume>, String> {
        if job.view.spec.volumes.is_empty() {
            return Ok(BTreeMap::new());
        }
        let namespace = &job.view.metadata.namespace;
        let lookup = |secret: bool, name: &str| self.keeper.book().data(secret, namespace, name);
        volumes::plan(&job.view, &self.around(job), &lookup)
    }

    /// Makes the pod's volumes, or brings them up to date.
    pub(super) fn make_volumes(&self, job: &Job) -> Result<(), Fault> {
        let fault = |message| Fault::new("FailedMount", message);
        let planned = self.planned(job).map_err(fault)?;
        self.volumes.apply(job.uid(), &planned, job.view.spec.security_context.fs_group).map_err(fault)
    }

    /// The pull itself, with its events. Blocks for as long as it takes.
    pub(super) fn pull(&self, job: &Job, i: usize) -> Result<PulledImage, Fault> {
        let began = Instant::now();
        let policy = match job.view.container(i).map(|c| c.image_pull_policy) {
            Some(PullPolicy::Always) => Policy::Always,
            Some(PullPolicy::Never) => Policy::Never,
            _ => Policy::IfNotPresent,
        };
        let told = AtomicBool::new(false);
        let tell = |inputs: &Sender<Input>| {
            if !told.swap(true, Ordering::Relaxed) {
                let _ = inputs.send_blocking(Input::Pulling(job.uid().clone(), i));
            }
        };
        let asks = policy == Policy::Always;
        if asks {
            tell(&self.inputs);
        }
        let stages = trace::Pull::default();
        let progress = |event: coracle_images::Event| {
            if let coracle_images::Event::Resolved { .. } = event {
                tell(&self.inputs);
            }
            stages.see(event, job.uid());
            ControlFlow::Continue(())
        };
        let image = self.image(&job.view, &job.image, policy, &progress);
        let image = image.map_err(|e| Fault::new(e.reason(), e.to_string()))?;
        let millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let pulled =
            PulledImage { id: image.pinned.clone(), pulled: told.into_inner().then_some((millis, image.size)) };
        self.pods().entry(job.uid().clone()).or_default().images.insert(i, image);
        Ok(pulled)
    }

    fn image(
        &self,
        view: &PodView,
        name: &str,
        policy: Policy,
        progress: &coracle_images::Progress,
    ) -> Result<Image, ImageError> {
        let reference: Reference = name.parse()?;
        let mut credentials = Vec::new();
        if policy != Policy::Never {
            for secret in &view.spec.image_pull_secrets {
                let found = self.keeper.book().credential(&view.metadata.namespace, &secret.name);
                if let Some(item) = found {
                    credentials.extend(Credential::from_docker_config(&item.docker_config)?);
                }
            }
        }
        self.images.ensure(&reference, policy, &credentials, &self.platform, progress)
    }

    /// The image of a container, as it was pulled, or found again after a restart of the agent.
    pub(super) fn held_image(&self, job: &Job, i: usize) -> Result<Image, ImageError> {
        let held = self.pods().get(job.uid()).and_then(|live| live.images.get(&i).cloned());
        if let Some(image) = held {
            return Ok(image);
        }
        let image = self.image(&job.view, &job.image, Policy::IfNotPresent, &|_| ControlFlow::Continue(()))?;
        self.pods().entry(job.uid().clone()).or_default().images.insert(i, image.clone());
        Ok(image)
    }

    /// Writes the files that every container of the pod sees in `/etc`.
    pub(super) fn write_etc(&self, job: &Job, pod_ip: Option<std::net::Ipv4Addr>) -> io::Result<()> {
        let dir = self.etc(job.uid());
        fs::create_dir_all(&dir)?;
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let config = self.keeper.book().node();
        let domain = config.as_ref().map(|c| c.domain.clone()).unwrap_or_default();
        let names = HostNames { pod_ip, domain, node_file: read("/etc/hosts") };
        fs::write(dir.join("hosts"), volumes::hosts(&job.view, &names))?;
        fs::write(dir.join("hostname"), format!("{}\n", job.view.hostname()))?;
        let resolv = volumes::resolv_conf(&job.view, config.as_deref(), &read("/etc/resolv.conf"));
        fs::write(dir.join("resolv.conf"), resolv)
    }

    fn etc(&self, uid: &PodUid) -> PathBuf {
        self.volumes.in_memory(uid).join("etc")
    }

    /// Everything that a start needs, and the record of it. `last`: how the run before ended.
    pub(super) fn prepare(&self, job: &Job, i: usize, last: Option<&Exit>) -> Result<ContainerSpec, StartFault> {
        let create = |e: &dyn std::fmt::Display| StartFault::Create(e.to_string());
        let container = job.view.container(i).ok_or_else(|| StartFault::Create("no such container".into()))?;
        let image = self.held_image(job, i).map_err(|e| create(&e))?;
        let namespace = &job.view.metadata.namespace;
        let lookup = |secret: bool, name: &str| self.keeper.book().data(secret, namespace, name);
        let services: Vec<_> = self.keeper.book().services().map(Arc::clone).collect();
        let base = image_env(&image.config);
        let env = environment(&job.view, container, &base, &services, &self.around(job), &lookup);
        let mut env = env.map_err(StartFault::Config)?;
        if !env.iter().any(|(k, _)| k == "HOSTNAME") {
            env.push(("HOSTNAME".into(), job.view.hostname().to_owned()));
        }
        let user = resolve_user(&image.layers, &user_words(&job.view, container, &image.config));
        let user = check_user(&job.view, container, user.map_err(|e| create(&e))?)?;
        let planned = self.planned(job).map_err(StartFault::Config)?;
        let placed = |(name, volume): (String, Volume)| {
            let path = self.volumes.source(job.uid(), &name, &volume);
            (name, (volume, path))
        };
        let volumes = planned.into_iter().map(placed).collect();
        let logs = self.log_dir(job.uid(), &container.name);
        fs::create_dir_all(&logs).map_err(|e| create(&e))?;
        let start = Start {
            view: &job.view,
            container,
            attempt: job.attempt,
            image: &image,
            env,
            user,
            volumes: &volumes,
            etc: self.etc(job.uid()),
            upper: self.volumes.on_disk(job.uid()).join("upper"),
            log: logs.join(format!("{}.log", job.attempt)),
            node_memory: self.allocatable.memory_bytes,
        };
        let spec = start.spec()?;
        let record = RunRecord {
            attempt: job.attempt,
            image_ref: job.image.clone(),
            image_id: image.pinned.clone(),
            last: last.map(LastRun::from),
        };
        let noted = self.note_begin(&job.view, i, &record);
        noted.map_err(|e| create(&format!("note on disk that the container begins, which runs once at most: {e}")))?;
        self.note_run(job.uid(), &container.name, record).map_err(|e| create(&e))?;
        self.drop_old_logs(job.uid(), &container.name, job.attempt);
        Ok(spec)
    }

    fn note_run(&self, uid: &PodUid, container: &str, run: RunRecord) -> io::Result<()> {
        let mut record = self.read_record(uid);
        record.containers.insert(container.to_owned(), run);
        self.write_record(uid, &record)
    }

    /// Keeps the logs of the run that begins and of the one before.
    fn drop_old_logs(&self, uid: &PodUid, container: &str, attempt: u32) {
        let dir = self.log_dir(uid, container);
        for old in logged_runs(&dir).into_iter().filter(|run| run + 1 < attempt) {
            let prefix = format!("{old}.log");
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                if entry.file_name().to_string_lossy().starts_with(&prefix) {
                    // What cannot be removed now is removed with the pod.
                    let _ = fs::remove_file(entry.path());
                }
            }
        }
    }

    /// Takes volumes, logs and records of a pod away.
    pub(super) fn erase(&self, uid: &PodUid) -> Result<(), String> {
        let volumes = self.volumes.remove(uid);
        match fs::remove_dir_all(self.logs.join(&uid.0)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => volumes.and(Err(format!("logs: {e}"))),
            _ => volumes,
        }
    }

    pub(super) fn live<T>(&self, uid: &PodUid, f: impl FnOnce(&mut Live) -> T) -> T {
        f(self.pods().entry(uid.clone()).or_default())
    }
}
