//! The API as clients see it, over real TLS connections: what unit tests of its parts can not show.

mod apply;
mod hostile;
mod kinds;
mod rbac;
mod streams;
mod world;
