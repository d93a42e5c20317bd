//! A node's fake runtime: sandboxes and containers that outlive the agent, not a power cut.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use coracle_agent::reconcile::fleet::Found;
use coracle_agent::reconcile::state::{Adopted, AdoptedContainer, SandboxInfo, Started};
use coracle_shared::ids::PodUid;
use coracle_shared::report::Exit;

/// How the containers of an image behave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Act {
    /// Runs until told to stop, and then ends at once.
    Serve,
    /// Runs until killed.
    Deaf,
    /// Ends by itself after so many milliseconds with this code.
    End(u64, i32),
}

impl Act {
    pub fn of(image: &str) -> Act {
        let name = image.rsplit('/').next().unwrap_or(image);
        match name.split(['-', ':']).collect::<Vec<_>>()[..] {
            ["deaf", ..] => Act::Deaf,
            ["end", ms, code, ..] => Act::End(ms.parse().expect("ms"), code.parse().expect("code")),
            _ => Act::Serve,
        }
    }
}

/// One run of a container.
#[derive(Clone, Debug)]
pub struct Run {
    /// Unique in the simulation: the same number is the same process.
    pub instance: u64,
    pub attempt: u32,
    pub act: Act,
    pub image: String,
    pub started: Started,
    pub exit: Option<Exit>,
}

#[derive(Clone, Debug)]
pub struct Sandbox {
    pub namespace: String,
    pub name: String,
    pub ip: Ipv4Addr,
    pub started_at: i64,
    /// Its pause process runs.
    pub alive: bool,
    pub runs: BTreeMap<String, Run>,
}

impl Sandbox {
    pub fn is_running(&self) -> bool {
        self.alive && self.runs.values().any(|run| run.exit.is_none())
    }

    fn found(&self) -> Found {
        let container = |(name, run): (&String, &Run)| AdoptedContainer {
            name: name.clone(),
            attempt: run.attempt,
            image_ref: run.image.clone(),
            image_id: image_id(&run.image),
            started: run.started.clone(),
            exit: run.exit.clone(),
            last: None,
        };
        Found {
            quarantined: false,
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            adopted: Adopted {
                sandbox: SandboxInfo { pod_ip: Some(self.ip) },
                started_at: self.started_at,
                alive: self.alive,
                containers: self.runs.iter().map(container).collect(),
            },
        }
    }
}

pub fn image_id(image: &str) -> String {
    format!("{image}@sha256:{:064x}", image.len())
}

/// Everything that runs on a node.
#[derive(Clone, Debug, Default)]
pub struct Runtime {
    pub sandboxes: BTreeMap<PodUid, Sandbox>,
    addresses: u8,
}

impl Runtime {
    /// The next free address of the node's network; it comes round.
    pub fn address(&mut self, node: usize) -> Ipv4Addr {
        loop {
            self.addresses = if self.addresses >= 250 { 2 } else { self.addresses.max(1) + 1 };
            let ip = Ipv4Addr::new(10, 42, node as u8, self.addresses);
            if !self.sandboxes.values().any(|sandbox| sandbox.ip == ip) {
                return ip;
            }
        }
    }

    /// What an agent finds when it starts.
    pub fn found(&self) -> BTreeMap<PodUid, Found> {
        self.sandboxes.iter().map(|(uid, sandbox)| (uid.clone(), sandbox.found())).collect()
    }

    pub fn run_mut(&mut self, uid: &PodUid, container: &str) -> Option<&mut Run> {
        self.sandboxes.get_mut(uid)?.runs.get_mut(container)
    }

    /// The power went: no process is left, and no mount or namespace.
    pub fn power_cut(&mut self) {
        self.sandboxes.clear();
    }
}
