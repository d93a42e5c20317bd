//! `coracle get` and `coracle delete`.

use std::io::{BufRead, BufReader};

use argh::FromArgs;
use serde_json::{Value, json};

use crate::client::{Client, TABLE};
use crate::discovery::{self, Resource};
use crate::error::Error;
use crate::manifest;
use crate::output::{self, Format};

/// Show objects: `get pods`, `get pod NAME`, `get deploy,svc`, `get pod/NAME`.
#[derive(FromArgs)]
#[argh(subcommand, name = "get")]
pub struct Get {
    /// what: a resource type (or several, with commas), then names; or TYPE/NAME
    #[argh(positional)]
    what: Vec<String>,
    /// namespace (default: the kubeconfig's)
    #[argh(option, short = 'n')]
    namespace: Option<String>,
    /// in all namespaces
    #[argh(switch, short = 'A')]
    all_namespaces: bool,
    /// label selector, e.g. app=web
    #[argh(option, short = 'l')]
    selector: Option<String>,
    /// output format: wide, json, yaml or name
    #[argh(option, short = 'o')]
    output: Option<String>,
    /// go on and show changes
    #[argh(switch, short = 'w')]
    watch: bool,
    /// print the answer of this path of the API as it is
    #[argh(option)]
    raw: Option<String>,
}

impl Get {
    pub fn run(self, client: &Client) -> Result<(), Error> {
        if let Some(path) = &self.raw {
            return output::write(&client.raw(path)?);
        }
        let format = Format::parse(self.output.as_deref())?;
        let resources = discovery::resources(client)?;
        let targets = targets(&resources, &self.what)?;
        if self.watch {
            let [(resource, names)] = &targets[..] else {
                return Err(Error::Usage("--watch takes one resource type".into()));
            };
            return self.follow(client, resource, names, format);
        }
        let several = targets.len() > 1;
        for (i, (resource, names)) in targets.iter().enumerate() {
            if several && i > 0 && format == Format::Table {
                output::print("\n")?;
            }
            self.show(client, resource, names, format)?;
        }
        Ok(())
    }

    fn namespace<'a>(&'a self, client: &'a Client) -> Option<&'a str> {
        if self.all_namespaces { None } else { Some(self.namespace.as_deref().unwrap_or(&client.config.namespace)) }
    }

    fn show(&self, client: &Client, resource: &Resource, names: &[String], format: Format) -> Result<(), Error> {
        let collection = resource.path(self.namespace(client));
        let accept = if matches!(format, Format::Table | Format::Wide) { TABLE } else { "application/json" };
        if names.is_empty() {
            let list = client.get_as(&with_selector(&collection, self.selector.as_deref()), accept)?;
            return self.print(resource, &list, format, true);
        }
        if self.all_namespaces && resource.namespaced {
            return Err(Error::Usage("a name needs its namespace: leave --all-namespaces out".into()));
        }
        for (i, name) in names.iter().enumerate() {
            let object = client.get_as(&format!("{collection}/{}", escape(name)), accept)?;
            self.print(resource, &object, format, i == 0)?;
        }
        Ok(())
    }

    fn print(&self, resource: &Resource, answer: &Value, format: Format, header: bool) -> Result<(), Error> {
        match format {
            Format::Json => output::print(&output::json(answer)),
            Format::Yaml => output::print(&output::yaml(answer)?),
            Format::Name => {
                let one = std::slice::from_ref(answer);
                for object in answer["items"].as_array().map_or(one, Vec::as_slice) {
                    output::print(&format!(
                        "{}/{}\n",
                        resource.singular,
                        object["metadata"]["name"].as_str().unwrap_or("")
                    ))?;
                }
                Ok(())
            }
            Format::Table | Format::Wide if answer["rows"].as_array().is_some_and(Vec::is_empty) => {
                eprintln!("no {} found", resource.qualified());
                Ok(())
            }
            Format::Table | Format::Wide => {
                let namespaces = self.all_namespaces && resource.namespaced;
                output::print(&output::table(answer, format == Format::Wide, namespaces, header))
            }
        }
    }

    fn follow(&self, client: &Client, resource: &Resource, names: &[String], format: Format) -> Result<(), Error> {
        let mut path = with_selector(&resource.path(self.namespace(client)), self.selector.as_deref());
        path.push_str(if path.contains('?') { "&watch=true" } else { "?watch=true" });
        match names {
            [] => {}
            [name] => path.push_str(&format!("&fieldSelector=metadata.name%3D{}", escape(name))),
            _ => return Err(Error::Usage("--watch takes at most one name".into())),
        }
        let accept = if matches!(format, Format::Table | Format::Wide) { TABLE } else { "application/json" };
        let mut header = true;
        let mut columns = Value::Null;
        for line in BufReader::new(client.stream(&path, accept)?).lines() {
            let line = line.map_err(|e| Error::Unreachable(format!("the watch broke off: {e}")))?;
            let event: Value =
                serde_json::from_str(&line).map_err(|e| Error::Unreachable(format!("the watch sent no JSON: {e}")))?;
            if event["type"] == "ERROR" {
                return Err(Error::status(event["object"]["code"].as_u64().unwrap_or(500) as u16, &event["object"]));
            }
            let mut object = event["object"].clone();
            // Only the first table of a watch carries the columns.
            match object["columnDefinitions"].as_array() {
                Some(own) if !own.is_empty() => columns = object["columnDefinitions"].clone(),
                _ if object["kind"] == "Table" => object["columnDefinitions"] = columns.clone(),
                _ => {}
            }
            self.print(resource, &object, format, header)?;
            header = false;
        }
        Ok(())
    }
}

