//! Watches: each change is read from the store once, encoded once a version, and shared by all
//! who watch.

mod change;
mod feed;
mod hub;

pub use change::Change;
pub use feed::{Feed, Start};
pub use hub::Hub;
