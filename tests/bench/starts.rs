//! Starting a program and waiting until it is of use: the server answers, the node's pods are reported.

use std::fs::OpenOptions;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::http::{Client, Target};
use crate::pods::{PODS, until, watch};
use crate::{Outcome, ReadyArgs, RestartArgs, print};

/// Between two attempts to reach a server that does not answer yet.
const AGAIN: Duration = Duration::from_millis(1);
/// How long a start may take before the measurement counts as failed.
const PATIENCE: Duration = Duration::from_secs(120);

/// Starts a program that outlives this one, its output at the end of a file.
fn start(command: &[String], log: &Path) -> Outcome<Child> {
    let (program, arguments) = command.split_first().ok_or("which command?")?;
    let log = OpenOptions::new().append(true).create(true).open(log)?;
    let errors = log.try_clone()?;
    Ok(Command::new(program).args(arguments).stdin(Stdio::null()).stdout(log).stderr(errors).spawn()?)
}

/// From the server's exec to an answer that needs its store.
pub fn ready(args: &ReadyArgs) -> Outcome<()> {
    let target = Target::read(&args.kubeconfig)?;
    let begin = Instant::now();
    let mut server = start(&args.command, &args.log)?;
    let answers =
        || -> Outcome<Vec<u8>> { target.connect()?.good("GET", "/api/v1/namespaces/default/configmaps?limit=1", b"") };
    while answers().is_err() {
        if let Some(status) = server.try_wait()? {
            return Err(format!("the server ended ({status}): see {}", args.log.display()).into());
        }
        if begin.elapsed() > PATIENCE {
            return Err(format!("the server does not answer: see {}", args.log.display()).into());
        }
        std::thread::sleep(AGAIN);
    }
    print("ready_ms", begin.elapsed().as_secs_f64() * 1000.0);
    print("pid", f64::from(server.id()));
    Ok(())
}

/// How often the pod's containers were started again.
fn restarts(pod: &Value) -> u64 {
    let statuses = pod["status"]["containerStatuses"].as_array();
    statuses.into_iter().flatten().filter_map(|status| status["restartCount"].as_u64()).sum()
}

/// What a report of the pod says that an earlier one could not: its container has ended since.
fn tells_news(pod: &Value, restarts_before: u64) -> bool {
    let statuses = pod["status"]["containerStatuses"].as_array();
    let ended = statuses.into_iter().flatten().any(|status| status["state"]["terminated"].is_object());
    ended || restarts(pod) > restarts_before
}

/// From the agent's exec until the server tells a watch what happened to a pod in the meantime.
pub fn restart(args: &RestartArgs) -> Outcome<()> {
    let target = Target::read(&args.kubeconfig)?;
    let mut client: Client = target.connect()?;
    let pod: Value = serde_json::from_slice(&client.good("GET", &format!("{PODS}/{}", args.pod), b"")?)?;
    let before = restarts(&pod);
    if tells_news(&pod, before) {
        return Err(format!("{} has ended and been reported before the agent was started", args.pod).into());
    }
    let mut events = watch(&target, &mut client)?;
    let begin = Instant::now();
    let agent = start(&args.command, &args.log)?;
    until(&mut events, |_, name, object| name == args.pod && tells_news(object, before))?;
    print("reported_ms", begin.elapsed().as_secs_f64() * 1000.0);
    print("pid", f64::from(agent.id()));
    Ok(())
}