/// Delete objects: `delete pod NAME`, `delete -f FILE`.
#[derive(FromArgs)]
#[argh(subcommand, name = "delete")]
pub struct Delete {
    /// what: a resource type and names, or TYPE/NAME
    #[argh(positional)]
    what: Vec<String>,
    /// delete what these manifests name: a file, a directory or - (repeatable)
    #[argh(option, short = 'f')]
    filename: Vec<String>,
    /// namespace (default: the kubeconfig's)
    #[argh(option, short = 'n')]
    namespace: Option<String>,
    /// seconds a pod has to end by itself (default: the pod's own)
    #[argh(option)]
    grace_period: Option<u32>,
    /// do not complain about what is not there
    #[argh(switch)]
    ignore_not_found: bool,
}

impl Delete {
    pub fn run(self, client: &Client) -> Result<(), Error> {
        let resources = discovery::resources(client)?;
        let mut failed = 0;
        for (resource, namespace, name) in self.objects(client, &resources)? {
            let path = format!("{}/{}", resource.path(Some(&namespace)), escape(&name));
            let mut options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"});
            if let Some(seconds) = self.grace_period {
                options["gracePeriodSeconds"] = seconds.into();
            }
            match client.delete(&path, &options) {
                Ok(_) => output::print(&format!("{}/{name} deleted\n", resource.singular))?,
                Err(error) if error.is_not_found() && self.ignore_not_found => {}
                Err(error @ (Error::Unreachable(_) | Error::Closed)) => return Err(error),
                Err(error) => {
                    eprintln!("error: {}/{name}: {error}", resource.singular);
                    failed += 1;
                }
            }
        }
        if failed == 0 { Ok(()) } else { Err(Error::Partly(failed)) }
    }

    fn objects<'a>(
        &self,
        client: &Client,
        resources: &'a [Resource],
    ) -> Result<Vec<(&'a Resource, String, String)>, Error> {
        let default = self.namespace.clone().unwrap_or_else(|| client.config.namespace.clone());
        if !self.filename.is_empty() {
            let objects = manifest::read(&self.filename)?;
            return objects
                .iter()
                .map(|object| {
                    let resource = discovery::of_object(resources, object.text("/apiVersion"), object.text("/kind"))?;
                    let namespace =
                        Some(object.text("/metadata/namespace")).filter(|n| !n.is_empty()).unwrap_or(&default);
                    Ok((resource, namespace.to_owned(), object.text("/metadata/name").to_owned()))
                })
                .collect();
        }
        let mut found = Vec::new();
        for (resource, names) in targets(resources, &self.what)? {
            if names.is_empty() {
                return Err(Error::Usage(format!("name the {} to delete", resource.plural)));
            }
            found.extend(names.into_iter().map(|name| (resource, default.clone(), name)));
        }
        Ok(found)
    }
}

/// What the words of a command line mean: `TYPE[,TYPE…] [NAME…]` or `TYPE/NAME…`.
pub fn targets<'a>(resources: &'a [Resource], words: &[String]) -> Result<Vec<(&'a Resource, Vec<String>)>, Error> {
    let Some(first) = words.first() else {
        return Err(Error::Usage("name a resource type, e.g. pods, or TYPE/NAME".into()));
    };
    if words.iter().any(|w| w.contains('/')) {
        return words
            .iter()
            .map(|word| match word.split_once('/') {
                Some((kind, name)) if !name.is_empty() => {
                    Ok((discovery::find(resources, kind)?, vec![name.to_owned()]))
                }
                _ => Err(Error::Usage(format!("{word:?} is not TYPE/NAME as the other arguments are"))),
            })
            .collect();
    }
    let kinds: Vec<&str> = first.split(',').filter(|k| !k.is_empty()).collect();
    kinds.into_iter().map(|kind| Ok((discovery::find(resources, kind)?, words[1..].to_vec()))).collect()
}

fn with_selector(path: &str, selector: Option<&str>) -> String {
    match selector {
        Some(selector) => format!("{path}?labelSelector={}", escape(selector)),
        None => path.to_owned(),
    }
}

/// Percent-encodes everything but what a path segment or query value may hold unescaped (RFC 3986).
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => escaped.push(byte as char),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}
