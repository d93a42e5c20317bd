//! What can go wrong with the node's network.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use coracle_shared::desired::Cidr;
use coracle_shared::ids::PodUid;

use super::netlink::NetlinkError;

#[derive(Debug)]
#[non_exhaustive]
pub enum NetworkError {
    /// [`Network::configure`](super::Network::configure) has not yet been called with success.
    NotConfigured,
    /// The server has not given this node a network for its pods.
    NoPodCidr,
    /// The network given to this node cannot be one.
    BadPodCidr(Cidr),
    /// Every address of the node's network is in use.
    AddressesUsedUp(Cidr),
    /// A UID that cannot be a file name.
    BadUid(PodUid),
    /// No interface leads out of this node: no default route and none with an address.
    NoUplink,
    /// The kernel refused a change of links, addresses or routes.
    Link {
        what: String,
        source: NetlinkError,
    },
    /// The kernel refused a change of the packet filter table.
    Filter {
        what: String,
        source: NetlinkError,
    },
    Io {
        what: String,
        source: io::Error,
    },
    /// Several things failed; what could be done was done.
    Many(Vec<NetworkError>),
}

impl fmt::Display for NetworkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cidr = |c: &Cidr| format!("{}/{}", c.address, c.prefix);
        match self {
            Self::NotConfigured => f.write_str("the node's network is not configured yet"),
            Self::NoPodCidr => {
                f.write_str("this node has no network for pods: the cluster's --pod-cidr may be used up")
            }
            Self::BadPodCidr(c) => write!(f, "{} cannot be a node's pod network", cidr(c)),
            Self::AddressesUsedUp(c) => write!(f, "all pod addresses of {} are in use", cidr(c)),
            Self::BadUid(uid) => write!(f, "{:?} is not a pod UID", uid.0),
            Self::NoUplink => f.write_str("no interface leads out of this node: give it an address or a default route"),
            Self::Link { what, source } | Self::Filter { what, source } => write!(f, "{what}: {source}"),
            Self::Io { what, source } => write!(f, "{what}: {source}"),
            Self::Many(errors) => {
                for (i, e) in errors.iter().enumerate() {
                    write!(f, "{}{e}", if i == 0 { "" } else { "; " })?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for NetworkError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Link { source, .. } | Self::Filter { source, .. } => Some(source),
            Self::Io { source, .. } => Some(source),
            Self::Many(errors) => errors.first().map(|e| e as _),
            _ => None,
        }
    }
}

impl From<io::Error> for NetworkError {
    fn from(source: io::Error) -> Self {
        NetworkError::Io { what: "network namespace".into(), source }
    }
}

impl NetworkError {
    pub(crate) fn link(what: impl Into<String>) -> impl FnOnce(NetlinkError) -> Self {
        let what = what.into();
        move |source| NetworkError::Link { what, source }
    }

    pub(crate) fn path(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let what = PathBuf::from(path).display().to_string();
        move |source| NetworkError::Io { what, source }
    }

    /// All results as one: each error is reported.
    pub(crate) fn collect(results: impl IntoIterator<Item = Result<(), NetworkError>>) -> Result<(), NetworkError> {
        let mut errors: Vec<_> = results.into_iter().filter_map(Result::err).collect();
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(NetworkError::Many(errors)),
        }
    }
}
