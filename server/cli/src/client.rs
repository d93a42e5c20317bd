//! HTTPS to the API server: JSON in, JSON out, and plain streams for logs and watches.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

use crate::config::Config;
use crate::error::Error;

/// Long enough for a Raspberry Pi under load, short enough for a person who waits.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// The largest answer that is read into memory: a list of 5,000 pods is about 10 MB.
const MAX_ANSWER: u64 = 256 << 20;

/// The answer in the form of a table with columns, as `kubectl get` asks for it.
pub const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
const JSON: &str = "application/json";

pub struct Client {
    agent: ureq::Agent,
    pub config: Config,
}

impl Client {
    pub fn new(config: Config) -> Result<Client, Error> {
        let mut tls = TlsConfig::builder()
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .root_certs(RootCerts::Specific(Arc::new(certificates(&config.ca)?)));
        if let Some((certificate, key)) = &config.client {
            let key =
                PrivateKey::from_pem(key).map_err(|e| Error::Usage(format!("the kubeconfig's client key: {e}")))?;
            tls = tls.client_cert(Some(ClientCert::new_with_certs(&certificates(certificate)?, key)));
        }
        let agent = ureq::Agent::config_builder()
            .tls_config(tls.build())
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .user_agent(concat!("coracle/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .build()
            .new_agent();
        Ok(Client { agent, config })
    }

    pub fn get(&self, path: &str) -> Result<Value, Error> {
        self.get_as(path, JSON)
    }

    pub fn get_as(&self, path: &str, accept: &str) -> Result<Value, Error> {
        answer(self.call("GET", path, accept, None, Some(ANSWER_TIMEOUT))?)
    }

    /// The body as it comes, for `get --raw`.
    pub fn raw(&self, path: &str) -> Result<Vec<u8>, Error> {
        let response = self.call("GET", path, "*/*", None, Some(ANSWER_TIMEOUT))?;
        let code = response.status().as_u16();
        let bytes = read(response)?;
        if code < 300 { Ok(bytes) } else { Err(refusal(code, &bytes)) }
    }

    pub fn post(&self, path: &str, body: &Value) -> Result<Value, Error> {
        answer(self.call("POST", path, JSON, Some((JSON, body)), Some(ANSWER_TIMEOUT))?)
    }

    pub fn patch(&self, path: &str, kind: &str, body: &Value) -> Result<Value, Error> {
        answer(self.call("PATCH", path, JSON, Some((kind, body)), Some(ANSWER_TIMEOUT))?)
    }

    pub fn delete(&self, path: &str, options: &Value) -> Result<Value, Error> {
        answer(self.call("DELETE", path, JSON, Some((JSON, options)), Some(ANSWER_TIMEOUT))?)
    }

    /// An answer without an end: read it line by line. No timeout applies.
    pub fn stream(&self, path: &str, accept: &str) -> Result<impl Read + use<>, Error> {
        let response = self.call("GET", path, accept, None, None)?;
        let code = response.status().as_u16();
        if code >= 300 {
            return Err(refusal(code, &read(response)?));
        }
        Ok(response.into_body().into_reader())
    }

    fn call(
        &self,
        method: &str,
        path: &str,
        accept: &str,
        body: Option<(&str, &Value)>,
        timeout: Option<Duration>,
    ) -> Result<ureq::http::Response<ureq::Body>, Error> {
        let url = format!("{}{path}", self.config.server);
        let mut request = ureq::http::Request::builder().method(method).uri(&url).header("Accept", accept);
        if let Some(token) = &self.config.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if let Some((kind, _)) = body {
            request = request.header("Content-Type", kind);
        }
        let bytes = body.map(|(_, value)| value.to_string().into_bytes()).unwrap_or_default();
        let request = request.body(bytes).map_err(|e| Error::Usage(format!("{url}: {e}")))?;
        let request =
            self.agent.configure_request(request).timeout_global(timeout).allow_non_standard_methods(true).build();
        self.agent.run(request).map_err(|e| {
            Error::Unreachable(format!(
                "{}: {e}; is the server running, and is this the right kubeconfig?",
                self.config.server
            ))
        })
    }
}

pub fn certificates(pem: &[u8]) -> Result<Vec<Certificate<'static>>, Error> {
    let mut found = Vec::new();
    for item in parse_pem(pem) {
        match item {
            Ok(PemItem::Certificate(certificate)) => found.push(certificate),
            Ok(_) => {}
            Err(e) => return Err(Error::Usage(format!("a certificate of the kubeconfig: {e}"))),
        }
    }
    if found.is_empty() {
        Err(Error::Usage("the kubeconfig's certificate data holds no certificate".into()))
    } else {
        Ok(found)
    }
}

fn answer(response: ureq::http::Response<ureq::Body>) -> Result<Value, Error> {
    let code = response.status().as_u16();
    let bytes = read(response)?;
    if code >= 300 {
        return Err(refusal(code, &bytes));
    }
    serde_json::from_slice(&bytes).map_err(|e| Error::Unreachable(format!("the server's answer is not JSON: {e}")))
}

fn read(response: ureq::http::Response<ureq::Body>) -> Result<Vec<u8>, Error> {
    response
        .into_body()
        .into_with_config()
        .limit(MAX_ANSWER)
        .read_to_vec()
        .map_err(|e| Error::Unreachable(format!("the server's answer broke off: {e}")))
}

fn refusal(code: u16, body: &[u8]) -> Error {
    match serde_json::from_slice::<Value>(body) {
        Ok(status) => Error::status(code, &status),
        Err(_) => {
            Error::Refused { code, reason: String::new(), message: String::from_utf8_lossy(body).trim().to_owned() }
        }
    }
}
