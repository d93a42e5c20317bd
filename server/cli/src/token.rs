//! `coracle token`: lets machines join.

use std::time::Duration;

use argh::FromArgs;
use coracle_shared::join::{DEFAULT_PORT, JoinLine, Token as BootstrapToken, is_server, with_port};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::json;

use crate::client::{Client, certificates};
use crate::error::Error;
use crate::output;

/// Let machines join the cluster.
#[derive(FromArgs)]
#[argh(subcommand, name = "token")]
pub struct Token {
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Command {
    Create(Create),
}

/// Print one line for `coracle-agent --join`: where the servers are, a token, and the CA's fingerprint.
#[derive(FromArgs)]
#[argh(subcommand, name = "create")]
struct Create {
    /// how long the token lets machines in, e.g. 30m, 24h, 7d (default 24h)
    #[argh(option, default = "String::from(\"24h\")")]
    ttl: String,
    /// how many machines may join with it (default 1)
    #[argh(option, default = "1")]
    uses: u32,
    /// address of a server as the machine sees it (repeatable; default: what the server advertises)
    #[argh(option)]
    server: Vec<String>,
}

/// A token is a key to the cluster: not for longer than a month.
const MAX_TTL: Duration = Duration::from_secs(31 * 24 * 3600);
const MAX_USES: u32 = 10_000;

impl Token {
    pub fn run(self, client: &Client) -> Result<(), Error> {
        let Command::Create(create) = self.command;
        create.run(client)
    }
}

impl Create {
    fn run(self, client: &Client) -> Result<(), Error> {
        let ttl = duration(&self.ttl)?;
        if self.uses == 0 || self.uses > MAX_USES {
            return Err(Error::Usage(format!("--uses {}: from 1 to {MAX_USES}", self.uses)));
        }
        let servers = self.servers(client)?;
        let ca = certificates(&client.config.ca)?;
        let fingerprint = digest(&SHA256, ca[0].der());
        let fingerprint: String = fingerprint.as_ref().iter().map(|b| format!("{b:02x}")).collect();
        let ca = fingerprint.parse().map_err(|_| Error::Usage("the CA's fingerprint has no form".into()))?;
        let mut entropy = [0; 22];
        SystemRandom::new()
            .fill(&mut entropy)
            .map_err(|_| Error::Unreachable("this machine gives no random numbers".into()))?;
        let token = BootstrapToken::from_entropy(entropy);
        let expires = jiff::Timestamp::now() + ttl;
        client.post(
            "/api/v1/namespaces/kube-system/secrets",
            &json!({
                "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
                "metadata": {"name": format!("bootstrap-token-{}", token.id), "namespace": "kube-system"},
                "stringData": {
                    "token-id": token.id, "token-secret": token.secret,
                    "expiration": expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
                    "usage-bootstrap-authentication": "true",
                    "coracle-uses": self.uses.to_string(),
                },
            }),
        )?;
        output::print(&format!("{}\n", JoinLine { servers, token, ca }))
    }

    /// As asked for, as the server advertises itself, or as the kubeconfig names it.
    fn servers(&self, client: &Client) -> Result<Vec<String>, Error> {
        let mut servers: Vec<String> = self.server.iter().map(|s| with_port(s, DEFAULT_PORT)).collect();
        if servers.is_empty() {
            let info = match client.get("/api/v1/namespaces/kube-system/configmaps/coracle-join") {
                Err(error) if error.is_not_found() => json!({}),
                other => other?,
            };
            let advertised = info["data"]["servers"].as_str().unwrap_or_default();
            servers = advertised.split(',').filter(|s| !s.is_empty()).map(str::to_owned).collect();
        }
        if servers.is_empty() {
            let own = client.config.server.trim_start_matches("https://").split('/').next().unwrap_or_default();
            servers.push(with_port(own, DEFAULT_PORT));
        }
        match servers.iter().find(|s| !is_server(s)) {
            Some(bad) => {
                Err(Error::Usage(format!("{bad:?} is not a server's address: give --server HOST or HOST:PORT")))
            }
            None => Ok(servers),
        }
    }
}

/// `90s`, `30m`, `24h`, `7d`.
fn duration(text: &str) -> Result<Duration, Error> {
    let wrong = || Error::Usage(format!("--ttl {text:?}: a number and one of s, m, h, d, at most 31d"));
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        Some('d') => 24 * 3600,
        _ => return Err(wrong()),
    };
    let count: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    let ttl = Duration::from_secs(count.checked_mul(unit).ok_or_else(wrong)?);
    if ttl.is_zero() || ttl > MAX_TTL { Err(wrong()) } else { Ok(ttl) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("24h").unwrap(), Duration::from_secs(86400));
        assert_eq!(duration("31d").unwrap(), MAX_TTL);
        for wrong in ["", "h", "32d", "0s", "5", "-1h", "1w", "99999999999999999999d", "18446744073709551615d"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
