//! The machine against a world in virtual time: a fake runtime that takes jobs and answers them.

mod converge;
mod table;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use coracle_shared::desired::PodItem;
use coracle_shared::ids::PodUid;
use coracle_shared::report::{ContainerState, EventReport, Exit, PodReport};
use serde_json::{Value, json};

use super::fleet::{Desired, DesiredSet, Fleet, Found, Job, Outcome};
use super::plan::Action;
use super::state::*;
use super::view::PodView;
use crate::probes::Kind;

/// How the containers of an image behave.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Act {
    /// Runs until told to stop, and then ends at once.
    Serve,
    /// Runs until killed.
    Deaf,
    /// Ends by itself after so many milliseconds with this code.
    End(u64, i32),
    /// Cannot be pulled.
    Missing,
    /// Its program is not there.
    NoProgram,
}

impl Act {
    fn of(image: &str) -> Act {
        match image.split(':').collect::<Vec<_>>()[..] {
            ["deaf"] => Act::Deaf,
            ["end", ms, code] => Act::End(ms.parse().expect("ms"), code.parse().expect("code")),
            ["missing"] => Act::Missing,
            ["noprogram"] => Act::NoProgram,
            _ => Act::Serve,
        }
    }
}

#[derive(Clone, Debug)]
struct Running {
    attempt: u32,
    act: Act,
    image: String,
    started: Started,
    exit: Option<Exit>,
}

#[derive(Clone, Debug, Default)]
struct FakeSandbox {
    namespace: String,
    name: String,
    alive: bool,
    runs: BTreeMap<String, Running>,
}

/// What survives the agent: sandboxes and the ledger.
#[derive(Default)]
struct World {
    now: u64,
    fleet: Fleet,
    set: DesiredSet,
    sandboxes: BTreeMap<PodUid, FakeSandbox>,
    ended: BTreeMap<PodUid, PodReport>,
    /// Jobs in flight: (when done, job).
    jobs: Vec<(u64, Job)>,
    reports: BTreeMap<PodUid, PodReport>,
    events: Vec<EventReport>,
    /// Every action that was begun, as text.
    log: Vec<String>,
    /// ConfigMaps there are: volumes named `needs-NAME` wait for them.
    data: Vec<String>,
    /// What readiness and liveness probes answer.
    healthy: bool,
    broken_teardown: bool,
}

impl World {
    fn new() -> Self {
        World { healthy: true, ..World::default() }
    }

    fn now(&self) -> Now {
        Now { mono: self.now, wall: 1_000_000 + i64::try_from(self.now).expect("small") }
    }

    fn want(&mut self, uid: &str, spec: Value) -> &mut Self {
        let name = uid.split('.').next().expect("a name").to_owned();
        let object = json!({"metadata": {"name": name}, "spec": spec}).to_string().into_bytes();
        let item =
            PodItem { uid: PodUid(uid.into()), namespace: "default".into(), name: name.clone(), object, stop: None };
        let view = PodView::parse(&item).map(Arc::new);
        let desired = Desired { namespace: "default".into(), name, view, stop: None, ended: None, quarantined: false };
        self.set.complete = true;
        self.set.pods.insert(PodUid(uid.into()), Arc::new(desired));
        self.desire()
    }

    fn stop(&mut self, uid: &str, grace: u32) -> &mut Self {
        let slot = self.set.pods.get_mut(&PodUid(uid.into())).expect("a desired pod");
        *slot = Arc::new(Desired { stop: Some(grace), ..(**slot).clone() });
        self.desire()
    }

    fn unwant(&mut self, uid: &str) -> &mut Self {
        self.set.pods.remove(&PodUid(uid.into()));
        self.desire()
    }

    fn desire(&mut self) -> &mut Self {
        let now = self.now();
        let set = self.set.clone();
        self.fleet.desire(&set, now);
        self.collect();
        self
    }

    fn collect(&mut self) {
        let out = self.fleet.drain();
        for report in out.reports {
            self.reports.insert(report.uid.clone(), report);
        }
        self.events.extend(out.events);
        for job in out.jobs {
            self.log.push(format!("{}: {:?}", job.uid(), job.action));
            // An image takes longest, a signal is at once.
            let takes = match job.action {
                Action::EnsureImage(_) => 7,
                Action::SignalKill(_) | Action::SignalStop(_) => 1,
                _ => 3,
            };
            self.jobs.push((self.now + takes, job));
        }
        for uid in out.forgotten {
            self.reports.remove(&uid);
            self.ended.remove(&uid);
        }
    }

