//! coracle-server: opens the store and the certificates, wires the rooms together, and ends cleanly.

#[path = "main/flags.rs"]
mod flags;
#[path = "main/offline.rs"]
mod offline;

use std::error::Error;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_net::TcpListener;
use async_signal::{Signal, Signals};
use coracle_controllers::{Controllers, NodeLimits};
use coracle_server::api::http::{Offer, Times};
use coracle_server::api::{Api, Config, http, seed};
use coracle_server::bridge::{RegistryPlatforms, StoreBackups, SystemClock};
use coracle_server::nodes::{ClusterNetwork, Nodes, Setup};
use coracle_server::pki::{self, Pki};
use coracle_server::{kinds, tls};
use coracle_store::embedded::{Embedded, Options, reader, settle};
use flags::Flags;
use futures_lite::StreamExt as _;
use smol::{Executor, Task};

/// Threads that run tasks beside the main one: TLS and JSON of many clients use both cores of a
/// small machine, and more would only cost memory. They leave sockets and timers to the main one:
/// two that take turns at waiting for them wake each other more than they get done.
const EXTRA_THREADS: usize = 1;

/// How often the server looks whether a certificate of its own is due.
const RENEWAL: Duration = Duration::from_secs(6 * 3600);
/// How often it looks whether the clock was set meanwhile, and how much is no mere correction: a
/// board's clock jumps by decades when the network comes, and its certificates with it.
const CLOCK_LOOK: Duration = Duration::from_secs(60);
const CLOCK_JUMP: Duration = Duration::from_secs(600);

/// musl's own allocator hardens every step: an eighth of a write's time went there.
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

type Fault = Box<dyn Error>;

fn main() -> ExitCode {
    let flags: Flags = argh::from_env();
    if flags.version {
        println!(
            "coracle-server {}{}",
            env!("CARGO_PKG_VERSION"),
            if cfg!(feature = "faults") { " (faults)" } else { "" }
        );
        return ExitCode::SUCCESS;
    }
    #[cfg(feature = "faults")]
    if let Err(message) = coracle_server::fault::arm_all(&flags.fault) {
        eprintln!("coracle-server: {message}");
        return ExitCode::FAILURE;
    }
    let outcome = match &flags.read_checkpoint {
        Some(directory) => reader::serve(directory, io::stdout().lock()).map_err(Fault::from),
        None => run(&flags),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("coracle-server: {fault}");
            ExitCode::FAILURE
        }
    }
}

/// One line a message, on standard error: what ran it adds the time.
fn log(words: std::fmt::Arguments<'_>) {
    eprintln!("{words}");
}

fn wall() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn random() -> [u8; 16] {
    // The kernel's random numbers do not fail once the system has started; a uid must not be made of anything else.
    pki::random().expect("the kernel has random numbers")
}

fn run(flags: &Flags) -> Result<(), Fault> {
    let state = flags.state.as_deref().ok_or("--state DIR is needed: the directory of everything the server keeps")?;
    std::fs::create_dir_all(state).map_err(|e| format!("{}: {e}", state.display()))?;
    if let Some(file) = &flags.restore {
        let key = flags.key.as_deref().ok_or("--restore needs --key FILE: the secret.key of the day of the backup")?;
        return offline::restore(state, file, key);
    }
    if flags.rotate_key {
        return offline::rotate_key(state);
    }
    let directory = state.join("store");
    let opened = settle(&directory).and_then(|()| Embedded::open(&directory, store_options(state)));
    let store = Arc::new(opened.map_err(|error| offline::explain(error, state))?);
    if let Err(error) = show_key(state) {
        log(format_args!("secret.key in {}: {error}; the key itself lies in store/secret.key", state.display()));
    }
    let result = serve(flags, state, store.clone());
    store.close();
    result
}

