//! The command line of coracle-server.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use argh::FromArgs;
use coracle_shared::desired::Cidr;

/// Serves the Kubernetes API, runs the controllers and the scheduler, and holds the sessions of the nodes.
#[derive(FromArgs, Clone, Debug)]
#[argh(help_triggers("-h", "--help"))]
pub struct Flags {
    /// directory of everything the server keeps: the store, its keys and certificates
    #[argh(option)]
    pub state: Option<PathBuf>,

    /// address and port for the API (TCP) and the nodes (UDP); default 0.0.0.0:6443
    #[argh(option, default = "SocketAddr::from(([0, 0, 0, 0], 6443))")]
    pub listen: SocketAddr,

    /// an address or name under which nodes and clients reach this server, for its certificate and
    /// for join lines; may be given several times
    #[argh(option)]
    pub advertise: Vec<String>,

    /// addresses of pods, a /24 of it for each node; default 10.42.0.0/16
    #[argh(option, default = "cidr_of([10, 42, 0, 0])", from_str_fn(parse_cidr))]
    pub pod_cidr: Cidr,

    /// addresses of Services; default 10.43.0.0/16
    #[argh(option, default = "cidr_of([10, 43, 0, 0])", from_str_fn(parse_cidr))]
    pub service_cidr: Cidr,

    /// seconds of silence after which a node is not ready; default 60
    #[argh(option, default = "60")]
    pub node_grace: u64,

    /// seconds after which the pods of a node that is not ready are replaced; default 300
    #[argh(option, default = "300")]
    pub evict_after: u64,

    /// where the administrator's kubeconfig is written; default STATE/admin.kubeconfig
    #[argh(option)]
    pub kubeconfig: Option<PathBuf>,

    /// a registries.json as agents have, for asking which architectures an image is made for
    #[argh(option)]
    pub registries: Option<PathBuf>,

    /// fail at a point, each time or at the Nth passage: POINT[:N], several times. Points:
    /// append-crash, store-sync, checkpoint-crash
    #[cfg(feature = "faults")]
    #[argh(option)]
    pub fault: Vec<String>,

    /// put this backup into the empty --state, with --key, and end (what `coracle restore` does)
    #[argh(option)]
    pub restore: Option<PathBuf>,

    /// the secret.key of the day of the backup
    #[argh(option)]
    pub key: Option<PathBuf>,

    /// encrypt everything in --state with a new secret.key, and end (what `coracle rotate-key` does)
    #[argh(switch)]
    pub rotate_key: bool,

    /// for the server's own use: read the checkpoint in this directory to standard output
    #[argh(option, hidden_help)]
    pub read_checkpoint: Option<PathBuf>,

    /// print the version and features of this program
    #[argh(switch)]
    pub version: bool,
}

fn cidr_of(address: [u8; 4]) -> Cidr {
    Cidr { address: address.into(), prefix: 16 }
}

/// The longest prefix that leaves room for more than the kept addresses.
const MAX_PREFIX: u8 = 24;
/// The shortest: larger networks than a /8 are a mistake.
const MIN_PREFIX: u8 = 8;

fn parse_cidr(text: &str) -> Result<Cidr, String> {
    let parsed = text
        .split_once('/')
        .and_then(|(address, prefix)| Some((address.parse::<Ipv4Addr>().ok()?, prefix.parse::<u8>().ok()?)));
    let Some((address, prefix)) = parsed else {
        return Err(format!("{text:?} is not an IPv4 network like 10.42.0.0/16"));
    };
    if !(MIN_PREFIX..=MAX_PREFIX).contains(&prefix) {
        return Err(format!("{text}: the prefix has to be from /{MIN_PREFIX} to /{MAX_PREFIX}"));
    }
    let mask = u32::MAX << (32 - u32::from(prefix));
    let network = Ipv4Addr::from(u32::from(address) & mask);
    if network != address {
        return Err(format!("{text}: the network's address is {network}"));
    }
    Ok(Cidr { address, prefix })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_and_nonsense_is_named() {
        assert_eq!(parse_cidr("10.128.0.0/11"), Ok(Cidr { address: [10, 128, 0, 0].into(), prefix: 11 }));
        for (text, words) in
            [("10.42.0.0", "not an IPv4"), ("10.42.0.1/16", "address is 10.42.0.0"), ("0.0.0.0/0", "/8")]
        {
            assert!(parse_cidr(text).expect_err(text).contains(words), "{text}");
        }
    }

    #[test]
    fn defaults_are_those_of_the_documentation() {
        let flags = Flags::from_args(&["coracle-server"], &["--state", "s", "--advertise", "a", "--advertise", "b"]);
        let flags = flags.expect("flags");
        assert_eq!(flags.listen.port(), 6443);
        assert_eq!((flags.node_grace, flags.evict_after), (60, 300));
        assert_eq!(flags.advertise, ["a", "b"]);
    }

    #[cfg(feature = "faults")]
    #[test]
    fn the_help_names_every_fault_point() {
        let help = Flags::from_args(&["coracle-server"], &["--help"]).expect_err("help").output;
        for point in coracle_server::fault::POINTS {
            assert!(help.contains(point.name), "{} is not in {help}", point.name);
        }
    }
}