    /// Lets the world run until nothing happens before `until`.
    fn run(&mut self, until: u64) -> &mut Self {
        // Far more than any test needs: a loop that makes no progress is a bug, not a wait.
        for _ in 0..100_000 {
            let end = |r: &Running| match r.act {
                Act::End(ms, _) if r.exit.is_none() => Some(r.started.started_at as u64 - 1_000_000 + ms),
                _ => None,
            };
            let ends = self.sandboxes.values().filter(|s| s.alive).flat_map(|s| s.runs.values().filter_map(end)).min();
            let next = [self.jobs.iter().map(|(at, _)| *at).min(), ends, self.fleet.wake()].into_iter().flatten().min();
            let Some(next) = next.filter(|n| *n <= until) else {
                self.now = self.now.max(until);
                return self;
            };
            self.now = self.now.max(next);
            self.step();
        }
        panic!("the machine spins at {}: {:?}", self.now, &self.log[self.log.len() - 20..]);
    }

    fn step(&mut self) {
        let now = self.now();
        if let Some(at) = self.jobs.iter().position(|(at, _)| *at <= self.now) {
            let (_, job) = self.jobs.remove(at);
            self.perform(&job);
        }
        let due = |r: &Running| match r.act {
            Act::End(ms, code) if r.exit.is_none() => {
                (r.started.started_at as u64 - 1_000_000 + ms <= self.now).then_some(code)
            }
            _ => None,
        };
        let ended: Vec<_> = self
            .sandboxes
            .iter()
            .filter(|(_, s)| s.alive)
            .flat_map(|(u, s)| s.runs.iter().filter_map(move |(n, r)| Some((u.clone(), n.clone(), due(r)?))))
            .collect();
        for (uid, name, code) in ended {
            self.end(&uid, &name, code, None);
        }
        self.fleet.tick(now);
        self.collect();
    }

    fn end(&mut self, uid: &PodUid, name: &str, code: i32, signal: Option<i32>) {
        let now = self.now();
        let Some(run) = self.sandboxes.get_mut(uid).and_then(|s| s.runs.get_mut(name)) else { return };
        if run.exit.is_some() {
            return;
        }
        let exit = Exit {
            code,
            signal,
            reason: crate::report::exit_reason(code, false).into(),
            message: String::new(),
            started_at: run.started.started_at,
            finished_at: now.wall,
            container_id: run.started.container_id.clone(),
        };
        run.exit = Some(exit.clone());
        let attempt = run.attempt;
        self.fleet.exited(uid, name, attempt, exit, now);
        self.collect();
    }

    fn perform(&mut self, job: &Job) {
        let now = self.now();
        let uid = job.uid().clone();
        let outcome = match job.action {
            Action::EnsureImage(i) => Outcome::Image(i, self.pull(&job.image)),
            Action::PrepareVolumes => Outcome::Volumes(self.volumes(&job.view)),
            Action::RefreshVolumes => Outcome::Refreshed(self.volumes(&job.view)),
            Action::CreateSandbox => {
                let m = &job.view.metadata;
                assert!(!self.sandboxes.contains_key(&uid), "a sandbox over a sandbox");
                let twin = self.sandboxes.values().any(|s| s.namespace == m.namespace && s.name == m.name);
                assert!(!twin, "two pods of one name");
                let new = FakeSandbox {
                    namespace: m.namespace.clone(),
                    name: m.name.clone(),
                    alive: true,
                    ..Default::default()
                };
                self.sandboxes.insert(uid.clone(), new);
                Outcome::Sandbox(Ok(SandboxInfo { pod_ip: Some(Ipv4Addr::new(10, 42, 0, 2)) }))
            }
            Action::Start(i) => Outcome::Started(i, self.start(job, i)),
            Action::SignalStop(i) | Action::SignalKill(i) => {
                let name = job.view.container(i).expect("a container").name.clone();
                let deaf = self.sandboxes.get(&uid).and_then(|s| s.runs.get(&name)).is_some_and(|r| r.act == Act::Deaf);
                match job.action {
                    Action::SignalKill(_) => self.end(&uid, &name, 137, Some(9)),
                    _ if !deaf => self.end(&uid, &name, 143, Some(15)),
                    _ => {}
                }
                Outcome::Signalled
            }
            Action::Probe(i, kind) => {
                Outcome::Probed(i, kind, if self.healthy { Ok(()) } else { Err("refused".into()) })
            }
            Action::Teardown { .. } if self.broken_teardown => {
                Outcome::TornDown(Err(Fault::new("FailedKillPod", "busy")))
            }
            Action::Teardown { .. } => {
                self.sandboxes.remove(&uid);
                Outcome::TornDown(Ok(()))
            }
            Action::Record => {
                let report = job.report.clone().expect("a record");
                self.ended.insert(uid.clone(), *report);
                Outcome::Recorded(Ok(()))
            }
        };
        self.fleet.done(&uid, outcome, now);
        self.collect();
    }

