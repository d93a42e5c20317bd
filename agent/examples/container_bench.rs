//! Starts a container's `true` and reaps it, N times, with nothing ready-made: namespaces, mounts
//! and cgroup are made inside the timed span, on a plain directory as its root, as `runc run` and
//! `crun run` do.
//!
//! `container_bench --pause PROGRAM --rootfs DIR [--runs N] [--stock]` prints one JSON line with
//! microseconds of each run: until execve had succeeded, until the end was known, until nothing
//! was left. With `--stock` the pod's sandbox (its namespaces) is there before.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use argh::FromArgs;
use coracle_agent::runtime::*;
use coracle_shared::ids::PodUid;

/// Time a container's start and end.
#[derive(FromArgs)]
struct Args {
    /// the coracle-pause program
    #[argh(option)]
    pause: PathBuf,
    /// a directory with /bin/true
    #[argh(option)]
    rootfs: PathBuf,
    /// how often (default 50)
    #[argh(option, default = "50")]
    runs: u32,
    /// make the sandbox before the timed span
    #[argh(switch)]
    stock: bool,
}

fn main() {
    let args: Args = argh::from_env();
    let executor = Arc::new(smol::Executor::new());
    let name = format!("bench-{}", std::process::id());
    let run_dir = PathBuf::from("/run/coracle").join(&name);
    let config = RuntimeConfig {
        run_dir: run_dir.clone(),
        pause_path: args.pause.clone(),
        cgroup_root: "/coracle".into(),
        node: name,
        boot_id: std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("a boot id").trim().into(),
        log_budget: 64 << 20,
    };
    let runtime = Runtime::new(config, executor.clone()).expect("a runtime");
    let mut runs = Vec::new();
    for i in 0..args.runs {
        runs.push(smol::block_on(executor.run(one(&runtime, &args, i, &run_dir))));
    }
    runtime.remove_cgroups().expect("empty cgroups");
    std::fs::remove_dir_all(&run_dir).expect("an own run directory");
    println!("{}", serde_json::json!({ "name": "container", "stock": args.stock, "unit": "us", "runs": runs }));
}

/// Microseconds until running, reaped, removed.
async fn one(runtime: &Runtime, args: &Args, i: u32, run_dir: &std::path::Path) -> [u64; 3] {
    let sandbox = SandboxSpec {
        uid: PodUid(format!("bench-{i}")),
        namespace: "bench".into(),
        name: "true".into(),
        hostname: Some("bench".into()),
        network: Network::New,
        host_pid: false,
        host_ipc: false,
        share_shm: false,
        sysctls: Vec::new(),
        resources: Resources::default(),
        note: Vec::new(),
    };
    let container = ContainerSpec {
        id: ContainerId { name: "true".into(), attempt: 0 },
        rootfs: Rootfs::Directory(args.rootfs.clone()),
        argv: vec!["/bin/true".into()],
        env: vec![("PATH".into(), "/bin".into())],
        cwd: String::new(),
        user: User::default(),
        mounts: Vec::new(),
        security: Security::default(),
        resources: Resources {
            memory_limit_bytes: Some(64 << 20),
            cpu_request_millis: Some(100),
            cpu_limit_millis: Some(1000),
            pids_limit: Some(100),
        },
        log: LogSpec { path: run_dir.join("logs/0.log"), max_bytes: 1 << 20, max_files: 1 },
        stdin: false,
        termination_message_path: None,
    };
    let stock = if args.stock { Some(runtime.create_sandbox(&sandbox).await.expect("a sandbox")) } else { None };
    let begin = Instant::now();
    let micros = || begin.elapsed().as_micros() as u64;
    let sandbox = match stock {
        Some(sandbox) => sandbox,
        None => runtime.create_sandbox(&sandbox).await.expect("a sandbox"),
    };
    sandbox.start_container(&container).await.expect("a start");
    let running = micros();
    let status = sandbox.wait(&container.id).await.expect("an end");
    assert_eq!(status.exit.map(|e| e.code), Some(0));
    let reaped = micros();
    sandbox.remove().await.expect("nothing left");
    [running, reaped, micros()]
}
