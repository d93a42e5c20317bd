//! `coracle`: the daily work without kubectl.
//!
//! Exit codes: 0 done, 1 the server or the node said no, 2 the command line is wrong,
//! 3 no server (or agent) can be reached.

mod apply;
mod backup;
mod client;
mod config;
mod discovery;
mod error;
mod get;
mod logs;
mod manifest;
mod node;
mod output;
mod revoke;
mod status;
mod token;

use std::process::ExitCode;

use argh::FromArgs;

use client::Client;
use error::Error;

/// Coracle's minimal command line.
#[derive(FromArgs)]
struct Arguments {
    /// kubeconfig to use (default: $KUBECONFIG, then ~/.kube/config)
    #[argh(option)]
    kubeconfig: Option<String>,
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Command {
    Get(get::Get),
    Apply(apply::Apply),
    Delete(get::Delete),
    Logs(logs::Logs),
    Status(status::Status),
    Ps(node::Ps),
    Token(token::Token),
    Backup(backup::Backup),
    Restore(backup::Restore),
    RotateKey(backup::RotateKey),
    Node(revoke::Node),
    Kubeconfig(Kubeconfig),
    Version(Version),
}

/// Print the kubeconfig in use, with its certificates inside: what another machine needs.
#[derive(FromArgs)]
#[argh(subcommand, name = "kubeconfig")]
struct Kubeconfig {
    /// address of the server to write into it, e.g. https://192.168.1.10:6443
    #[argh(option)]
    server: Option<String>,
}

/// Print the versions of this program and of the server.
#[derive(FromArgs)]
#[argh(subcommand, name = "version")]
struct Version {
    /// only this program's
    #[argh(switch)]
    client: bool,
    /// output format: json or yaml
    #[argh(option, short = 'o')]
    output: Option<String>,
}

fn main() -> ExitCode {
    // As the other programs; the command `version` asks the server too.
    if std::env::args().skip(1).eq(["--version"]) {
        println!("coracle {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    let arguments: Arguments = argh::from_env();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            error.exit_code()
        }
    }
}

fn run(arguments: Arguments) -> Result<(), Error> {
    let kubeconfig = arguments.kubeconfig;
    let connect = || config::load(kubeconfig.as_deref()).and_then(Client::new);
    match arguments.command {
        Command::Get(get) => get.run(&connect()?),
        Command::Apply(apply) => apply.run(&connect()?),
        Command::Delete(delete) => delete.run(&connect()?),
        Command::Logs(logs) => logs.run(&connect()?),
        Command::Status(status) => status.run(&connect()?),
        Command::Ps(ps) => ps.run(),
        Command::Backup(backup) => backup.run(&connect()?),
        Command::Restore(restore) => restore.run(),
        Command::RotateKey(rotate) => rotate.run(),
        Command::Token(token) => token.run(&connect()?),
        Command::Node(node) => node.run(&connect()?),
        Command::Kubeconfig(Kubeconfig { server }) => {
            output::print(&config::flattened(config::load(kubeconfig.as_deref())?, server))
        }
        Command::Version(version) => version.run(connect),
    }
}

impl Version {
    fn run(self, connect: impl Fn() -> Result<Client, Error>) -> Result<(), Error> {
        let mut versions =
            serde_json::json!({ "clientVersion": { "gitVersion": concat!("v", env!("CARGO_PKG_VERSION")) } });
        if !self.client {
            versions["serverVersion"] = connect()?.get("/version")?;
        }
        match output::Format::parse(self.output.as_deref())? {
            output::Format::Json => output::print(&output::json(&versions)),
            output::Format::Yaml => output::print(&output::yaml(&versions)?),
            _ => {
                output::print(&format!(
                    "Client Version: {}\n",
                    versions["clientVersion"]["gitVersion"].as_str().unwrap_or("")
                ))?;
                match versions["serverVersion"]["gitVersion"].as_str() {
                    Some(server) => output::print(&format!("Server Version: {server}\n")),
                    None => Ok(()),
                }
            }
        }
    }
}
