//! The client side of `scripts/bench.sh`: it loads a cluster or etcd, watches pods start, and reads
//! what processes cost. Every command prints lines of `name value`, and exits 1 when it cannot measure.

mod creates;
mod day;
mod grpc;
mod http;
mod latency;
mod pods;
mod processes;
mod starts;

use std::path::PathBuf;
use std::process::ExitCode;

use argh::FromArgs;

/// Why a measurement failed, in words.
pub type Fault = Box<dyn std::error::Error + Send + Sync>;
pub type Outcome<T> = Result<T, Fault>;

/// Measures for scripts/bench.sh.
#[derive(FromArgs)]
struct Args {
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Command {
    Creates(CreatesArgs),
    Etcd(EtcdArgs),
    Storm(StormArgs),
    Documents(DocumentsArgs),
    PodStart(PodStartArgs),
    PodStorm(PodStormArgs),
    Stamp(StampArgs),
    Memory(MemoryArgs),
    Peak(PeakArgs),
    Cpu(CpuArgs),
    Spawn(SpawnArgs),
    Ready(ReadyArgs),
    Restart(RestartArgs),
    Deployments(DeploymentsArgs),
    Flips(FlipsArgs),
    Latency(LatencyArgs),
}

/// Durable creates of ConfigMaps over HTTPS with keep-alive.
#[derive(FromArgs)]
#[argh(subcommand, name = "creates")]
pub struct CreatesArgs {
    /// whose cluster
    #[argh(option)]
    pub kubeconfig: PathBuf,
    /// connections, each with one request under way
    #[argh(option)]
    pub writers: usize,
    /// creates in all
    #[argh(option)]
    pub writes: usize,
    /// what the objects' names begin with
    #[argh(option, default = "String::from(\"bench\")")]
    pub prefix: String,
}

/// Puts through etcd's gRPC front end.
#[derive(FromArgs)]
#[argh(subcommand, name = "etcd")]
pub struct EtcdArgs {
    /// etcd's client address
    #[argh(option)]
    pub address: std::net::SocketAddr,
    /// connections, each with one request under way
    #[argh(option)]
    pub writers: usize,
    /// puts in all
    #[argh(option)]
    pub writes: usize,
}

/// Creates objects and deletes them again.
#[derive(FromArgs)]
#[argh(subcommand, name = "storm")]
pub struct StormArgs {
    /// whose cluster
    #[argh(option)]
    pub kubeconfig: PathBuf,
    /// how many
    #[argh(option, default = "1000")]
    pub objects: usize,
}

/// Reads both OpenAPI documents, in every encoding and part.
#[derive(FromArgs)]
#[argh(subcommand, name = "documents")]
pub struct DocumentsArgs {
    /// whose cluster
    #[argh(option)]
    pub kubeconfig: PathBuf,
}

/// Pods one after another: from POST to Running as a watch sees it.
#[derive(FromArgs)]
#[argh(subcommand, name = "pod-start")]
pub struct PodStartArgs {
    /// whose cluster
    #[argh(option)]
    pub kubeconfig: PathBuf,
    /// an image with /bin/coracle-bench, present on the node
    #[argh(option)]
    pub image: String,
    /// how many
    #[argh(option, default = "50")]
    pub pods: usize,
    /// a file for the spans of the starts, as lines of begin and end in seconds since 1970
    #[argh(option)]
    pub spans: Option<PathBuf>,
}

/// Pods all at once, until the last is Running.
#[derive(FromArgs)]
#[argh(subcommand, name = "pod-storm")]
pub struct PodStormArgs {
    /// whose cluster
    #[argh(option)]
    pub kubeconfig: PathBuf,
    /// an image with /bin/coracle-bench, present on the node
    #[argh(option)]
    pub image: String,
    /// how many
    #[argh(option, default = "100")]
    pub pods: usize,
    /// connections that create them
    #[argh(option, default = "8")]
    pub writers: usize,
    /// leave them running
    #[argh(switch)]
    pub keep: bool,
    /// the container's shell command (default: the time of its own start)
    #[argh(option)]
    pub shell: Option<String>,
    /// with a readiness probe: GET / on this port
    #[argh(option)]
    pub probe: Option<u16>,
}

/// A container's own first line: the time, in seconds since 1970. Then it waits for ever.
#[derive(FromArgs)]
#[argh(subcommand, name = "stamp")]
struct StampArgs {}

/// Memory of all processes that run these programs.
#[derive(FromArgs)]
#[argh(subcommand, name = "memory")]
pub struct MemoryArgs {
    /// the cluster's cgroup, for programs that run from memory
    #[argh(option)]
    pub cgroup: Option<String>,
    /// the programs' files
    #[argh(positional)]
    pub programs: Vec<PathBuf>,
}

/// The most memory of all processes that run these programs, sampled until standard input ends.
#[derive(FromArgs)]
#[argh(subcommand, name = "peak")]
pub struct PeakArgs {
    /// the cluster's cgroup, for programs that run from memory
    #[argh(option)]
    pub cgroup: Option<String>,
    /// the programs' files
    #[argh(positional)]
    pub programs: Vec<PathBuf>,
}

/// CPU time of all threads that run these programs.
#[derive(FromArgs)]
#[argh(subcommand, name = "cpu")]
pub struct CpuArgs {
    /// how long
    #[argh(option, default = "60")]
    pub seconds: u64,
    /// the cluster's cgroup, for programs that run from memory
    #[argh(option)]
    pub cgroup: Option<String>,
    /// the programs' files
    #[argh(positional)]
    pub programs: Vec<PathBuf>,
}

/// Runs a command again and again and prints the median of its milliseconds.
#[derive(FromArgs)]
#[argh(subcommand, name = "spawn")]
pub struct SpawnArgs {
    /// how often
    #[argh(option, default = "50")]
    pub runs: usize,
    /// the command; @ in an argument becomes the run's number
    #[argh(positional)]
    pub command: Vec<String>,
}

/// Starts a server and prints the time until it answers; leaves it running.
#[derive(FromArgs)]
#[argh(subcommand, name = "ready")]
pub struct ReadyArgs {
    /// whose cluster
    #[argh(option)]
    pub kubeconfig: PathBuf,
    /// where the server's output goes
    #[argh(option)]
    pub log: PathBuf,
    /// the server and its arguments
    #[argh(positional)]
    pub command: Vec<String>,
}

/// Starts an agent and prints the time until a pod's news are reported; leaves it running.
#[derive(FromArgs)]
#[argh(subcommand, name = "restart")]
pub struct RestartArgs {
    /// whose cluster
    #[argh(option)]
    pub kubeconfig: PathBuf,
    /// a pod whose container has ended while no agent was there
    #[argh(option)]
    pub pod: String,
    /// where the agent's output goes
    #[argh(option)]
    pub log: PathBuf,
    /// the agent and its arguments
    #[argh(positional)]
    pub command: Vec<String>,
}

/// Deployments of one replica that come, become available and go.
#[derive(FromArgs)]
#[argh(subcommand, name = "deployments")]
pub struct DeploymentsArgs {
    /// whose cluster
    #[argh(option)]
    pub kubeconfig: PathBuf,
    /// an image with a shell, present on the node
    #[argh(option)]
    pub image: String,
    /// how many
    #[argh(option, default = "100")]
    pub count: usize,
}

/// A pod that goes behind a Service and away again.
#[derive(FromArgs)]
#[argh(subcommand, name = "flips")]
pub struct FlipsArgs {
    /// whose cluster
    #[argh(option)]
    pub kubeconfig: PathBuf,
    /// a running pod
    #[argh(option)]
    pub pod: String,
    /// how often
    #[argh(option, default = "1000")]
    pub count: usize,
}

/// GETs, and events on their way to a watch.
#[derive(FromArgs)]
#[argh(subcommand, name = "latency")]
pub struct LatencyArgs {
    /// whose cluster
    #[argh(option)]
    pub kubeconfig: PathBuf,
    /// how long
    #[argh(option, default = "20")]
    pub seconds: u64,
    /// what the names of objects begin with
    #[argh(option)]
    pub prefix: String,
}

fn main() -> ExitCode {
    let args: Args = argh::from_env();
    match run(args.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("coracle-bench: {fault}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Outcome<()> {
    match command {
        Command::Creates(args) => creates::api(&args),
        Command::Etcd(args) => grpc::etcd(&args),
        Command::Storm(args) => creates::storm(&args),
        Command::Documents(args) => creates::documents(&args),
        Command::PodStart(args) => pods::start(&args),
        Command::PodStorm(args) => pods::storm(&args),
        Command::Stamp(_) => pods::stamp(),
        Command::Memory(args) => processes::memory(&args),
        Command::Peak(args) => processes::peak(&args),
        Command::Cpu(args) => processes::cpu(&args),
        Command::Spawn(args) => processes::spawn(&args),
        Command::Ready(args) => starts::ready(&args),
        Command::Restart(args) => starts::restart(&args),
        Command::Deployments(args) => day::deployments(&args),
        Command::Flips(args) => day::flips(&args),
        Command::Latency(args) => latency::run(&args),
    }
}

/// Prints one figure.
pub fn print(name: &str, value: f64) {
    println!("{name} {value:.6}");
}

/// The value below which `share` of the values lie.
pub fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (values.len() as f64 * share).ceil() as usize;
    values[rank.clamp(1, values.len()) - 1]
}
