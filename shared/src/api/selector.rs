//! Label and field selectors: the query-string syntax and the LabelSelector object.

use std::fmt;

use serde_json::{Map, Value};

use super::names;

mod parse;

/// Requirements of one selector that are worth evaluating: a bound against hostile queries.
pub const MAX_REQUIREMENTS: usize = 1024;

/// Why a selector cannot be read, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectorError(pub String);

impl fmt::Display for SelectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SelectorError {}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// The label is there with one of the values.
    In(String, Vec<String>),
    /// The label is absent or has another value.
    NotIn(String, Vec<String>),
    Exists(String),
    DoesNotExist(String),
    /// The label is an integer above the number.
    Greater(String, i64),
    /// The label is an integer below the number.
    Less(String, i64),
}

/// A label selector. Empty matches everything; [`LabelSelector::nothing`] matches nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelSelector {
    /// All have to hold.
    pub requirements: Vec<Requirement>,
    nothing: bool,
}

impl LabelSelector {
    /// Matches every object.
    pub fn everything() -> LabelSelector {
        LabelSelector { requirements: Vec::new(), nothing: false }
    }

    /// Matches no object: what a missing LabelSelector object means.
    pub fn nothing() -> LabelSelector {
        LabelSelector { requirements: Vec::new(), nothing: true }
    }

    /// Reads the query-string syntax: `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1`.
    pub fn parse(text: &str) -> Result<LabelSelector, SelectorError> {
        let requirements = parse::requirements(text).map_err(SelectorError)?;
        Ok(LabelSelector { requirements, nothing: false })
    }

    /// Reads a LabelSelector object. Null matches nothing, an empty object everything.
    pub fn from_value(value: &Value) -> Result<LabelSelector, SelectorError> {
        let object = match value {
            Value::Null => return Ok(LabelSelector::nothing()),
            Value::Object(object) => object,
            _ => return Err(SelectorError("a label selector must be an object".into())),
        };
        let mut selector = match object.get("matchLabels") {
            Some(labels) => LabelSelector::from_labels(labels),
            None => LabelSelector::everything(),
        };
        let expressions = object.get("matchExpressions").and_then(Value::as_array);
        for expression in expressions.into_iter().flatten() {
            selector.requirements.push(parse::expression(expression)?);
        }
        if selector.requirements.len() > MAX_REQUIREMENTS {
            return Err(SelectorError(format!("a selector may have at most {MAX_REQUIREMENTS} requirements")));
        }
        Ok(selector)
    }

    /// Reads a plain map of labels, as `spec.selector` of a Service. Null and `{}` match everything;
    /// a Service without a selector has to be told apart by the caller.
    pub fn from_labels(labels: &Value) -> LabelSelector {
        let labels = labels.as_object().into_iter().flatten();
        let requirements = labels
            .map(|(key, value)| {
                let value = value.as_str().unwrap_or_default();
                Requirement::In(key.clone(), vec![value.to_string()])
            })
            .collect();
        LabelSelector { requirements, nothing: false }
    }

    /// True when every object matches.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// Whether an object with these labels (`metadata.labels`, if any) matches.
    pub fn matches(&self, labels: Option<&Map<String, Value>>) -> bool {
        self.matches_by(|key| labels?.get(key)?.as_str())
    }

    /// As [`LabelSelector::matches`], with the labels behind a function.
    pub fn matches_by<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(&label))
    }
}

impl Requirement {
    /// The label's key.
    pub fn key(&self) -> &str {
        match self {
            Requirement::In(key, _)
            | Requirement::NotIn(key, _)
            | Requirement::Exists(key)
            | Requirement::DoesNotExist(key)
            | Requirement::Greater(key, _)
            | Requirement::Less(key, _) => key,
        }
    }

    fn matches<'a>(&self, label: &impl Fn(&str) -> Option<&'a str>) -> bool {
        let has = |key: &str, values: &[String]| label(key).map(|v| values.iter().any(|x| x == v));
        let number = |key: &str| label(key).and_then(|v| v.parse::<i64>().ok());
        match self {
            Requirement::In(key, values) => has(key, values) == Some(true),
            Requirement::NotIn(key, values) => has(key, values) != Some(true),
            Requirement::Exists(key) => label(key).is_some(),
            Requirement::DoesNotExist(key) => label(key).is_none(),
            Requirement::Greater(key, bound) => number(key).is_some_and(|n| n > *bound),
            Requirement::Less(key, bound) => number(key).is_some_and(|n| n < *bound),
        }
    }
}

/// The query-string form: `a=b,c in (d,e)`, as a scale's `status.selector` has it.
impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            match requirement {
                Requirement::In(key, values) if values.len() == 1 => {
                    write!(f, "{key}={}", values[0])?;
                }
                Requirement::In(key, values) => write!(f, "{key} in ({})", values.join(","))?,
                Requirement::NotIn(key, values) if values.len() == 1 => {
                    write!(f, "{key}!={}", values[0])?;
                }
                Requirement::NotIn(key, values) => {
                    write!(f, "{key} notin ({})", values.join(","))?;
                }
                Requirement::Exists(key) => f.write_str(key)?,
                Requirement::DoesNotExist(key) => write!(f, "!{key}")?,
                Requirement::Greater(key, bound) => write!(f, "{key}>{bound}")?,
                Requirement::Less(key, bound) => write!(f, "{key}<{bound}")?,
            }
        }
        Ok(())
    }
}

/// One term of a field selector: `path=value` or `path!=value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTerm {
    /// `metadata.name`, `spec.nodeName`.
    pub path: String,
    pub value: String,
    /// `!=`
    pub negated: bool,
}

/// A field selector; which paths a kind supports is the kind's business.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    /// All have to hold.
    pub terms: Vec<FieldTerm>,
}

impl FieldSelector {
    /// Reads the query-string syntax: `metadata.name=a,status.phase!=Running`; `\` escapes `,`, `=` and itself.
    pub fn parse(text: &str) -> Result<FieldSelector, SelectorError> {
        let terms = parse::field_terms(text).map_err(SelectorError)?;
        Ok(FieldSelector { terms })
    }

    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// The value that the object's field at `path` must equal, when the selector says so.
    pub fn exact(&self, path: &str) -> Option<&str> {
        let term = self.terms.iter().find(|t| !t.negated && t.path == path)?;
        Some(&term.value)
    }

    /// Whether `object` matches; a missing field reads as empty, numbers and booleans as their text.
    pub fn matches(&self, object: &Value) -> bool {
        self.terms.iter().all(|term| {
            let mut at = Some(object);
            for step in term.path.split('.') {
                at = at.and_then(|v| v.get(step));
            }
            let equal = match at {
                Some(Value::String(text)) => *text == term.value,
                Some(Value::Bool(flag)) => flag.to_string() == term.value,
                Some(Value::Number(number)) => number.to_string() == term.value,
                _ => term.value.is_empty(),
            };
            equal != term.negated
        })
    }
}

#[cfg(test)]
mod tests;
