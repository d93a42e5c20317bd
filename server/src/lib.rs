//! coracle-server: the Kubernetes API, controllers, scheduler and node sessions in one small program.

pub mod api;
pub mod bridge;
pub mod fault;
pub mod kinds;
pub mod nodes;
pub mod pki;
pub mod tls;
