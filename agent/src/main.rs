//! `coracle-agent`: runs a node's pods.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use argh::FromArgs;
use async_signal::{Signal, Signals};
use coracle_agent::identity::Identity;
use coracle_agent::ledger::{CHECK_COMMAND, check_file, confine_check};
use coracle_agent::link::{Link, Newcomer, join};
use coracle_agent::node::run::{Options, Uplink, run};
use coracle_agent::report::node::architecture;
use coracle_shared::join::JoinLine;
use futures_lite::StreamExt;

/// The exit code of a failed join, and of arguments that make no sense.
const REFUSED: u8 = 2;

/// Runs a node's pods: what its server wants, from its own ledger, also while the server is away.
#[derive(FromArgs)]
struct Args {
    /// directory of everything that survives a reboot: identity, ledger, images (made if missing)
    #[argh(option)]
    state: Option<PathBuf>,
    /// the node's name in the cluster (default: the host name)
    #[argh(option)]
    name: Option<String>,
    /// line from `coracle token create`; only used when the node is not a member yet
    #[argh(option)]
    join: Option<String>,
    /// cgroup below which the node's groups are made, as NODE/agent and NODE/pods (default: /coracle)
    #[argh(option, default = "PathBuf::from(\"/coracle\")")]
    cgroup_root: PathBuf,
    /// directory of everything that ends with a reboot, on a tmpfs (default: /run/coracle/NODE)
    #[argh(option)]
    runtime_dir: Option<PathBuf>,
    /// the coracle-pause program (default: beside this one)
    #[argh(option)]
    pause: Option<PathBuf>,
    /// JSON file of registries: mirrors, CAs, plain HTTP; read again when it changes
    #[argh(option)]
    registries: Option<PathBuf>,
    /// fail at a point, each time or at the Nth passage: POINT[:N], several times. Points:
    /// start-crash, start-unrecorded, teardown-crash, publish-crash, reconcile-hang, ledger-write,
    /// ledger-sync, image-sync
    #[cfg(feature = "faults")]
    #[argh(option)]
    fault: Vec<String>,
    /// say on standard error when a stage of the work on a pod begins and ends
    #[argh(switch)]
    trace: bool,
    /// print version and features, and exit
    #[argh(switch)]
    version: bool,
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    // The agent's own short-lived children, each confined to one task.
    match words.next().as_deref() {
        Some("unpack-layer") => return coracle_images::unpack::child_main(),
        Some(CHECK_COMMAND) => return check_ledger(words),
        Some("dns-child") => return answer_names(words),
        _ => {}
    }
    let args: Args = argh::from_env();
    if args.version {
        let features = if cfg!(feature = "faults") { " (faults)" } else { "" };
        println!("coracle-agent {}{features}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    #[cfg(feature = "faults")]
    if let Err(message) = coracle_agent::fault::arm_all(&args.fault) {
        eprintln!("coracle-agent: {message}");
        return ExitCode::from(REFUSED);
    }
    match start(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, message)) => {
            eprintln!("coracle-agent: {message}");
            ExitCode::from(code)
        }
    }
}

fn answer_names(words: impl Iterator<Item = String>) -> ExitCode {
    match coracle_agent::network::child_main(words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("coracle-agent dns-child: {e}");
            ExitCode::FAILURE
        }
    }
}

fn check_ledger(mut words: impl Iterator<Item = String>) -> ExitCode {
    let (Some(file), Some(key)) = (words.next(), words.next()) else { return ExitCode::from(REFUSED) };
    let checked = confine_check().map_err(|e| format!("confining the check: {e}"));
    match checked.and_then(|()| check_file(file.as_ref(), key.as_ref()).map_err(|e| e.to_string())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn start(args: Args) -> Result<(), (u8, String)> {
    let failed = |e: &dyn std::fmt::Display| (1, e.to_string());
    if args.trace {
        coracle_agent::trace::on();
    }
    let state = args.state.ok_or((REFUSED, "--state DIR is needed; see --help".to_owned()))?;
    std::fs::create_dir_all(&state).map_err(|e| (1, format!("{}: {e}", state.display())))?;
    let member = Identity::load(&state).map_err(|e| failed(&e))?;
    let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let identity = match member {
        Some(identity) => identity,
        None => {
            let node = args.name.clone().unwrap_or_else(|| hostname.clone());
            let line = args.join.as_deref().ok_or_else(|| {
                let why = "this node is not a member of a cluster yet: give it --join LINE from `coracle token create`";
                (REFUSED, why.to_owned())
            })?;
            join_cluster(&state, line, node, hostname)?
        }
    };
    let name = identity.node().to_owned();
    if let Some(other) = args.name.filter(|n| *n != name) {
        return Err((REFUSED, format!("this node joined as {name}, not as {other}")));
    }
    let beside = || std::env::current_exe().map(|exe| exe.with_file_name("coracle-pause"));
    let options = Options {
        runtime_dir: args.runtime_dir.unwrap_or_else(|| PathBuf::from("/run/coracle").join(&name)),
        pause: args.pause.map_or_else(beside, Ok).map_err(|e| failed(&e))?,
        cgroup_root: args.cgroup_root,
        registries: args.registries,
        program: PathBuf::from("/proc/self/exe"),
        name,
        state,
    };
    let mut signals = Signals::new([Signal::Term, Signal::Int]).map_err(|e| failed(&e))?;
    let ended = async move { drop(signals.next().await) };
    let identity = Arc::new(identity);
    let connect = |desired, streams, reporter| {
        let link = Arc::new(Link::new(identity, desired, streams, reporter));
        let own = Arc::clone(&link);
        Uplink { work: Box::pin(async move { own.run().await }), state: Arc::new(move || link.state()) }
    };
    run(options, connect, ended).map_err(|e| failed(&e))
}

fn join_cluster(state: &std::path::Path, line: &str, node: String, hostname: String) -> Result<Identity, (u8, String)> {
    let line: JoinLine = line.parse().map_err(|e| (REFUSED, format!("--join: {e}")))?;
    let newcomer = Newcomer { node, hostname, architecture: architecture().to_owned() };
    let joined = smol::block_on(join(state, &line, &newcomer));
    joined.map_err(|e| (REFUSED, format!("joining failed: {e}")))
}

#[cfg(all(test, feature = "faults"))]
mod tests {
    use super::*;

    #[test]
    fn the_help_names_every_fault_point() {
        let help = Args::from_args(&["coracle-agent"], &["--help"]).err().expect("help").output;
        for point in coracle_agent::fault::POINTS {
            assert!(help.contains(point.name), "{} is not in {help}", point.name);
        }
    }
}
