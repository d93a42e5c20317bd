//! `coracle logs`.

use std::io::Read;

use argh::FromArgs;

use crate::client::Client;
use crate::error::Error;
use crate::get::escape;
use crate::output;

/// Print what a container wrote: `logs POD`, `logs deployment/NAME`.
#[derive(FromArgs)]
#[argh(subcommand, name = "logs")]
pub struct Logs {
    /// the pod, or TYPE/NAME of what owns it
    #[argh(positional)]
    target: String,
    /// namespace (default: the kubeconfig's)
    #[argh(option, short = 'n')]
    namespace: Option<String>,
    /// container (default: the pod's only one)
    #[argh(option, short = 'c')]
    container: Option<String>,
    /// go on as lines come
    #[argh(switch, short = 'f')]
    follow: bool,
    /// of the run before the last restart
    #[argh(switch, short = 'p')]
    previous: bool,
    /// only the last N lines
    #[argh(option)]
    tail: Option<u64>,
    /// only the last N seconds
    #[argh(option)]
    since: Option<u64>,
    /// each line with its time
    #[argh(switch)]
    timestamps: bool,
}

/// What is read at once: a screenful, so that lines appear as they come.
const CHUNK: usize = 8192;

impl Logs {
    pub fn run(self, client: &Client) -> Result<(), Error> {
        let namespace = self.namespace.clone().unwrap_or_else(|| client.config.namespace.clone());
        let pod = self.pod(client, &namespace)?;
        let path = format!("/api/v1/namespaces/{}/pods/{}/log?{}", escape(&namespace), escape(&pod), self.query());
        let mut stream = client.stream(&path, "*/*")?;
        let mut chunk = [0; CHUNK];
        loop {
            match stream.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(n) => output::write(&chunk[..n])?,
                Err(e) => return Err(Error::Unreachable(format!("the log of {pod} broke off: {e}"))),
            }
        }
    }

    fn query(&self) -> String {
        let mut parts = Vec::new();
        let mut add = |name: &str, value: Option<String>| parts.extend(value.map(|v| format!("{name}={v}")));
        add("container", self.container.as_deref().map(escape));
        add("follow", self.follow.then(|| "true".into()));
        add("previous", self.previous.then(|| "true".into()));
        add("timestamps", self.timestamps.then(|| "true".into()));
        add("tailLines", self.tail.map(|n| n.to_string()));
        add("sinceSeconds", self.since.map(|n| n.to_string()));
        parts.join("&")
    }

    /// The pod itself, or the first pod that the named object selects.
    fn pod(&self, client: &Client, namespace: &str) -> Result<String, Error> {
        let Some((kind, name)) = self.target.split_once('/') else { return Ok(self.target.clone()) };
        let resources = crate::discovery::resources(client)?;
        let resource = crate::discovery::find(&resources, kind)?;
        if resource.plural == "pods" {
            return Ok(name.to_owned());
        }
        let object = client.get(&format!("{}/{}", resource.path(Some(namespace)), escape(name)))?;
        let selector = object["spec"]["selector"]["matchLabels"].as_object().or(object["spec"]["selector"].as_object());
        let selector: Vec<String> = selector
            .ok_or_else(|| Error::Usage(format!("{} selects no pods", self.target)))?
            .iter()
            .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
            .collect();
        let pods = client
            .get(&format!("/api/v1/namespaces/{namespace}/pods?labelSelector={}", escape(&selector.join(","))))?;
        let first = pods["items"][0]["metadata"]["name"].as_str().map(str::to_owned);
        first.ok_or_else(|| Error::Refused {
            code: 404,
            reason: "NotFound".into(),
            message: format!("{} has no pods", self.target),
        })
    }
}
