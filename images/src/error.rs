//! What can go wrong between an image's name and its directories.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::digest::Sha256;
use crate::platform::Platform;
use crate::reference::ReferenceError;

/// Every message names the image, registry, URL, digest or file that it is about.
#[derive(Debug)]
pub enum ImageError {
    /// The name is no image name.
    Reference(ReferenceError),
    /// Pull policy `Never`, and the image is not on this node.
    Absent { reference: String },
    /// The registry could not be reached, or the connection broke and retries did not help.
    Transport { url: String, source: Box<dyn std::error::Error + Send + Sync> },
    /// The registry answered with an error: HTTP status and its own words.
    Status { url: String, status: u16, message: String },
    /// 401 or 403, after using the credentials there were.
    Unauthorized { url: String, status: u16, message: String, credential: Option<String> },
    /// The registry has no such repository, tag or blob.
    NotFound { what: String, url: String },
    /// The registry said something that the specification does not allow.
    Protocol { url: String, problem: String },
    /// A manifest, index or configuration that cannot be used.
    Manifest { what: String, problem: String },
    /// The image has no manifest for this node.
    Platform { reference: String, wanted: Platform, offered: Vec<Platform> },
    /// The bytes that arrived are not the ones that were named.
    DigestMismatch { what: String, expected: Sha256, actual: Sha256 },
    /// A layer that must not or cannot be unpacked.
    Layer { digest: Sha256, problem: String },
    /// The disk has, or would have, less than the reserve.
    Space { path: PathBuf, free: u64, reserve: u64 },
    /// `registries.json` or a docker configuration that cannot be read.
    Configuration { what: String, problem: String },
    /// A file operation failed.
    Io { action: &'static str, path: PathBuf, source: io::Error },
    /// The caller's progress function asked to stop.
    Cancelled,
}

impl ImageError {
    /// The reason of a waiting container, as Kubernetes users know it.
    pub fn reason(&self) -> &'static str {
        match self {
            ImageError::Reference(_) => "InvalidImageName",
            ImageError::Absent { .. } => "ErrImageNeverPull",
            _ => "ErrImagePull",
        }
    }

    /// Whether the same call may succeed later without anybody mending anything.
    pub fn may_pass(&self) -> bool {
        match self {
            ImageError::Transport { .. } | ImageError::Space { .. } | ImageError::Io { .. } | ImageError::Cancelled => {
                true
            }
            ImageError::Status { status, .. } => *status == 429 || *status >= 500,
            _ => false,
        }
    }

    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> ImageError {
        let path = path.into();
        move |source| ImageError::Io { action, path, source }
    }
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImageError::Reference(error) => error.fmt(f),
            ImageError::Absent { reference } => {
                write!(f, "image {reference} is not on this node, and its pull policy is Never")
            }
            ImageError::Transport { url, source } => write!(f, "{url}: {source}"),
            ImageError::Status { url, status, message } => write!(f, "{url} answered {status}: {message}"),
            ImageError::Unauthorized { url, status, message, credential } => {
                let used = credential.as_deref().map_or_else(
                    || "no credential is given for this registry".to_owned(),
                    |user| format!("as user {user:?}"),
                );
                write!(f, "{url} refused access ({status}, {used}): {message}")
            }
            ImageError::NotFound { what, url } => write!(f, "{what} not found at {url}"),
            ImageError::Protocol { url, problem } => write!(f, "{url}: {problem}"),
            ImageError::Manifest { what, problem } => write!(f, "{what}: {problem}"),
            ImageError::Platform { reference, wanted, offered } => {
                let offered: Vec<String> = offered.iter().map(Platform::to_string).collect();
                write!(f, "image {reference} is not built for {wanted}, only for {}", offered.join(", "))
            }
            ImageError::DigestMismatch { what, expected, actual } => {
                write!(f, "{what}: digest mismatch: expected {expected}, got {actual}")
            }
            ImageError::Layer { digest, problem } => write!(f, "layer {digest} refused: {problem}"),
            ImageError::Space { path, free, reserve } => {
                write!(f, "not enough space on {}: {free} bytes free, {reserve} are kept in reserve", path.display())
            }
            ImageError::Configuration { what, problem } => write!(f, "{what}: {problem}"),
            ImageError::Io { action, path, source } => write!(f, "{action} {}: {source}", path.display()),
            ImageError::Cancelled => write!(f, "the pull was cancelled"),
        }
    }
}

impl std::error::Error for ImageError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ImageError::Reference(error) => Some(error),
            ImageError::Transport { source, .. } => Some(source.as_ref()),
            ImageError::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl From<ReferenceError> for ImageError {
    fn from(error: ReferenceError) -> ImageError {
        ImageError::Reference(error)
    }
}