/// The key that people keep a copy of is found at the top of the state directory: a link to where the
/// store changes it.
fn show_key(state: &Path) -> io::Result<()> {
    match std::os::unix::fs::symlink("store/secret.key", state.join("secret.key")) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// The store reads its checkpoint in a child process, which a damaged file may crash.
fn store_options(state: &Path) -> Options {
    let directory = state.join("store");
    let reader = move || {
        let mut command = Command::new("/proc/self/exe");
        command.arg("--read-checkpoint").arg(&directory).env("RUST_BACKTRACE", "0");
        command
    };
    Options {
        reader: Some(Arc::new(reader)),
        log: Arc::new(|words| log(format_args!("{words}"))),
        ..Options::default()
    }
}

fn serve(flags: &Flags, state: &Path, store: Arc<Embedded>) -> Result<(), Fault> {
    let platforms = Arc::new(RegistryPlatforms::open(flags.registries.as_deref())?);
    let pki = Arc::new(Pki::open(state, &flags.advertise, SystemTime::now())?);
    let executor = Arc::new(Executor::new());
    for _ in 0..EXTRA_THREADS {
        let executor = executor.clone();
        let run = move || smol::future::block_on(executor.run(smol::future::pending::<()>()));
        std::thread::Builder::new().name("tasks".into()).spawn(run)?;
    }
    smol::block_on(executor.clone().run(async {
        let mut signals = Signals::new([Signal::Term, Signal::Int])?;
        let listener =
            TcpListener::bind(flags.listen).await.map_err(|e| format!("listening on {}: {e}", flags.listen))?;
        let address = listener.local_addr()?;
        let nodes = Arc::new(Nodes::open(Setup::new(address, network(flags)), pki.clone(), store.clone())?);
        let backups = Arc::new(StoreBackups { store: store.clone(), state: state.to_owned() });
        let api = Api::new(store.clone(), nodes.clone(), config(flags, executor.clone()));
        let api = Arc::new(api.with_backups(backups));
        seed::seed(&api, address.port()).await?;
        seed::publish(&api, &own_addresses(flags, address), address.port()).await?;
        nodes.publish(&join_addresses(flags, address)).await?;
        let offer = Offer { api: Arc::new(tls::api_config(&pki)?), door: Some(nodes.clone()) };
        let _rooms = rooms(flags, &executor, &api, &nodes, store, platforms);
        let _listener = executor.spawn(http::serve(api, listener, offer, Times::default(), executor.clone()));
        let _renewal = executor.spawn(renew(pki.clone()));
        write_kubeconfig(flags, state, &pki, address)?;
        log(format_args!("serving the API on {address}"));
        signals.next().await;
        log(format_args!("stopping"));
        nodes.close().await;
        Ok(())
    }))
}

/// Starts what runs beside the listener; dropping the tasks ends it.
fn rooms(
    flags: &Flags,
    executor: &Executor<'static>,
    api: &Arc<Api>,
    nodes: &Arc<Nodes>,
    store: Arc<Embedded>,
    platforms: Arc<RegistryPlatforms>,
) -> Vec<Task<()>> {
    let clock = Arc::new(SystemClock::start());
    let seconds = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1000);
    let mut resources: Vec<(&'static str, bool)> =
        kinds::stored().map(|kind| (kind.storage.resource, kind.namespaced)).collect();
    resources.sort_unstable();
    resources.dedup();
    let controllers = Controllers {
        store: store.clone(),
        submit: api.clone(),
        clock: clock.clone(),
        contacts: nodes.contacts(),
        node_limits: NodeLimits { grace_millis: seconds(flags.node_grace), evict_millis: seconds(flags.evict_after) },
        resources,
    };
    let (changes, sessions) = (api.clone(), nodes.clone());
    vec![
        executor.spawn(async move { changes.run().await }),
        executor.spawn(async move { sessions.run().await }),
        executor.spawn(coracle_controllers::run(controllers)),
        executor.spawn(coracle_scheduler::run(store, api.clone(), platforms, clock)),
    ]
}

/// Renews the server's own certificates while there is time.
async fn renew(pki: Arc<Pki>) {
    loop {
        let (start, wall) = (Instant::now(), SystemTime::now());
        while start.elapsed() < RENEWAL {
            smol::Timer::after(CLOCK_LOOK).await;
            let expected = wall + start.elapsed();
            let now = SystemTime::now();
            let jump = now.duration_since(expected).unwrap_or_else(|back| back.duration());
            if jump > CLOCK_JUMP {
                break;
            }
        }
        let pki = pki.clone();
        if let Err(error) = smol::unblock(move || pki.renew(SystemTime::now())).await {
            log(format_args!("renewing certificates: {error}"));
        }
    }
}

fn network(flags: &Flags) -> ClusterNetwork {
    ClusterNetwork {
        cluster_cidr: flags.pod_cidr,
        service_cidr: flags.service_cidr,
        dns_ip: seed::dns_address(flags.service_cidr),
        domain: "cluster.local".into(),
    }
}

fn config(flags: &Flags, executor: Arc<Executor<'static>>) -> Config {
    Config {
        address: advertised(flags),
        service_cidr: flags.service_cidr,
        clock: Arc::new(wall),
        random: Arc::new(random),
        executor,
    }
}

/// The addresses under which pods reach this server.
fn own_addresses(flags: &Flags, address: SocketAddr) -> Vec<Ipv4Addr> {
    let mut addresses: Vec<Ipv4Addr> = flags.advertise.iter().filter_map(|a| a.parse().ok()).collect();
    if let (true, SocketAddr::V4(own)) = (addresses.is_empty(), address) {
        addresses.push(*own.ip());
    }
    // Nobody else can reach a server behind these.
    addresses.retain(|ip| !ip.is_unspecified() && !ip.is_loopback());
    addresses
}

/// `HOST:PORT` of every address under which machines join.
fn join_addresses(flags: &Flags, address: SocketAddr) -> Vec<String> {
    let own = match address.ip() {
        ip if ip.is_unspecified() => "127.0.0.1".to_owned(),
        ip => ip.to_string(),
    };
    let named = if flags.advertise.is_empty() { vec![own] } else { flags.advertise.clone() };
    named.iter().map(|host| format!("{host}:{}", address.port())).collect()
}

/// `HOST:PORT` under which clients find the server.
fn advertised(flags: &Flags) -> String {
    let host = flags.advertise.first().map_or("127.0.0.1", String::as_str);
    format!("{host}:{}", flags.listen.port())
}

fn write_kubeconfig(flags: &Flags, state: &Path, pki: &Pki, address: SocketAddr) -> Result<(), Fault> {
    let path = flags.kubeconfig.clone().unwrap_or_else(|| state.join("admin.kubeconfig"));
    // Always valid for the certificate, and right on this machine; elsewhere the address is edited.
    let host = match address.ip() {
        ip if ip.is_unspecified() => "127.0.0.1".to_owned(),
        ip => ip.to_string(),
    };
    pki.write_admin_kubeconfig(&path, &format!("https://{host}:{}", address.port()))?;
    log(format_args!("the administrator's kubeconfig is {}", path.display()));
    Ok(())
}
