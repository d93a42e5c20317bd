//! The node's own socket: one JSON question a line, one JSON answer a line. It answers with the
//! server away.
//!
//! `{"command":"ps"}` → `{"pods":[{namespace, name, uid, phase, ip, pid, containers:[{name, state,
//! restarts, image, pid}]}]}`; `{"command":"status"}` → `{node, link, ledger,
//! conditions:[{type, reason, message}]}`, of conditions what is wrong.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use coracle_shared::report::{Condition, ContainerReport, ContainerState, PodReport};
use futures_lite::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, io::BufReader};
use serde_json::{Value, json};
use smol::net::unix::{UnixListener, UnixStream};

use super::Node;
use crate::link::{Carrier, LinkState};
use crate::reconcile::driver::Board;
use crate::runtime::{ContainerId, Sandbox};

/// The longest question.
const MAX_QUESTION: u64 = 4 << 10;

/// What the socket answers from.
#[derive(Clone)]
pub struct Desk {
    pub name: String,
    /// The state directory, whose disk conditions tell of.
    pub state: PathBuf,
    pub node: Arc<OnceLock<Arc<Node>>>,
    pub board: Board,
    pub link: Arc<dyn Fn() -> LinkState + Send + Sync>,
}

impl Desk {
    /// Listens on `path` (0600), for ever.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub async fn serve(self, path: &Path, executor: &smol::Executor<'static>) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        loop {
            let (stream, _) = listener.accept().await?;
            let desk = self.clone();
            // A client that breaks off is its own concern.
            executor.spawn(async move { drop(desk.talk(stream).await) }).detach();
        }
    }

    async fn talk(&self, stream: UnixStream) -> io::Result<()> {
        let mut answers = stream.clone();
        let mut questions = BufReader::new(stream.take(MAX_QUESTION));
        let mut line = String::new();
        while questions.read_line(&mut line).await? > 0 {
            let mut answer = self.answer(&line).to_string();
            answer.push('\n');
            answers.write_all(answer.as_bytes()).await?;
            line.clear();
            questions.get_mut().set_limit(MAX_QUESTION);
        }
        Ok(())
    }

    fn answer(&self, question: &str) -> Value {
        let question: Value = serde_json::from_str(question).unwrap_or_default();
        match question["command"].as_str() {
            Some("ps") => json!({ "pods": self.pods() }),
            Some("status") => self.status(),
            _ => json!({"error": "unknown command; there are ps and status"}),
        }
    }

    fn pods(&self) -> Vec<Value> {
        let node = self.node.get();
        let reports: Vec<PodReport> = self.board.read().values().cloned().collect();
        let sandbox = |r: &PodReport| node.and_then(|n| n.sandbox(&r.uid)).filter(Sandbox::is_alive);
        reports.iter().map(|r| pod(r, sandbox(r).as_ref())).collect()
    }

    fn status(&self) -> Value {
        let link = match (self.link)() {
            LinkState::Connected { server, over } => {
                let over = match over {
                    Carrier::Quic => "QUIC",
                    Carrier::Tcp => "TCP",
                };
                json!({"state": "connected", "server": server, "over": over})
            }
            LinkState::Connecting { last } => json!({"state": "connecting", "last": last}),
            LinkState::Refused { reason } => json!({"state": "refused", "reason": reason}),
        };
        let node = self.node.get();
        let failing = node.and_then(|n| n.keeper.failing());
        let conditions = node.map(|n| super::conditions::of(n, &self.board, &self.state)).unwrap_or_default();
        let wrong = |c: &Condition| c.status.then(|| json!({"type": c.kind, "reason": c.reason, "message": c.message}));
        let wrong: Vec<Value> = conditions.iter().filter_map(wrong).collect();
        json!({"node": self.name, "link": link, "ledger": failing.unwrap_or_else(|| "ok".into()), "conditions": wrong})
    }
}

fn pod(r: &PodReport, sandbox: Option<&Sandbox>) -> Value {
    let first_pid = |c: &ContainerReport| {
        let running = matches!(c.state, ContainerState::Running { .. });
        let id = ContainerId { name: c.name.clone(), attempt: c.restart_count };
        running.then(|| sandbox?.processes(&id).first().copied()).flatten()
    };
    let all = r.init_containers.iter().chain(&r.containers);
    let containers: Vec<Value> = all.map(|c| container(c, first_pid(c))).collect();
    let pid = sandbox.map(Sandbox::pid);
    json!({
        "namespace": r.namespace, "name": r.name, "uid": r.uid.0, "phase": format!("{:?}", r.phase),
        "ip": r.pod_ip.map(|ip| ip.to_string()), "ready": r.ready, "pid": pid, "containers": containers,
    })
}

fn container(c: &ContainerReport, pid: Option<u32>) -> Value {
    let state = match &c.state {
        ContainerState::Running { .. } => "Running".to_owned(),
        ContainerState::Waiting { reason, .. } => reason.clone(),
        ContainerState::Terminated(exit) => exit.reason.clone(),
    };
    let ended = match &c.state {
        ContainerState::Terminated(exit) => Some(exit),
        _ => c.last.as_ref(),
    };
    let (code, message) = ended.map_or((None, ""), |e| (Some(e.code), e.message.as_str()));
    let message = match &c.state {
        ContainerState::Waiting { message: why, .. } if message.is_empty() => why,
        _ => message,
    };
    json!({
        "name": c.name, "state": state, "restarts": c.restart_count, "image": c.image, "ready": c.ready, "pid": pid,
        "exitCode": code, "message": message,
    })
}
