//! Credentials for registries, out of the `.dockerconfigjson` of a pull secret.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::error::ImageError;

/// The most entries that one docker configuration may hold: a secret is at most 1 MiB anyway.
const MAX_ENTRIES: usize = 1000;

/// A user and password, and the registry (with an optional path) that they are for.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// `HOST[:PORT][/PATH]`, with `*` for any one label of the host (as the kubelet matches).
    scope: String,
    username: String,
    password: String,
}

impl fmt::Debug for Credential {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("scope", &self.scope)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
}

impl Credential {
    /// A credential for `scope`, which may be written as a URL as `docker login` does it.
    pub fn new(scope: &str, username: &str, password: &str) -> Credential {
        Credential { scope: normalise(scope), username: username.into(), password: password.into() }
    }

    /// All credentials of a `.dockerconfigjson` (`{"auths":{"HOST":{"auth":"BASE64"}}}`, or with
    /// `username` and `password`). Entries without a user are skipped, as Docker does.
    pub fn from_docker_config(json: &[u8]) -> Result<Vec<Credential>, ImageError> {
        let bad = |problem: String| ImageError::Configuration { what: ".dockerconfigjson".into(), problem };
        // The parser's own message could quote a password.
        let config: DockerConfig = serde_json::from_slice(json)
            .map_err(|e| bad(format!("not a docker configuration (line {}, column {})", e.line(), e.column())))?;
        // A derived reader takes a list for a structure.
        if json.trim_ascii_start().first() != Some(&b'{') {
            return Err(bad("not a docker configuration (no object)".into()));
        }
        if config.auths.len() > MAX_ENTRIES {
            return Err(bad(format!("more than {MAX_ENTRIES} registries")));
        }
        let mut credentials = Vec::with_capacity(config.auths.len());
        for (scope, entry) in config.auths {
            let (username, password) = match entry.auth.as_str() {
                "" => (entry.username, entry.password),
                auth => decode(auth).ok_or_else(|| bad(format!("auth of {scope} is not base64 of user:password")))?,
            };
            if !username.is_empty() {
                credentials.push(Credential { scope: normalise(&scope), username, password });
            }
        }
        Ok(credentials)
    }

    /// The credential for a repository: the one with the longest path, and of those the first.
    pub fn choose<'a>(credentials: &'a [Credential], registry: &str, repository: &str) -> Option<&'a Credential> {
        let rank = |c: &Credential| c.matches(registry, repository);
        let mut best: Option<(usize, &Credential)> = None;
        for credential in credentials {
            match (rank(credential), best) {
                (Some(length), Some((longest, _))) if length > longest => best = Some((length, credential)),
                (Some(length), None) => best = Some((length, credential)),
                _ => {}
            }
        }
        best.map(|(_, credential)| credential)
    }

    pub fn username(&self) -> &str {
        &self.username
    }

    /// The value of an `Authorization` header.
    pub(crate) fn basic(&self) -> String {
        format!("Basic {}", STANDARD.encode(format!("{}:{}", self.username, self.password)))
    }

    /// The length of the path that matched.
    fn matches(&self, registry: &str, repository: &str) -> Option<usize> {
        let (host, path) = self.scope.split_once('/').unwrap_or((&self.scope, ""));
        let path_fits = path.is_empty()
            || repository.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        (path_fits && host_fits(host, registry)).then_some(path.len())
    }
}

/// `https://index.docker.io/v1/` is what `docker login` writes for Docker Hub.
fn normalise(scope: &str) -> String {
    let bare = scope.strip_prefix("https://").or(scope.strip_prefix("http://")).unwrap_or(scope);
    let bare = bare.trim_end_matches('/');
    let bare = bare.strip_suffix("/v1").or(bare.strip_suffix("/v2")).unwrap_or(bare);
    match bare.split_once('/').unwrap_or((bare, "")) {
        ("index.docker.io" | "registry-1.docker.io", "") => "docker.io".into(),
        ("index.docker.io" | "registry-1.docker.io", path) => format!("docker.io/{path}"),
        _ => bare.to_owned(),
    }
}

/// Label by label; the port must be equal.
fn host_fits(pattern: &str, host: &str) -> bool {
    let same = |(p, h): (&str, &str)| p == "*" || p.eq_ignore_ascii_case(h);
    pattern.eq_ignore_ascii_case(host)
        || (pattern.contains('*')
            && pattern.split('.').count() == host.split('.').count()
            && pattern.split('.').zip(host.split('.')).all(same))
}

fn decode(auth: &str) -> Option<(String, String)> {
    let bytes = STANDARD.decode(auth.trim()).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.trim_end_matches('\0').to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, image: &str, expect: Option<&str>) {
        let credentials = Credential::from_docker_config(json.as_bytes()).unwrap();
        let image: crate::Reference = image.parse().unwrap();
        let chosen = Credential::choose(&credentials, image.registry(), image.repository());
        assert_eq!(chosen.map(|c| format!("{}:{}", c.username, c.password)).as_deref(), expect, "{image} {json}");
    }

    #[test]
    fn chooses_by_registry_and_path() {
        let up =
            |scope: &str, user: &str| format!(r#"{{"auths":{{"{scope}":{{"username":"{user}","password":"p:w"}}}}}}"#);
        check(r#"{"auths":{"r.io":{"auth":"dTpwOnc="}}}"#, "r.io/a", Some("u:p:w"));
        check(&up("https://index.docker.io/v1/", "u"), "nginx", Some("u:p:w"));
        check(&up("docker.io", "u"), "nginx", Some("u:p:w"));
        check(&up("r.io:5000", "u"), "r.io:5000/a", Some("u:p:w"));
        check(&up("r.io", "u"), "r.io:5000/a", None);
        check(&up("r.io", "u"), "evil.r.io/a", None);
        check(&up("*.r.io", "u"), "a.r.io/a", Some("u:p:w"));
        check(&up("*.r.io", "u"), "a.b.r.io/a", None);
        check(&up("r.io/team", "u"), "r.io/team/a", Some("u:p:w"));
        check(&up("r.io/team", "u"), "r.io/teams/a", None);
        check(
            r#"{"auths":{"r.io":{"username":"all","password":"1"},"r.io/t":{"username":"t","password":"2"}}}"#,
            "r.io/t/x",
            Some("t:2"),
        );
        check(r#"{"auths":{"r.io":{}}}"#, "r.io/a", None);
        check("{}", "r.io/a", None);
    }

    #[test]
    fn errors_quote_no_secret() {
        for bad in
            ["", "[]", r#"{"auths":{"r.io":{"auth":"hunter2!"}}}"#, r#"{"auths":{"r.io":{"password":["hunter2"]}}}"#]
        {
            let error = Credential::from_docker_config(bad.as_bytes()).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        let debug = format!("{:?}", Credential::new("r.io", "u", "hunter2"));
        assert!(!debug.contains("hunter2"), "{debug}");
    }
}
