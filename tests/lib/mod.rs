//! What the system tests share: a handle on the cluster that `scripts/test.sh` started, and
//! servers and disks of a test's own.

mod cluster;
mod http;
mod own_server;

pub use cluster::{Cluster, Namespace, Output, run_words, until};
pub use http::get;
pub use own_server::{Disk, OwnServer};
