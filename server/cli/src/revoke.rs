//! `coracle node`: what is done to a machine, not to its pods.

use argh::FromArgs;
use serde_json::json;

use crate::client::Client;
use crate::error::Error;
use crate::output;

/// Act on a node as a machine.
#[derive(FromArgs)]
#[argh(subcommand, name = "node")]
pub struct Node {
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Command {
    Revoke(Revoke),
}

/// Shut a stolen or lost node out at once and for good.
///
/// Its session ends and its key is refused for ever, by the API too. It gets no new pods; those that
/// ran there are replaced as on any node that is silent, or at once after `kubectl delete node NAME`.
/// What it held is still on it: change the Secrets that its pods used. The machine can come back only
/// with a new key: stop its agent, remove the directory `identity` of its state, and start it with
/// --join and a new line from `coracle token create`.
#[derive(FromArgs)]
#[argh(subcommand, name = "revoke")]
struct Revoke {
    /// the node's name
    #[argh(positional)]
    name: String,
}

impl Node {
    pub fn run(self, client: &Client) -> Result<(), Error> {
        let Command::Revoke(Revoke { name }) = self.command;
        if name.is_empty() || name.contains(['/', '?', '#', '%']) {
            return Err(Error::Usage(format!("{name:?} is not the name of a node")));
        }
        let answer = client.post(&format!("/api/v1/nodes/{name}/revoke"), &json!({}))?;
        output::print(&format!("{}\n", answer["message"].as_str().unwrap_or("revoked")))
    }
}
