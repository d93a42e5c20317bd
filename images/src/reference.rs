//! Image names, normalised as Docker does it: `nginx` is `docker.io/library/nginx:latest`.

use std::fmt;
use std::str::FromStr;

use crate::digest::Sha256;

/// The longest `domain/path` that registries accept (distribution's reference grammar).
const MAX_NAME: usize = 255;
/// The longest tag (the same grammar).
const MAX_TAG: usize = 128;

/// A complete image name. The grammar is that of `distribution/reference`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Sha256>,
}

/// Why a text is not an image name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferenceError {
    text: String,
    reason: &'static str,
}

impl fmt::Display for ReferenceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid image name {:?}: {}", self.text, self.reason)
    }
}

impl std::error::Error for ReferenceError {}

impl Reference {
    /// Host and port of the registry as a person names it: `docker.io`, `localhost:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path below the registry: `library/nginx`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// `latest` when neither a tag nor a digest was written.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest that the name pins, which wins over a tag beside it.
    pub fn digest(&self) -> Option<Sha256> {
        self.digest
    }

    /// What stands in `/v2/REPOSITORY/manifests/…`: the digest, else the tag.
    pub fn manifest_key(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.clone().unwrap_or_else(|| "latest".into()),
        }
    }

    /// `REGISTRY/REPOSITORY@DIGEST`: what a pod's `imageID` says.
    pub fn pinned(&self, digest: &Sha256) -> String {
        format!("{}/{}@{digest}", self.registry, self.repository)
    }

    /// Whether Kubernetes' default pull policy is `Always`: the tag is `latest` and nothing is pinned.
    pub fn is_latest(&self) -> bool {
        self.digest.is_none() && self.tag.as_deref() == Some("latest")
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Reference, ReferenceError> {
        parse(text).map_err(|reason| ReferenceError { text: text.chars().take(MAX_NAME).collect(), reason })
    }
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => {
            (rest, Some(digest.parse().map_err(|_| "the digest must be sha256:<64 lower-case hex digits>")?))
        }
        None => (text, None),
    };
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    let (registry, path) = split_domain(name);
    check_domain(registry)?;
    let repository = match (registry, path.contains('/')) {
        ("docker.io", false) => format!("library/{path}"),
        _ => path.to_owned(),
    };
    check_path(&repository)?;
    if registry.len() + 1 + repository.len() > MAX_NAME {
        return Err("longer than 255 characters");
    }
    let tag = match (tag, &digest) {
        (Some(tag), _) => Some(tag.to_owned()),
        (None, Some(_)) => None,
        (None, None) => Some("latest".to_owned()),
    };
    Ok(Reference { registry: registry.to_owned(), repository, tag, digest })
}

/// Docker's rule: the first component is a registry when it can be no part of a Hub name.
fn split_domain(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.contains(|c: char| c.is_ascii_uppercase()) =>
        {
            match first {
                "index.docker.io" | "registry-1.docker.io" => ("docker.io", rest),
                _ => (first, rest),
            }
        }
        _ => ("docker.io", name),
    }
}

fn check_domain(domain: &str) -> Result<(), &'static str> {
    const BAD: &str = "the registry must be a host name or address, with an optional port";
    let (host, port) = match domain.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']').ok_or(BAD)?;
            address.parse::<std::net::Ipv6Addr>().map_err(|_| BAD)?;
            ("v6", after.strip_prefix(':').or(if after.is_empty() { None } else { Some("bad") }))
        }
        None => match domain.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (domain, None),
        },
    };
    let label = |l: &str| {
        !l.is_empty()
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let port_ok =
        port.is_none_or(|p| p.bytes().all(|b| b.is_ascii_digit()) && p.parse::<u16>().is_ok_and(|port| port > 0));
    if host.split('.').all(label) && port_ok { Ok(()) } else { Err(BAD) }
}

fn check_path(path: &str) -> Result<(), &'static str> {
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("the repository name must be lower case");
    }
    if path.split('/').all(is_component) {
        Ok(())
    } else {
        Err("each part of the repository name is letters and digits, joined by single '.', '_', '__' or dashes")
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(part: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends_in_word = |b: Option<&u8>| b.copied().is_some_and(word);
    ends_in_word(part.as_bytes().first())
        && ends_in_word(part.as_bytes().last())
        && part
            .as_bytes()
            .split(|b| word(*b))
            .all(|between| matches!(between, b"" | b"." | b"_" | b"__") || between.iter().all(|b| *b == b'-'))
}

fn check_tag(tag: &str) -> Result<(), &'static str> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let first = tag.as_bytes().first().copied().is_some_and(word);
    if first && tag.len() <= MAX_TAG && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-') {
        Ok(())
    } else {
        Err("the tag is at most 128 letters, digits, '_', '.' and '-', and does not begin with '.' or '-'")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: &str) {
        let got = match text.parse::<Reference>() {
            Ok(reference) => reference.to_string(),
            Err(_) => "error".to_owned(),
        };
        assert_eq!(got, expect, "{text}");
    }

    #[test]
    fn normalises_like_docker() {
        let d = format!("sha256:{}", "ab".repeat(32));
        check("nginx", "docker.io/library/nginx:latest");
        check("nginx:1.27", "docker.io/library/nginx:1.27");
        check("user/app", "docker.io/user/app:latest");
        check("docker.io/nginx", "docker.io/library/nginx:latest");
        check("index.docker.io/library/nginx", "docker.io/library/nginx:latest");
        check("localhost/a", "localhost/a:latest");
        check("localhost:5000/a:b", "localhost:5000/a:b");
        check("10.0.0.1:5000/team/a", "10.0.0.1:5000/team/a:latest");
        check("[::1]:5000/a", "[::1]:5000/a:latest");
        check("ghcr.io/o/r/p:v1.2-3_4", "ghcr.io/o/r/p:v1.2-3_4");
        check(&format!("nginx@{d}"), &format!("docker.io/library/nginx@{d}"));
        check(&format!("nginx:1@{d}"), &format!("docker.io/library/nginx:1@{d}"));
        check("a__b/c-d--e.f_g", "docker.io/a__b/c-d--e.f_g:latest");
        check("Registry/app", "Registry/app:latest");
    }

    #[test]
    fn refuses_what_is_no_name() {
        let long = "a".repeat(256);
        for bad in [
            "",
            "Nginx",
            "a//b",
            "/a",
            "a/",
            "a:",
            "a:-x",
            "a..b",
            "a___b",
            "-a",
            "a-",
            "a b",
            "a@sha256:12",
            "a@b:c",
            ":t",
            "h.x:99999/a",
            "h.x:/a",
            "h.x:0/a",
            "-h.x/a",
            "a\u{e9}",
            "../etc",
            "http://a/b",
            "[::1/a",
            "[::1]x/a",
            &long,
        ] {
            check(bad, "error");
        }
        check(&format!("a:{}", "t".repeat(129)), "error");
    }

    #[test]
    fn the_digest_is_what_is_asked_for() {
        let d = format!("sha256:{}", "ab".repeat(32));
        let both: Reference = format!("nginx:1@{d}").parse().unwrap();
        assert_eq!(both.manifest_key(), d);
        assert!(!both.is_latest());
        let plain: Reference = "nginx".parse().unwrap();
        assert_eq!(plain.manifest_key(), "latest");
        assert!(plain.is_latest());
        assert_eq!(plain.pinned(&d.parse().unwrap()), format!("docker.io/library/nginx@{d}"));
    }
}
