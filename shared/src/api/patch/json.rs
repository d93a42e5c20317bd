//! JSON patch (RFC 6902), with its cost bounded: a small patch can otherwise double an object with
//! each `copy`, or shift a long list with each insertion.

use serde_json::Value;

use super::PatchError;

/// Operations of one patch, as upstream allows.
pub const MAX_OPERATIONS: usize = 10_000;

/// Bytes (estimated) that all `copy` operations together may duplicate, as upstream allows.
const MAX_COPIED: usize = 3 << 20;

/// List elements that all insertions and removals together may shift: some tens of milliseconds.
const MAX_SHIFTED: usize = 20_000_000;

/// How deep a patched object may nest, so that nothing that walks it overflows its stack.
const MAX_DEPTH: usize = 128;

/// Applies a JSON patch. On error `target` may be partly patched: work on a copy.
pub fn json(target: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let operations =
        patch.as_array().ok_or_else(|| PatchError::Malformed("a JSON patch must be an array of operations".into()))?;
    if operations.len() > MAX_OPERATIONS {
        return Err(PatchError::TooCostly(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.len()
        )));
    }
    let mut patcher = Patcher { target, copied: 0, shifted: 0 };
    operations.iter().try_for_each(|operation| patcher.apply(operation))
}

struct Patcher<'t> {
    target: &'t mut Value,
    copied: usize,
    shifted: usize,
}

impl Patcher<'_> {
    fn apply(&mut self, operation: &Value) -> Result<(), PatchError> {
        let member = |name: &str| operation.get(name).and_then(Value::as_str);
        let malformed = |name: &str| PatchError::Malformed(format!("a JSON patch operation lacks {name:?}"));
        let path = pointer(member("path").ok_or_else(|| malformed("path"))?)?;
        let from = || pointer(member("from").ok_or_else(|| malformed("from"))?);
        let value = || operation.get("value").ok_or_else(|| malformed("value"));
        match member("op").ok_or_else(|| malformed("op"))? {
            "add" => {
                let value = value()?.clone();
                self.add(&path, value)
            }
            "remove" => self.remove(&path).map(drop),
            "replace" => {
                let value = value()?.clone();
                self.check_depth(&path, &value)?;
                *self.find(&path).ok_or_else(|| missing("replace", &path))? = value;
                Ok(())
            }
            "move" => {
                let from = from()?;
                if path.len() > from.len() && path.starts_with(&from) {
                    return Err(PatchError::Refused("move into its own child".into()));
                }
                let value = self.remove(&from)?;
                self.add(&path, value)
            }
            "copy" => {
                let from = from()?;
                let source = self.find(&from).ok_or_else(|| missing("copy", &from))?;
                let size = size(source);
                let value = source.clone();
                self.copied += size;
                if self.copied > MAX_COPIED {
                    return Err(PatchError::TooCostly(format!(
                        "the copy operations of the JSON patch exceed {MAX_COPIED} bytes"
                    )));
                }
                self.add(&path, value)
            }
            "test" => {
                let expect = value()?;
                let found = self.find(&path).map(|v| &*v).unwrap_or(&Value::Null);
                match found == expect {
                    true => Ok(()),
                    false => Err(PatchError::Refused(format!("testing value /{} failed", path.join("/")))),
                }
            }
            other => Err(PatchError::Malformed(format!("unknown JSON patch operation {other:?}"))),
        }
    }

    fn find(&mut self, path: &[String]) -> Option<&mut Value> {
        let mut at = &mut *self.target;
        for step in path {
            at = match at {
                Value::Object(map) => map.get_mut(step)?,
                Value::Array(list) => {
                    let index = index(step, list.len())?;
                    list.get_mut(index)?
                }
                _ => return None,
            };
        }
        Some(at)
    }

    fn add(&mut self, path: &[String], value: Value) -> Result<(), PatchError> {
        self.check_depth(path, &value)?;
        let Some((last, parent)) = path.split_last() else {
            *self.target = value;
            return Ok(());
        };
        let mut shifted = 0;
        match self.find(parent).ok_or_else(|| missing("add", path))? {
            Value::Object(map) => {
                map.insert(last.clone(), value);
            }
            Value::Array(list) if last == "-" => list.push(value),
            Value::Array(list) => {
                let index = index(last, list.len() + 1).ok_or_else(|| missing("add", path))?;
                shifted = list.len() - index;
                list.insert(index, value);
            }
            _ => return Err(missing("add", path)),
        }
        self.shift(shifted)
    }

    fn remove(&mut self, path: &[String]) -> Result<Value, PatchError> {
        let Some((last, parent)) = path.split_last() else {
            return Err(PatchError::Refused("the whole document cannot be removed".into()));
        };
        let gone = || missing("remove", path);
        let mut shifted = 0;
        let removed = match self.find(parent).ok_or_else(gone)? {
            Value::Object(map) => map.remove(last).ok_or_else(gone)?,
            Value::Array(list) => {
                let index = index(last, list.len()).ok_or_else(gone)?;
                shifted = list.len() - index;
                list.remove(index)
            }
            _ => return Err(gone()),
        };
        self.shift(shifted)?;
        Ok(removed)
    }

    fn check_depth(&mut self, path: &[String], value: &Value) -> Result<(), PatchError> {
        let mut seen = 0;
        let depth = path.len() + depth(value, &mut seen);
        // Walking a value costs what shifting as many elements does.
        self.shift(seen)?;
        match depth > MAX_DEPTH {
            true => Err(PatchError::Refused(format!("the patched object would nest deeper than {MAX_DEPTH}"))),
            false => Ok(()),
        }
    }

    fn shift(&mut self, elements: usize) -> Result<(), PatchError> {
        self.shifted += elements;
        match self.shifted > MAX_SHIFTED {
            true => Err(PatchError::TooCostly("the JSON patch shifts too many list elements".into())),
            false => Ok(()),
        }
    }
}

fn missing(operation: &str, path: &[String]) -> PatchError {
    let path = path.join("/");
    PatchError::Refused(format!("{operation} operation does not apply: doc is missing path: \"/{path}\""))
}

/// Splits a JSON pointer (RFC 6901).
fn pointer(text: &str) -> Result<Vec<String>, PatchError> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let rest = text
        .strip_prefix('/')
        .ok_or_else(|| PatchError::Malformed(format!("JSON pointer {text:?} does not start with \"/\"")))?;
    let unescape = |step: &str| step.replace("~1", "/").replace("~0", "~");
    Ok(rest.split('/').map(unescape).collect())
}

/// An index below `length`, without signs or leading zeros.
fn index(step: &str, length: usize) -> Option<usize> {
    let plain = step == "0" || (!step.starts_with('0') && step.bytes().all(|b| b.is_ascii_digit()));
    let index: usize = if plain { step.parse().ok()? } else { return None };
    (index < length).then_some(index)
}

/// Bytes of `value` as JSON text, roughly, plus one a value so that empty ones count.
fn size(value: &Value) -> usize {
    1 + match value {
        Value::String(text) => text.len() + 2,
        Value::Array(list) => list.iter().map(size).sum(),
        Value::Object(map) => map.iter().map(|(key, value)| key.len() + 3 + size(value)).sum(),
        _ => 8,
    }
}

/// Levels of lists and maps; counts the values walked into `seen`.
fn depth(value: &Value, seen: &mut usize) -> usize {
    *seen += 1;
    match value {
        Value::Array(list) => 1 + list.iter().map(|v| depth(v, seen)).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(|v| depth(v, seen)).max().unwrap_or(0),
        _ => 0,
    }
}
