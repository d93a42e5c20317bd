//! The selectors' grammars.

use serde_json::Value;

use super::{FieldTerm, MAX_REQUIREMENTS, Requirement, SelectorError, names};

#[derive(Clone, Debug, PartialEq)]
enum Token {
    End,
    Close,
    Comma,
    Not,
    Equal,
    NotEqual,
    Greater,
    Less,
    Open,
    Word(String),
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Token::End => "",
            Token::Close => ")",
            Token::Comma => ",",
            Token::Not => "!",
            Token::Equal => "=",
            Token::NotEqual => "!=",
            Token::Greater => ">",
            Token::Less => "<",
            Token::Open => "(",
            Token::Word(word) => word,
        }
    }
}

const OPERATORS: &str = "in, notin, =, ==, !=, gt, lt";

fn tokens(text: &str) -> Vec<Token> {
    let special = |c: char| matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<');
    let mut tokens = Vec::new();
    let mut rest = text.trim_start_matches([' ', '\t', '\r', '\n']);
    while let Some(first) = rest.chars().next() {
        let (token, length) = match first {
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            ',' => (Token::Comma, 1),
            '>' => (Token::Greater, 1),
            '<' => (Token::Less, 1),
            '!' if rest.starts_with("!=") => (Token::NotEqual, 2),
            '!' => (Token::Not, 1),
            '=' if rest.starts_with("==") => (Token::Equal, 2),
            '=' => (Token::Equal, 1),
            _ => {
                let ends = |c: char| special(c) || matches!(c, ' ' | '\t' | '\r' | '\n');
                let end = rest.find(ends).unwrap_or(rest.len());
                (Token::Word(rest[..end].to_string()), end)
            }
        };
        tokens.push(token);
        rest = rest[length..].trim_start_matches([' ', '\t', '\r', '\n']);
    }
    tokens.push(Token::End);
    tokens
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        // The list ends with `End`, which is never consumed past.
        &self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.at += 1;
        token
    }
}

/// Reads a whole label selector, sorted by key so that equal selectors compare equal.
pub(super) fn requirements(text: &str) -> Result<Vec<Requirement>, String> {
    let mut parser = Parser { tokens: tokens(text), at: 0 };
    let mut found: Vec<Requirement> = Vec::new();
    loop {
        match parser.peek() {
            Token::Word(_) | Token::Not => {}
            Token::End => break,
            other => {
                return Err(format!("found '{}', expected: !, identifier, or 'end of string'", other.text()));
            }
        }
        let one = requirement(&mut parser).map_err(|e| format!("unable to parse requirement: {e}"))?;
        found.push(one);
        if found.len() > MAX_REQUIREMENTS {
            return Err(format!("a selector may have at most {MAX_REQUIREMENTS} requirements"));
        }
        match parser.next() {
            Token::End => break,
            Token::Comma if matches!(parser.peek(), Token::Word(_) | Token::Not) => {}
            Token::Comma => {
                return Err(format!("found '{}', expected: identifier after ','", parser.peek().text()));
            }
            other => {
                return Err(format!("found '{}', expected: ',' or 'end of string'", other.text()));
            }
        }
    }
    found.sort_by(|a, b| a.key().cmp(b.key()));
    Ok(found)
}

fn requirement(parser: &mut Parser) -> Result<Requirement, String> {
    let mut token = parser.next();
    let absent = token == Token::Not;
    if absent {
        token = parser.next();
    }
    let Token::Word(key) = token else {
        return Err(format!("found '{}', expected: identifier", token.text()));
    };
    check_key(&key)?;
    if absent {
        return Ok(Requirement::DoesNotExist(key));
    }
    if matches!(parser.peek(), Token::End | Token::Comma) {
        return Ok(Requirement::Exists(key));
    }
    match parser.next() {
        Token::Equal => Ok(Requirement::In(key.clone(), vec![exact(parser, &key)?])),
        Token::NotEqual => Ok(Requirement::NotIn(key.clone(), vec![exact(parser, &key)?])),
        Token::Greater => Ok(Requirement::Greater(key.clone(), number(parser, &key)?)),
        Token::Less => Ok(Requirement::Less(key.clone(), number(parser, &key)?)),
        Token::Word(word) if word == "in" => Ok(Requirement::In(key.clone(), values(parser, &key)?)),
        Token::Word(word) if word == "notin" => Ok(Requirement::NotIn(key.clone(), values(parser, &key)?)),
        other => Err(format!("found '{}', expected: {OPERATORS}", other.text())),
    }
}

fn exact(parser: &mut Parser, key: &str) -> Result<String, String> {
    if matches!(parser.peek(), Token::End | Token::Comma) {
        return Ok(String::new());
    }
    match parser.next() {
        Token::Word(value) => {
            check_value(key, 0, &value)?;
            Ok(value)
        }
        other => Err(format!("found '{}', expected: identifier", other.text())),
    }
}

