//! The kubeconfig: which server, which CA, which certificate or token.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::error::Error;

/// What the current context of a kubeconfig says, with all files read.
#[derive(Clone, Debug)]
pub struct Config {
    /// `https://HOST:PORT`, without a trailing slash.
    pub server: String,
    pub namespace: String,
    /// PEM.
    pub ca: Vec<u8>,
    /// PEM certificate and key.
    pub client: Option<(Vec<u8>, Vec<u8>)>,
    pub token: Option<String>,
}

/// Loads `explicit`, or the first of $KUBECONFIG's files, or ~/.kube/config.
pub fn load(explicit: Option<&str>) -> Result<Config, Error> {
    let path = locate(explicit)?;
    let text = fs::read_to_string(&path).map_err(|e| {
        Error::Usage(format!(
            "kubeconfig {} can not be read: {e}; name one with --kubeconfig or KUBECONFIG",
            path.display()
        ))
    })?;
    let document: Value = serde_yaml_ng::from_str(&text)
        .map_err(|e| Error::Usage(format!("kubeconfig {} is not valid YAML: {e}", path.display())))?;
    let base = path.parent().unwrap_or(Path::new("."));
    parse(&document, base).map_err(|what| Error::Usage(format!("kubeconfig {}: {what}", path.display())))
}

fn locate(explicit: Option<&str>) -> Result<PathBuf, Error> {
    if let Some(path) = explicit {
        return Ok(path.into());
    }
    let listed = env::var("KUBECONFIG").unwrap_or_default();
    if let Some(path) = listed.split(':').find(|p| !p.is_empty()) {
        return Ok(path.into());
    }
    let home = env::var("HOME").map_err(|_| Error::Usage("no --kubeconfig, no KUBECONFIG and no HOME".into()))?;
    Ok(Path::new(&home).join(".kube/config"))
}

fn parse(document: &Value, base: &Path) -> Result<Config, String> {
    let current = document["current-context"].as_str().unwrap_or_default();
    let context = named(document, "contexts", current, "context")?;
    let cluster = named(document, "clusters", context["cluster"].as_str().unwrap_or_default(), "cluster")?;
    let user = named(document, "users", context["user"].as_str().unwrap_or_default(), "user")?;
    let server = cluster["server"].as_str().ok_or("its cluster names no server")?.trim_end_matches('/');
    if !server.starts_with("https://") {
        return Err(format!("its server {server:?} is not an https address"));
    }
    let certificate = material(user, "client-certificate", base)?;
    let key = material(user, "client-key", base)?;
    Ok(Config {
        server: server.to_owned(),
        namespace: context["namespace"].as_str().filter(|n| !n.is_empty()).unwrap_or("default").to_owned(),
        ca: material(cluster, "certificate-authority", base)?.ok_or("its cluster has no certificate-authority")?,
        client: certificate.zip(key),
        token: user["token"].as_str().map(str::to_owned),
    })
}

fn named<'a>(document: &'a Value, list: &str, name: &str, inner: &str) -> Result<&'a Value, String> {
    document[list]
        .as_array()
        .and_then(|entries| entries.iter().find(|e| e["name"].as_str() == Some(name)))
        .map(|entry| &entry[inner])
        .ok_or_else(|| format!("no entry {name:?} under {list}"))
}

/// `FIELD-data` as base64, or the file that `FIELD` names.
fn material(entry: &Value, field: &str, base: &Path) -> Result<Option<Vec<u8>>, String> {
    if let Some(data) = entry[format!("{field}-data")].as_str() {
        return STANDARD.decode(data).map(Some).map_err(|e| format!("{field}-data is not base64: {e}"));
    }
    let Some(file) = entry[field].as_str() else { return Ok(None) };
    let path = base.join(file);
    fs::read(&path).map(Some).map_err(|e| format!("{field} {}: {e}", path.display()))
}

/// A kubeconfig with everything inside, for another machine.
pub fn flattened(config: Config, server: Option<String>) -> String {
    let mut user = json!({});
    if let Some((certificate, key)) = &config.client {
        user["client-certificate-data"] = STANDARD.encode(certificate).into();
        user["client-key-data"] = STANDARD.encode(key).into();
    }
    if let Some(token) = &config.token {
        user["token"] = token.as_str().into();
    }
    let document = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "coracle",
        "contexts": [{"name": "coracle", "context": {"cluster": "coracle", "user": "admin", "namespace": config.namespace}}],
        "clusters": [{"name": "coracle", "cluster": {
            "server": server.unwrap_or(config.server),
            "certificate-authority-data": STANDARD.encode(&config.ca),
        }}],
        "users": [{"name": "admin", "user": user}],
    });
    serde_yaml_ng::to_string(&document).expect("JSON is YAML")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(cluster: Value, user: Value) -> Value {
        json!({"current-context": "a", "contexts": [{"name": "a", "context": {"cluster": "c", "user": "u"}}],
               "clusters": [{"name": "c", "cluster": cluster}], "users": [{"name": "u", "user": user}]})
    }

    fn check(cluster: Value, user: Value, expect: Result<&str, &str>) {
        let got = parse(&document(cluster, user), Path::new("/nonexistent"));
        match (&got, expect) {
            (Ok(config), Ok(server)) => assert_eq!(config.server, server),
            (Err(error), Err(part)) => assert!(error.contains(part), "{error}"),
            _ => panic!("{got:?}, expected {expect:?}"),
        }
    }

    #[test]
    fn contexts() {
        let ca = STANDARD.encode("pem");
        check(json!({"server": "https://h:1/", "certificate-authority-data": ca}), json!({}), Ok("https://h:1"));
        check(json!({"server": "http://h:1", "certificate-authority-data": ca}), json!({}), Err("not an https"));
        check(json!({"server": "https://h:1"}), json!({}), Err("no certificate-authority"));
        check(json!({"server": "https://h:1", "certificate-authority-data": "%"}), json!({}), Err("not base64"));
        check(
            json!({"server": "https://h:1", "certificate-authority": "ca.pem"}),
            json!({}),
            Err("/nonexistent/ca.pem"),
        );
        assert!(parse(&json!({"current-context": "b"}), Path::new(".")).is_err());
    }

    #[test]
    fn what_is_printed_can_be_loaded() {
        let config = Config {
            server: "https://127.0.0.1:6443".into(),
            namespace: "default".into(),
            ca: b"ca".to_vec(),
            client: Some((b"cert".to_vec(), b"key".to_vec())),
            token: None,
        };
        let text = flattened(config, Some("https://10.0.0.1:6443".into()));
        let again = parse(&serde_yaml_ng::from_str(&text).unwrap(), Path::new(".")).unwrap();
        assert_eq!(again.server, "https://10.0.0.1:6443");
        assert_eq!(again.client, Some((b"cert".to_vec(), b"key".to_vec())));
    }
}
