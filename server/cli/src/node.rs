//! `coracle ps`: what runs on this node, asked of its agent; the server may be away.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use argh::FromArgs;
use serde_json::Value;

use crate::error::Error;
use crate::output::{self, Format};

/// Show the pods and containers of this node, as its agent knows them; works without the server.
#[derive(FromArgs)]
#[argh(subcommand, name = "ps")]
pub struct Ps {
    /// the agent's socket (default: the one under /run/coracle)
    #[argh(option)]
    socket: Option<PathBuf>,
    /// output format: json or yaml
    #[argh(option, short = 'o')]
    output: Option<String>,
}

const RUNTIME_ROOT: &str = "/run/coracle";
/// An agent answers at once or hangs.
const TIMEOUT: Duration = Duration::from_secs(10);

impl Ps {
    pub fn run(self) -> Result<(), Error> {
        let format = Format::parse(self.output.as_deref())?;
        let socket = match self.socket {
            Some(socket) => socket,
            None => only_socket(Path::new(RUNTIME_ROOT))?,
        };
        let answer = ask(&socket, "{\"command\":\"ps\"}\n")?;
        match format {
            Format::Json => output::print(&output::json(&answer)),
            Format::Yaml => output::print(&output::yaml(&answer)?),
            _ => output::print(&table(&answer)),
        }
    }
}

fn only_socket(root: &Path) -> Result<PathBuf, Error> {
    let entries = fs::read_dir(root).map_err(|e| {
        Error::Unreachable(format!(
            "no agent runs on this machine: {}: {e}; name its socket with --socket",
            root.display()
        ))
    })?;
    let mut sockets: Vec<PathBuf> =
        entries.flatten().map(|e| e.path().join("agent.sock")).filter(|p| p.exists()).collect();
    match (sockets.pop(), sockets.is_empty()) {
        (Some(socket), true) => Ok(socket),
        (None, _) => {
            Err(Error::Unreachable(format!("no agent's socket below {}; name it with --socket", root.display())))
        }
        (Some(_), false) => Err(Error::Usage(format!(
            "several agents run on this machine: choose one of {}/*/agent.sock with --socket",
            root.display()
        ))),
    }
}

fn ask(socket: &Path, question: &str) -> Result<Value, Error> {
    let failed = |e: std::io::Error| {
        Error::Unreachable(format!("the agent at {}: {e}; is it running, and are you root?", socket.display()))
    };
    let mut stream = UnixStream::connect(socket).map_err(failed)?;
    stream.set_read_timeout(Some(TIMEOUT)).map_err(failed)?;
    stream.write_all(question.as_bytes()).map_err(failed)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).map_err(failed)?;
    serde_json::from_str(&line).map_err(|e| Error::Unreachable(format!("the agent's answer is not JSON: {e}")))
}

/// One row a process: a pod's pause process, then its containers.
fn table(answer: &Value) -> String {
    let mut rows =
        vec![["NAMESPACE", "POD", "CONTAINER", "STATE", "PID", "RESTARTS", "IMAGE"].map(str::to_owned).to_vec()];
    let text = |v: &Value| match v {
        Value::String(s) => s.clone(),
        Value::Null => "-".into(),
        other => other.to_string(),
    };
    for pod in answer["pods"].as_array().into_iter().flatten() {
        let row = |container: String, state: String, of: &Value| {
            vec![
                text(&pod["namespace"]),
                text(&pod["name"]),
                container,
                state,
                text(&of["pid"]),
                text(&of["restarts"]),
                text(&of["image"]),
            ]
        };
        rows.push(row("(pause)".into(), text(&pod["phase"]), pod));
        for container in pod["containers"].as_array().into_iter().flatten() {
            rows.push(row(text(&container["name"]), text(&container["state"]), container));
        }
    }
    output::columns_of(&rows)
}
