//! Operating system, architecture and variant, by the names of OCI (Go's GOOS and GOARCH).

use std::fmt;

/// What an image is built for, or what a node can run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, `arm`, …
    pub architecture: String,
    /// `v7` and the like; empty where there is none.
    pub variant: String,
}

impl Platform {
    pub fn new(os: &str, architecture: &str, variant: &str) -> Platform {
        Platform { os: os.into(), architecture: architecture.into(), variant: variant.into() }
    }

    /// The platform that this program was built for.
    pub fn host() -> Platform {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", ""),
            "x86" => ("386", ""),
            "aarch64" => ("arm64", "v8"),
            "arm" => ("arm", "v7"),
            "powerpc64" => ("ppc64le", ""),
            other => (other, ""),
        };
        Platform::new("linux", architecture, variant)
    }

    /// How well an image of platform `image` suits this node: `None` is not at all, and a lower
    /// number is better. On arm, v8 runs v7 runs v6 runs v5; an `arm64` node takes `arm64` only,
    /// because not every 64-bit board can run 32-bit programs.
    pub fn rank(&self, image: &Platform) -> Option<u32> {
        if self.os != image.os || self.architecture != image.architecture {
            return None;
        }
        let mine = level(&self.architecture, &self.variant)?;
        let theirs = level(&image.architecture, &image.variant)?;
        mine.checked_sub(theirs)
    }
}

/// The variant as a number, higher being able to run lower ones. An image without a variant is of
/// the architecture's usual one (containerd's normalisation).
fn level(architecture: &str, variant: &str) -> Option<u32> {
    let usual = match architecture {
        "arm" => 7,
        "arm64" => 8,
        "amd64" => 1,
        _ => 0,
    };
    match variant {
        "" => Some(usual),
        text => text.strip_prefix('v').unwrap_or(text).split('.').next()?.parse().ok(),
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(node: (&str, &str), image: (&str, &str), expect: Option<u32>) {
        let node = Platform::new("linux", node.0, node.1);
        let image = Platform::new("linux", image.0, image.1);
        assert_eq!(node.rank(&image), expect, "{node} runs {image}");
    }

    #[test]
    fn variants_fall_back_downwards() {
        check(("amd64", ""), ("amd64", ""), Some(0));
        check(("amd64", ""), ("amd64", "v3"), None);
        check(("amd64", ""), ("arm64", ""), None);
        check(("arm64", "v8"), ("arm64", ""), Some(0));
        check(("arm64", ""), ("arm64", "v8"), Some(0));
        check(("arm64", "v8"), ("arm64", "v9"), None);
        check(("arm64", "v8.2"), ("arm64", "v8"), Some(0));
        check(("arm", "v7"), ("arm", "v7"), Some(0));
        check(("arm", "v7"), ("arm", ""), Some(0));
        check(("arm", "v7"), ("arm", "v6"), Some(1));
        check(("arm", "v8"), ("arm", "v6"), Some(2));
        check(("arm", "v6"), ("arm", "v7"), None);
        check(("arm", "v6"), ("arm", ""), None);
        check(("arm", "v7"), ("arm", "soft"), None);
        assert_eq!(Platform::new("linux", "amd64", "").rank(&Platform::new("windows", "amd64", "")), None);
    }
}
