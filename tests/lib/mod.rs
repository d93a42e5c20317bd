//! What the system tests share: a handle on the cluster that `scripts/test.sh` started.

mod cluster;
mod http;

pub use cluster::{Cluster, Namespace, Output, run_words, until};
pub use http::get;
