//! The node's own socket: one JSON question a line, one JSON answer a line. It answers with the
//! server away.
//!
//! `{"command":"ps"}` → `{"pods":[{namespace, name, uid, phase, ip, pid, containers:[{name, state,
//! restarts, image}]}]}`; `{"command":"status"}` → `{node, link, ledger}`.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use coracle_shared::report::{ContainerReport, ContainerState, PodReport};
use futures_lite::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, io::BufReader};
use serde_json::{Value, json};
use smol::net::unix::{UnixListener, UnixStream};

use super::Node;
use crate::link::LinkState;
use crate::reconcile::driver::Board;

/// The longest question.
const MAX_QUESTION: u64 = 4 << 10;

/// What the socket answers from.
#[derive(Clone)]
pub struct Desk {
    pub name: String,
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
        let pid = |r: &PodReport| node.and_then(|n| n.sandbox(&r.uid)).filter(|s| s.is_alive()).map(|s| s.pid());
        reports.iter().map(|r| pod(r, pid(r))).collect()
    }

    fn status(&self) -> Value {
        let link = match (self.link)() {
            LinkState::Connected { server } => json!({"state": "connected", "server": server}),
            LinkState::Connecting { last } => json!({"state": "connecting", "last": last}),
            LinkState::Refused { reason } => json!({"state": "refused", "reason": reason}),
        };
        let failing = self.node.get().and_then(|n| n.keeper.failing());
        json!({"node": self.name, "link": link, "ledger": failing.unwrap_or_else(|| "ok".into())})
    }
}

fn pod(r: &PodReport, pid: Option<u32>) -> Value {
    let containers: Vec<Value> = r.init_containers.iter().chain(&r.containers).map(container).collect();
    json!({
        "namespace": r.namespace, "name": r.name, "uid": r.uid.0, "phase": format!("{:?}", r.phase),
        "ip": r.pod_ip.map(|ip| ip.to_string()), "ready": r.ready, "pid": pid, "containers": containers,
    })
}

fn container(c: &ContainerReport) -> Value {
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
        "name": c.name, "state": state, "restarts": c.restart_count, "image": c.image, "ready": c.ready,
        "exitCode": code, "message": message,
    })
}
