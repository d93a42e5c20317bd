//! coracle-server: opens the store and the certificates, wires the rooms together, and ends cleanly.

use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use async_net::TcpListener;
use async_signal::{Signal, Signals};
use coracle_server::api::stream::NoNodes;
use coracle_server::api::{Api, Config, http, seed};
use coracle_server::flags::Flags;
use coracle_server::pki::{self, Pki};
use coracle_server::tls;
use coracle_store::embedded::{Embedded, Options};
use futures_lite::StreamExt as _;
use smol::Executor;

/// Threads that run tasks beside the main one: TLS and JSON of many clients use both cores of a
/// small machine, and more would only cost memory.
const EXTRA_THREADS: usize = 1;

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
    match run(&flags) {
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
    let store = Arc::new(Embedded::open(&state.join("store"), Options::default())?);
    let result = serve(flags, state, store.clone());
    store.close();
    result
}

fn serve(flags: &Flags, state: &Path, store: Arc<Embedded>) -> Result<(), Fault> {
    let pki = Arc::new(Pki::open(state, &flags.advertise, SystemTime::now())?);
    let tls = Arc::new(tls::api_config(&pki)?);
    let executor = Arc::new(Executor::new());
    let config = Config {
        address: advertised(flags),
        service_cidr: flags.service_cidr,
        clock: Arc::new(wall),
        random: Arc::new(random),
        executor: executor.clone(),
    };
    let api = Arc::new(Api::new(store, Arc::new(NoNodes), config));
    for _ in 0..EXTRA_THREADS {
        let executor = executor.clone();
        let run = move || smol::block_on(executor.run(smol::future::pending::<()>()));
        std::thread::Builder::new().name("tasks".into()).spawn(run)?;
    }
    smol::block_on(executor.clone().run(async {
        let mut signals = Signals::new([Signal::Term, Signal::Int])?;
        let listener =
            TcpListener::bind(flags.listen).await.map_err(|e| format!("listening on {}: {e}", flags.listen))?;
        let address = listener.local_addr()?;
        seed::seed(&api, address.port()).await?;
        write_kubeconfig(flags, state, &pki, address)?;
        let changes = api.clone();
        let _changes = executor.spawn(async move { changes.run().await });
        let _listener = executor.spawn(http::serve(api, listener, tls, executor.clone()));
        log(format_args!("serving the API on {address}"));
        signals.next().await;
        log(format_args!("stopping"));
        Ok(())
    }))
}

/// `HOST:PORT` under which clients find the server.
fn advertised(flags: &Flags) -> String {
    let host = flags.advertise.first().map_or("127.0.0.1", String::as_str);
    match host.contains(':') {
        true => host.to_owned(),
        false => format!("{host}:{}", flags.listen.port()),
    }
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
