//! Container images on a node: from a name to directories that overlayfs can stack.
//!
//! [`Images`] owns one directory on disk. [`Images::ensure`] turns a [`Reference`] into an [`Image`]:
//! resolve the name at its registry, choose the manifest of this platform, download the layers (each
//! checked against its digest while it streams, resumed where it stopped), unpack them in small
//! confined child processes, sync once, and only then give the image its name on disk.
//!
//! Everything here blocks: callers on an executor use its pool of blocking threads.
//!
//! Specifications followed: OCI Image 1.1, OCI Distribution 1.1, Docker Registry v2 with its token
//! authentication, POSIX pax and GNU tar.

pub mod credential;
pub mod digest;
mod download;
mod error;
mod gc;
mod image;
mod images;
pub mod manifest;
mod platform;
mod pull;
mod reference;
mod registry;
mod store;
mod tls;
mod turns;
pub mod unpack;

pub use credential::Credential;
pub use digest::Sha256;
pub use error::ImageError;
pub use gc::{Collected, Pressure};
pub use image::{Event, Image, ImageConfig, Policy, Progress};
pub use images::{Config, Images, Unpacker};
pub use platform::Platform;
pub use reference::{Reference, ReferenceError};
pub use registry::settings;