fn number(parser: &mut Parser, key: &str) -> Result<i64, String> {
    let text = exact(parser, key)?;
    text.parse().map_err(|_| {
        format!("values[0][{key}]: Invalid value: {text:?}: for 'Gt', 'Lt' operators, the value must be an integer")
    })
}

/// `(a,b,)`: sorted, without repetition; an omitted value is the empty one.
fn values(parser: &mut Parser, key: &str) -> Result<Vec<String>, String> {
    let open = parser.next();
    if open != Token::Open {
        return Err(format!("found '{}' expected: '('", open.text()));
    }
    let mut found = Vec::new();
    let mut pending = true;
    loop {
        match parser.next() {
            Token::Word(value) if pending => {
                check_value(key, found.len(), &value)?;
                found.push(value);
                pending = false;
            }
            Token::Comma => {
                if pending {
                    found.push(String::new());
                }
                pending = true;
            }
            Token::Close => {
                if pending {
                    found.push(String::new());
                }
                break;
            }
            other if pending => {
                return Err(format!("found '{}', expected: ',', or identifier", other.text()));
            }
            other => return Err(format!("found '{}', expected: ',' or ')'", other.text())),
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

fn check_key(key: &str) -> Result<(), String> {
    match names::qualified(key) {
        wrong if wrong.is_empty() => Ok(()),
        wrong => Err(format!("<nil>: Invalid value: {key:?}: {}", wrong.join("; "))),
    }
}

fn check_value(key: &str, index: usize, value: &str) -> Result<(), String> {
    match names::label_value(value) {
        wrong if wrong.is_empty() => Ok(()),
        wrong => Err(format!("values[{index}][{key}]: Invalid value: {value:?}: {}", wrong.join("; "))),
    }
}

/// One item of `matchExpressions`.
pub(super) fn expression(value: &Value) -> Result<Requirement, SelectorError> {
    let fail = |words: String| Err(SelectorError(words));
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
    let (key, operator) = (text("key").to_string(), text("operator"));
    let listed = value.get("values").and_then(Value::as_array);
    let listed: Vec<String> = listed.into_iter().flatten().filter_map(|v| v.as_str().map(String::from)).collect();
    check_key(&key).map_err(SelectorError)?;
    for (index, value) in listed.iter().enumerate() {
        check_value(&key, index, value).map_err(SelectorError)?;
    }
    match operator {
        "In" | "NotIn" if listed.is_empty() => {
            fail("values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty".into())
        }
        "In" => Ok(Requirement::In(key, listed)),
        "NotIn" => Ok(Requirement::NotIn(key, listed)),
        "Exists" | "DoesNotExist" if !listed.is_empty() => {
            fail("values: Invalid value: values set must be empty for exists and does not exist".into())
        }
        "Exists" => Ok(Requirement::Exists(key)),
        "DoesNotExist" => Ok(Requirement::DoesNotExist(key)),
        "Gt" | "Lt" => match listed.as_slice() {
            [one] => match one.parse() {
                Ok(bound) if operator == "Gt" => Ok(Requirement::Greater(key, bound)),
                Ok(bound) => Ok(Requirement::Less(key, bound)),
                Err(_) => fail(format!(
                    "values[0]: Invalid value: {one:?}: for 'Gt', 'Lt' operators, the value must be an integer"
                )),
            },
            _ => fail("values: Invalid value: for 'Gt', 'Lt' operators, exactly one value is required".into()),
        },
        other => fail(format!("{other:?} is not a valid label selector operator")),
    }
}

/// Reads a whole field selector.
pub(super) fn field_terms(text: &str) -> Result<Vec<FieldTerm>, String> {
    let mut terms = Vec::new();
    for part in split_terms(text) {
        if part.is_empty() {
            continue;
        }
        let at = part.find(['=', '!']);
        let (path, negated, value) = match at.map(|at| part.split_at(at)) {
            Some((path, rest)) if rest.starts_with("!=") => (path, true, &rest[2..]),
            Some((path, rest)) if rest.starts_with("==") => (path, false, &rest[2..]),
            Some((path, rest)) if rest.starts_with('=') => (path, false, &rest[1..]),
            _ => {
                return Err(format!("invalid selector: '{text}'; can't understand '{part}'"));
            }
        };
        terms.push(FieldTerm { path: path.to_string(), value: unescape(value)?, negated });
        if terms.len() > MAX_REQUIREMENTS {
            return Err(format!("a selector may have at most {MAX_REQUIREMENTS} terms"));
        }
    }
    Ok(terms)
}

fn split_terms(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn unescape(value: &str) -> Result<String, String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(escaped @ ('\\' | ',' | '=')) => out.push(escaped),
                other => {
                    let other = other.map(String::from).unwrap_or_default();
                    return Err(format!("invalid field selector: invalid escape sequence: \\{other}"));
                }
            },
            ',' | '=' => {
                return Err(format!("invalid field selector: unescaped character in value: {c}"));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}
