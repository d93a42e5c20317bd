//! What goes wrong when, what is asked for when, and what must have become of it.

use coracle_shared::ids::PodUid;
use coracle_shared::submit::{Delete, Write};
use coracle_store::Store;
use serde_json::Value;

use crate::disk::{Fault, Survives};
use crate::faults::Kind;
use crate::workload::{Request, admin};
use crate::world::{Event, World};

/// How long things go wrong, in milliseconds.
pub const CHAOS: u64 = 9 * 60_000;
/// By then what is desired must be reached: the longest back-off is five minutes, and one may follow another.
pub const SETTLE: u64 = 25 * 60_000;
/// How long nothing may happen after that.
pub const SILENCE: u64 = 20 * 60_000;

impl World {
    /// The administrator asks for something.
    pub fn request(&mut self) {
        if self.calm {
            return;
        }
        self.soon(40_000, Event::Request);
        let pods: Vec<String> = self.mirror.of("pods").map(|pod| text(&pod, "/metadata/name")).collect();
        let request = self.workload.next(&mut self.random, &pods);
        self.ask(request);
    }

    /// Whether it was done.
    fn ask(&mut self, request: Request) -> bool {
        let Some(server) = &self.server else { return false };
        let answer = server.submit(&admin(), request.write);
        let (what, code) = (request.what, answer.as_ref().err().map(|refusal| refusal.code));
        self.say(|| format!("admin: {what}: {}", code.map_or("done".to_owned(), |code| code.to_string())));
        if let Some((name, replicas)) = request.about {
            match answer {
                Ok(_) => drop(self.workload.acknowledged.insert(name, replicas)),
                // Nobody knows whether it happened.
                Err(refusal) if refusal.code >= 500 => drop(self.workload.acknowledged.remove(name)),
                Err(_) => {}
            }
        }
        code.is_none()
    }

    pub fn fault(&mut self) {
        if self.calm {
            return;
        }
        self.soon(60_000, Event::Fault);
        let node = self.random.below(self.hosts.len() as u64) as usize;
        match self.random.below(14) {
            0 | 1 => self.server_fault(),
            2 => self.arm_server(),
            3 | 4 => {
                self.strike(Kind::AgentKilled, node);
                self.kill_agent(node, Survives::Everything);
            }
            5 => {
                self.strike(Kind::NodePowerCut, node);
                self.cut_power(node);
            }
            6 => self.arm_ledger(node),
            7 | 8 => {
                self.strike(Kind::LinkReset, node);
                let drops = self.random.below(2) == 0;
                self.reset_link(node, 3000, drops);
            }
            9 | 10 => {
                let millis = 1000 + self.random.below(120_000);
                self.link_down(node, Kind::LinkDown, millis);
            }
            11 => {
                let millis = 360_000 + self.random.below(200_000);
                self.link_down(node, Kind::NodeLostForLong, millis);
            }
            12 => self.sandbox_fault(node),
            _ => self.delete_node(node),
        }
    }

    fn strike(&mut self, kind: Kind, node: usize) {
        self.struck.note(kind);
        self.say(|| format!("fault: {kind:?} n{node}"));
    }

    fn server_fault(&mut self) {
        if self.server.is_none() {
            return;
        }
        if self.random.below(2) == 0 {
            self.struck.note(Kind::ServerKilled);
            self.crash_server(Survives::Everything, false);
        } else {
            self.struck.note(Kind::ServerPowerCut);
            let survives = [Survives::Nothing, Survives::Any][self.random.below(2) as usize];
            self.crash_server(survives, false);
        }
    }

    fn arm_server(&mut self) {
        if self.server.is_none() || self.server_armed.is_some() {
            return;
        }
        // After an I/O error the store works on a checkpoint beside its writer: a cut then would
        // not replay.
        let errors = self.seed.is_multiple_of(4);
        let (kind, fault) = match errors {
            true => (Kind::ServerDiskErrors, Fault::Errors(1 + self.random.below(4))),
            false => (Kind::ServerCutMidWrite, Fault::Cut),
        };
        self.server_armed = Some(kind);
        World::arm(&self.server_disk, &mut self.random, fault);
    }

    fn arm_ledger(&mut self, node: usize) {
        if self.hosts[node].agent.is_none() || self.hosts[node].armed.is_some() {
            return;
        }
        let (kind, fault) = match self.random.below(3) {
            0 => (Kind::LedgerErrors, Fault::Errors(1 + self.random.below(4))),
            _ => (Kind::LedgerCutMidWrite, Fault::Cut),
        };
        self.hosts[node].armed = Some(kind);
        World::arm(&self.hosts[node].disk, &mut self.random, fault);
    }

    fn link_down(&mut self, node: usize, kind: Kind, millis: u64) {
        if self.hosts[node].offline {
            return;
        }
        self.strike(kind, node);
        self.hosts[node].offline = true;
        let up = self.now() + millis;
        self.at(up, Event::LinkUp(node));
        if millis > crate::link::IDLE {
            self.reset_link(node, crate::link::IDLE, true);
        }
    }

