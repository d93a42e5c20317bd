//! A strict JSON reader: a [`Value`], the duplicate keys met on the way, and bounds on depth and on
//! the memory that the value will take (a 3 MiB body of `{"a":0},` would take 250 MiB as maps).

use std::fmt;

use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::field::clip;

/// Duplicate keys remembered; one is enough to refuse, the rest is a help.
const MAX_DUPLICATES: usize = 64;

/// What a map entry or list element takes at least.
const VALUE_COST: usize = size_of::<Value>() + 8;

/// A map's first node has room for eleven entries.
const MAP_COST: usize = 11 * (size_of::<Value>() + size_of::<String>()) + 16;

/// Bounds on what is read.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Nested lists and maps; at most 120 (the parser's own recursion ends at 128).
    pub depth: u32,
    /// Estimated bytes of memory of the value.
    pub memory: usize,
}

impl Default for Limits {
    /// For request bodies: the API's deepest types nest about thirty deep, custom schemas more;
    /// 24 MiB hold the largest custom resource definitions met in the wild (0.5 MB of text) twice.
    fn default() -> Limits {
        Limits { depth: 100, memory: 24 << 20 }
    }
}

/// What was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// Of duplicate keys, the last one's value, as Go's decoder does.
    pub value: Value,
    /// Paths of duplicate keys: `spec.containers[0].image`.
    pub duplicates: Vec<String>,
}

/// Why the text is not acceptable JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JsonError {
    /// Not JSON, with where and why.
    Syntax(String),
    /// Nested deeper than the limit.
    TooDeep(u32),
    /// Would take more memory than the limit (bytes).
    TooLarge(usize),
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JsonError::Syntax(why) => write!(f, "json parse error: {why}"),
            JsonError::TooDeep(limit) => {
                write!(f, "json parse error: exceeded max depth of {limit}")
            }
            JsonError::TooLarge(limit) => {
                write!(f, "the decoded object would exceed {limit} bytes of memory")
            }
        }
    }
}

impl std::error::Error for JsonError {}

/// Reads one JSON document and nothing after it.
pub fn read(bytes: &[u8], limits: Limits) -> Result<Parsed, JsonError> {
    let mut reader = Reader { limits, path: String::new(), duplicates: Vec::new(), spent: 0, exceeded: None };
    let mut source = serde_json::Deserializer::from_slice(bytes);
    let seed = Seed { reader: &mut reader, depth: 0 };
    let value = seed.deserialize(&mut source).and_then(|value| {
        source.end()?;
        Ok(value)
    });
    match (value, reader.exceeded) {
        (_, Some(error)) => Err(error),
        (Err(error), None) => Err(JsonError::Syntax(error.to_string())),
        (Ok(value), None) => Ok(Parsed { value, duplicates: reader.duplicates }),
    }
}

struct Reader {
    limits: Limits,
    path: String,
    duplicates: Vec<String>,
    spent: usize,
    exceeded: Option<JsonError>,
}

impl Reader {
    fn spend<E: de::Error>(&mut self, cost: usize) -> Result<(), E> {
        self.spent = self.spent.saturating_add(cost);
        if self.spent <= self.limits.memory {
            return Ok(());
        }
        self.exceeded = Some(JsonError::TooLarge(self.limits.memory));
        Err(E::custom("too large"))
    }
}

struct Seed<'r> {
    reader: &'r mut Reader,
    depth: u32,
}

impl<'r> Seed<'r> {
    fn deeper<E: de::Error>(self) -> Result<Seed<'r>, E> {
        let depth = self.depth + 1;
        if depth > self.reader.limits.depth {
            self.reader.exceeded = Some(JsonError::TooDeep(self.reader.limits.depth));
            return Err(E::custom("too deep"));
        }
        Ok(Seed { depth, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: de::Deserializer<'de>>(self, source: D) -> Result<Value, D::Error> {
        self.reader.spend(VALUE_COST)?;
        source.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        self.reader.spend(value.len())?;
        Ok(value.into())
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Value, E> {
        self.reader.spend(value.len())?;
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let Seed { reader, depth } = self.deeper()?;
        let mut list = Vec::new();
        let base = reader.path.len();
        loop {
            reader.path.push_str(&format!("[{}]", list.len()));
            let seed = Seed { reader: &mut *reader, depth };
            let item = items.next_element_seed(seed)?;
            reader.path.truncate(base);
            match item {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let Seed { reader, depth } = self.deeper()?;
        let mut map = Map::new();
        let base = reader.path.len();
        while let Some(key) = entries.next_key::<String>()? {
            reader.spend(key.len() + if map.is_empty() { MAP_COST } else { 0 })?;
            if base > 0 {
                reader.path.push('.');
            }
            reader.path.push_str(&key);
            let seed = Seed { reader: &mut *reader, depth };
            let value = entries.next_value_seed(seed)?;
            if map.insert(key, value).is_some() && reader.duplicates.len() < MAX_DUPLICATES {
                reader.duplicates.push(clip(reader.path.clone()));
            }
            reader.path.truncate(base);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn parse(text: &str) -> Result<Parsed, JsonError> {
        read(text.as_bytes(), Limits::default())
    }

    #[test]
    fn reads_values_and_names_duplicates() {
        let parsed = parse(r#" {"a":1,"spec":{"c":[{"i":1,"i":2}],"x":null},"a":2.5} "#).unwrap();
        assert_eq!(parsed.value, json!({"a": 2.5, "spec": {"c": [{"i": 2}], "x": null}}));
        assert_eq!(parsed.duplicates, ["spec.c[0].i", "a"]);
    }

    #[test]
    fn refuses_what_is_not_one_document() {
        for text in ["", "{", "{} {}", "{\"a\":}", "nul", "[1,]", "{'a':1}", "\u{1}", "NaN", "{\"a\" 1}"] {
            assert!(matches!(parse(text), Err(JsonError::Syntax(_))), "{text}");
        }
        assert!(read(b"\"\xff\"", Limits::default()).is_err());
    }

    #[test]
    fn depth_and_memory_are_bounded() {
        let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(parse(&deep(100)).is_ok());
        assert_eq!(parse(&deep(101)), Err(JsonError::TooDeep(100)));
        assert_eq!(parse(&"[".repeat(1 << 20)), Err(JsonError::TooDeep(100)));
        let maps = format!("[{}{{}}]", "{\"a\":0},".repeat(100_000));
        assert_eq!(parse(&maps), Err(JsonError::TooLarge(24 << 20)));
        let duplicates = format!("{{{}\"a\":0}}", "\"a\":0,".repeat(1000));
        assert_eq!(parse(&duplicates).unwrap().duplicates.len(), MAX_DUPLICATES);
    }

    proptest! {
        #[test]
        fn hostile_text_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes, Limits::default());
        }

        #[test]
        fn agrees_with_serde_json(text in "[\\[\\]{}\",:0-9a.e-]{0,30}") {
            let ours = parse(&text).ok().map(|p| p.value);
            prop_assert_eq!(ours, serde_json::from_str::<Value>(&text).ok());
        }
    }
}
