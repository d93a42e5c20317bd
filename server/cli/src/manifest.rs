//! Manifests: YAML or JSON documents from files, directories, standard input.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::error::Error;

/// One object of a manifest.
pub struct Object {
    pub value: Value,
    /// For messages: the file, and which document of it.
    pub origin: String,
}

impl Object {
    pub fn text(&self, path: &str) -> &str {
        self.value.pointer(path).and_then(Value::as_str).unwrap_or_default()
    }
}

/// Reads every object of the given files; `-` is standard input, a directory its `*.yaml`, `*.yml`
/// and `*.json` in name order. Lists are taken apart.
pub fn read(paths: &[String]) -> Result<Vec<Object>, Error> {
    if paths.is_empty() {
        return Err(Error::Usage("name a manifest with -f FILE (- for standard input)".into()));
    }
    let mut objects = Vec::new();
    for path in paths {
        if path == "-" {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text).map_err(|e| Error::Usage(format!("standard input: {e}")))?;
            parse(&text, "standard input", &mut objects)?;
        } else {
            for file in files(Path::new(path))? {
                let name = file.display().to_string();
                let text = fs::read_to_string(&file).map_err(|e| Error::Usage(format!("{name}: {e}")))?;
                parse(&text, &name, &mut objects)?;
            }
        }
    }
    if objects.is_empty() { Err(Error::Usage(format!("no objects in {}", paths.join(", ")))) } else { Ok(objects) }
}

fn files(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |e: io::Error| Error::Usage(format!("{}: {e}", path.display()));
    if !fs::metadata(path).map_err(failed)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        if file.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json") {
            found.push(file);
        }
    }
    found.sort();
    Ok(found)
}

fn parse(text: &str, name: &str, into: &mut Vec<Object>) -> Result<(), Error> {
    for (number, document) in serde_yaml_ng::Deserializer::from_str(text).enumerate() {
        let origin = format!("{name}, document {}", number + 1);
        let value = Value::deserialize(document).map_err(|e| Error::Usage(format!("{origin}: {e}")))?;
        match value {
            Value::Null => {}
            Value::Object(mut map) if map.get("kind").and_then(Value::as_str).is_some_and(|k| k.ends_with("List")) => {
                let Some(Value::Array(items)) = map.remove("items") else {
                    return Err(Error::Usage(format!("{origin}: a list without items")));
                };
                for value in items {
                    push(value, &origin, into)?;
                }
            }
            value => push(value, &origin, into)?,
        }
    }
    Ok(())
}

fn push(value: Value, origin: &str, into: &mut Vec<Object>) -> Result<(), Error> {
    let object = Object { value, origin: origin.to_owned() };
    for (path, field) in [("/apiVersion", "apiVersion"), ("/kind", "kind"), ("/metadata/name", "metadata.name")] {
        if object.text(path).is_empty() {
            return Err(Error::Usage(format!("{origin}: {field} is missing")));
        }
    }
    into.push(object);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: Result<usize, &str>) {
        let mut objects = Vec::new();
        match (parse(text, "f", &mut objects), expect) {
            (Ok(()), Ok(count)) => assert_eq!(objects.len(), count),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (got, _) => panic!("{got:?}, expected {expect:?}"),
        }
    }

    #[test]
    fn documents() {
        let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n";
        check(pod, Ok(1));
        check(&format!("{pod}---\n---\n{pod}"), Ok(2));
        check(
            r#"{"kind":"List","apiVersion":"v1","items":[{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"}}]}"#,
            Ok(1),
        );
        check("apiVersion: v1\nkind: Pod\n", Err("f, document 1: metadata.name is missing"));
        check("a: [", Err("f, document 1"));
        check("", Ok(0));
    }
}