    fn sandbox_fault(&mut self, node: usize) {
        let sandboxes = &self.hosts[node].runtime.sandboxes;
        let alive: Vec<PodUid> = sandboxes.iter().filter(|(_, s)| s.alive).map(|(uid, _)| uid.clone()).collect();
        if let Some(uid) = alive.first() {
            self.strike(Kind::SandboxDied, node);
            self.kill_sandbox(node, uid);
        }
    }

    /// The administrator takes a node out that is not coming back, and it comes back.
    fn delete_node(&mut self, node: usize) {
        if !self.hosts[node].offline {
            return;
        }
        let name = self.hosts[node].name.clone();
        let write = Write::Delete { resource: "nodes", namespace: String::new(), name, options: Delete::default() };
        if self.ask(Request { write, about: None, what: format!("delete node n{node}") }) {
            self.strike(Kind::NodeDeleted, node);
        }
    }

    /// The whole of a seed: trouble, calm, and nothing more to do.
    pub fn live(&mut self) {
        self.run_until(CHAOS);
        self.calm_down();
        let soon = self.now() + 1000;
        self.run_until(soon);
        for request in self.workload.last() {
            self.ask(request);
            let soon = self.now() + 50;
            self.run_until(soon);
        }
        let settled = self.now() + SETTLE;
        self.run_until(settled);
        if let Err(why) = self.is_reached() {
            panic!("what is desired was not reached: {why}");
        }
        let before = (self.mirror.revision(), self.jobs, self.links.sent);
        let silent = self.now() + SILENCE;
        self.run_until(silent);
        let after = (self.mirror.revision(), self.jobs, self.links.sent);
        assert_eq!(before, after, "it does not come to rest (revision, jobs, messages)");
    }

    /// Whether the cluster is what was asked for.
    fn is_reached(&self) -> Result<(), String> {
        for node in self.mirror.of("nodes") {
            let ready = conditions(&node).iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
            if !ready || !node["spec"]["taints"].is_null() {
                return Err(format!("node {} is not ready: {}", text(&node, "/metadata/name"), node["spec"]));
            }
        }
        let names: Vec<String> = self.mirror.of("deployments.apps").map(|d| text(&d, "/metadata/name")).collect();
        for (name, replicas) in &self.workload.acknowledged {
            if replicas.is_some() != names.iter().any(|known| known == name) {
                return Err(format!("deployment {name} should have {replicas:?}; there are {names:?}"));
            }
        }
        for deployment in self.mirror.of("deployments.apps") {
            let (wanted, ready) = (&deployment["spec"]["replicas"], &deployment["status"]["readyReplicas"]);
            if wanted != ready && *wanted != 0 || deployment["status"]["updatedReplicas"] != *wanted {
                return Err(format!("deployment {}: {}", text(&deployment, "/metadata/name"), deployment["status"]));
            }
        }
        self.mirror.of("pods").try_for_each(|pod| self.is_pod_right(&pod))?;
        for host in &self.hosts {
            for uid in host.runtime.sandboxes.iter().filter(|(_, s)| s.is_running()).map(|(uid, _)| uid) {
                let wanted = self
                    .mirror
                    .of("pods")
                    .any(|pod| text(&pod, "/metadata/uid") == uid.0 && text(&pod, "/spec/nodeName") == host.name);
                if !wanted {
                    return Err(format!("{uid} still runs on {}", host.name));
                }
            }
        }
        Ok(())
    }

    fn is_pod_right(&self, pod: &Value) -> Result<(), String> {
        let (name, uid) = (text(pod, "/metadata/name"), PodUid(text(pod, "/metadata/uid")));
        if !pod["metadata"]["deletionTimestamp"].is_null() {
            return Err(format!("pod {name} is still being deleted"));
        }
        let node = text(pod, "/spec/nodeName");
        let runs = self.hosts.iter().filter(|host| host.runtime.sandboxes.get(&uid).is_some_and(|s| s.is_running()));
        let runs: Vec<&str> = runs.map(|host| host.name.as_str()).collect();
        match text(pod, "/status/phase").as_str() {
            "Running" if runs == [node.as_str()] => Ok(()),
            "Succeeded" | "Failed" if runs.is_empty() => Ok(()),
            "Pending" if runs.is_empty() && self.waits(pod) => Ok(()),
            phase => Err(format!("pod {name} on {node} is {phase}, and runs on {runs:?}: {}", pod["status"])),
        }
    }

    /// It names a ConfigMap that is not there.
    fn waits(&self, pod: &Value) -> bool {
        let names = pod["spec"]["volumes"].to_string().contains("configMap");
        names && self.mirror.of("configmaps").all(|map| text(&map, "/metadata/name") != "conf")
    }

    /// Whether an eviction is premature: the node controller deletes pods of a node that exists.
    pub fn judge(&self, who: &str, write: &Write) {
        let Write::Delete { resource: "pods", options, .. } = write else { return };
        if !who.ends_with(":node-controller") || options.grace_seconds == Some(0) {
            return;
        }
        let Some(server) = &self.server else { return };
        let up = self.now() - server.started;
        let grace = crate::server::LIMITS.evict_millis as u64;
        assert!(up >= grace, "a pod is evicted {up} ms after the server's start");
        assert!(server.store.revision() >= self.mirror.revision());
    }
}

fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn conditions(object: &Value) -> &[Value] {
    object["status"]["conditions"].as_array().map_or(&[], Vec::as_slice)
}