    fn pull(&self, image: &str) -> Result<PulledImage, Fault> {
        match Act::of(image) {
            Act::Missing => Err(Fault::new("ErrImagePull", "not found")),
            _ => Ok(PulledImage { id: format!("{image}@sha256:0"), pulled: None }),
        }
    }

    fn volumes(&self, view: &PodView) -> Result<(), Fault> {
        let missing = view.data_refs().into_iter().find(|r| !self.data.contains(&r.name));
        missing.map_or(Ok(()), |r| Err(Fault::new("FailedMount", format!("configmap \"{}\" not found", r.name))))
    }

    fn start(&mut self, job: &Job, i: usize) -> Result<Started, StartFault> {
        let act = Act::of(&job.image);
        if act == Act::NoProgram {
            return Err(StartFault::Run("no such file".into()));
        }
        let started = Started { container_id: format!("coracle://{i}-{}", job.attempt), started_at: self.now().wall };
        let sandbox = self.sandboxes.get_mut(job.uid()).expect("a start needs a sandbox");
        let name = job.view.container(i).expect("a container").name.clone();
        let run = Running { attempt: job.attempt, act, image: job.image.clone(), started: started.clone(), exit: None };
        let old = sandbox.runs.insert(name, run);
        assert!(old.is_none_or(|o| o.exit.is_some()), "a start over a running container");
        Ok(started)
    }

    /// The agent dies: what it knew is gone, what it had begun is not finished. A new one adopts.
    fn crash(&mut self) -> &mut Self {
        self.jobs.clear();
        self.fleet = Fleet::new();
        self.fleet.found(self.sandboxes.iter().map(|(uid, s)| (uid.clone(), found(s))).collect());
        for (uid, desired) in &mut self.set.pods {
            let ended = self.ended.get(uid).cloned().map(Box::new);
            *desired = Arc::new(Desired { ended, ..(**desired).clone() });
        }
        self.log.push("crash".into());
        self.desire()
    }

    fn kill_sandbox(&mut self, uid: &str) -> &mut Self {
        let now = self.now();
        let uid = PodUid(uid.into());
        let sandbox = self.sandboxes.get_mut(&uid).expect("a sandbox");
        sandbox.alive = false;
        self.fleet.sandbox_died(&uid, now);
        self.collect();
        self
    }

    fn report(&self, uid: &str) -> &PodReport {
        self.reports.get(&PodUid(uid.into())).expect("a report")
    }

    fn starts(&self, uid: &str) -> usize {
        self.log.iter().filter(|l| l.starts_with(&format!("{uid}: Start("))).count()
    }

    fn reasons(&self) -> Vec<&str> {
        self.events.iter().map(|e| e.reason.as_str()).collect()
    }
}

fn found(s: &FakeSandbox) -> Found {
    let container = |(name, r): (&String, &Running)| AdoptedContainer {
        name: name.clone(),
        attempt: r.attempt,
        image_ref: r.image.clone(),
        image_id: format!("{}@sha256:0", r.image),
        started: r.started.clone(),
        exit: r.exit.clone(),
        last: None,
    };
    Found {
        quarantined: false,
        namespace: s.namespace.clone(),
        name: s.name.clone(),
        adopted: Adopted {
            sandbox: SandboxInfo { pod_ip: Some(Ipv4Addr::new(10, 42, 0, 2)) },
            started_at: 1_000_000,
            alive: s.alive,
            containers: s.runs.iter().map(container).collect(),
        },
    }
}

/// `Running`, `Waiting/REASON` or `Terminated/REASON/CODE` of the first (init) containers on.
fn shown(report: &PodReport) -> String {
    let one = |c: &coracle_shared::report::ContainerReport| match &c.state {
        ContainerState::Waiting { reason, .. } => format!("Waiting/{reason}"),
        ContainerState::Running { .. } => "Running".to_owned(),
        ContainerState::Terminated(e) => format!("{}/{}", e.reason, e.code),
    };
    let all: Vec<_> = report.init_containers.iter().chain(&report.containers).map(one).collect();
    format!("{:?} {}", report.phase, all.join(" "))
}

fn one(image: &str) -> Value {
    json!({"containers": [{"name": "web", "image": image}]})
}

fn probe() -> Value {
    json!({"tcpSocket": {"port": 80}, "periodSeconds": 5, "failureThreshold": 2})
}

#[test]
fn kinds_are_named_as_the_api_names_them() {
    assert_eq!(Kind::ALL.map(Kind::title), ["Startup", "Liveness", "Readiness"]);
}
