//! The shapes of names. Each check returns what is wrong, in upstream's words; empty: nothing.

/// The longest DNS label (RFC 1123).
pub const LABEL_MAX: usize = 63;
/// The longest DNS name (RFC 1123).
pub const SUBDOMAIN_MAX: usize = 253;
/// The longest name of a port (RFC 6335).
pub const PORT_NAME_MAX: usize = 15;

const DNS1123_LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const DNS1123_SUBDOMAIN: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const DNS1035_LABEL: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const LABEL_KEY: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const LABEL_KEY_WORDS: &str =
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";

/// `my-name`: the names of most things that become a part of a DNS name.
pub fn dns1123_label(value: &str) -> Vec<String> {
    let mut wrong = too_long(value, LABEL_MAX);
    if !is_label(value) {
        wrong.push(if is_subdomain(value) {
            "must not contain dots".into()
        } else {
            shape(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
                DNS1123_LABEL,
                &["my-name", "123-abc"],
            )
        });
    }
    wrong
}

/// `example.com`: the names of most objects.
pub fn dns1123_subdomain(value: &str) -> Vec<String> {
    let mut wrong = too_long(value, SUBDOMAIN_MAX);
    if !is_subdomain(value) {
        wrong.push(shape(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
            DNS1123_SUBDOMAIN,
            &["example.com"],
        ));
    }
    wrong
}

/// `abc-123`: like a label, but starting with a letter (services).
pub fn dns1035_label(value: &str) -> Vec<String> {
    let mut wrong = too_long(value, LABEL_MAX);
    if !is_label(value) || !value.starts_with(|c: char| c.is_ascii_lowercase()) {
        wrong.push(shape(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
            DNS1035_LABEL,
            &["my-name", "abc-123"],
        ));
    }
    wrong
}

/// `example.com/MyName`: label keys, annotation keys, finalizers, resource names.
pub fn qualified(value: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut parts = value.split('/');
    let name = match (parts.next(), parts.next(), parts.next()) {
        (Some(name), None, _) => name,
        (Some(""), Some(name), None) => {
            wrong.push("prefix part must be non-empty".into());
            name
        }
        (Some(prefix), Some(name), None) => {
            let prefixed = dns1123_subdomain(prefix);
            wrong.extend(prefixed.iter().map(|w| format!("prefix part {w}")));
            name
        }
        _ => {
            let shape = shape(LABEL_KEY_WORDS, LABEL_KEY, &["MyName", "my.name", "123-abc"]);
            return vec![format!(
                "a valid label key {shape} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        wrong.push("name part must be non-empty".into());
    } else {
        wrong.extend(too_long(name, LABEL_MAX).iter().map(|w| format!("name part {w}")));
    }
    if !is_label_key(name) {
        let shape = shape(LABEL_KEY_WORDS, LABEL_KEY, &["MyName", "my.name", "123-abc"]);
        wrong.push(format!("name part {shape}"));
    }
    wrong
}

/// The value of a label.
pub fn label_value(value: &str) -> Vec<String> {
    let mut wrong = too_long(value, LABEL_MAX);
    if !value.is_empty() && !is_label_key(value) {
        wrong.push(shape(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?",
            &["MyValue", "my_value", "12345"],
        ));
    }
    wrong
}

/// The name of an environment variable: printable ASCII without `=`.
pub fn env_name(value: &str) -> Vec<String> {
    if value.is_empty() {
        return vec!["environment variable name must be non-empty".into()];
    }
    let printable = |b: u8| (b' '..=b'~').contains(&b) && b != b'=';
    match value.bytes().all(printable) {
        true => Vec::new(),
        false => vec![
            "a valid environment variable name must consist only of printable ASCII characters other than '='".into(),
        ],
    }
}

/// A key of a ConfigMap or Secret: a file name.
pub fn config_key(value: &str) -> Vec<String> {
    let mut wrong = too_long(value, SUBDOMAIN_MAX);
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if value.is_empty() || !value.bytes().all(allowed) {
        wrong.push(shape(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    match value {
        "." => wrong.push("must not be '.'".into()),
        ".." => wrong.push("must not be '..'".into()),
        v if v.starts_with("..") => wrong.push("must not start with '..'".into()),
        _ => {}
    }
    wrong
}

/// The name of a container's port (RFC 6335, lower case).
pub fn port_name(value: &str) -> Vec<String> {
    let mut wrong: Vec<String> = Vec::new();
    if value.len() > PORT_NAME_MAX {
        wrong.push(format!("must be no more than {PORT_NAME_MAX} characters"));
    }
    let charset = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if value.is_empty() || !value.bytes().all(charset) {
        wrong.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !value.bytes().any(|b| b.is_ascii_lowercase()) {
        wrong.push("must contain at least one letter (a-z)".into());
    }
    if value.contains("--") {
        wrong.push("must not contain consecutive hyphens".into());
    }
    if value.starts_with('-') || value.ends_with('-') {
        wrong.push("must not begin or end with a hyphen".into());
    }
    wrong
}

/// `value` lies in 1 to 65535.
pub fn port_number(value: i64) -> Vec<String> {
    in_range(value, 1, 65535)
}

/// `value` lies between `low` and `high`, both included.
pub fn in_range(value: i64, low: i64, high: i64) -> Vec<String> {
    match (low..=high).contains(&value) {
        true => Vec::new(),
        false => vec![format!("must be between {low} and {high}, inclusive")],
    }
}

/// A path segment of the API: anything but what would change the path's meaning.
pub fn path_segment(value: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if value == "." || value == ".." {
        wrong.push(format!("may not be '{value}'"));
    }
    for part in ["/", "%"] {
        if value.contains(part) {
            wrong.push(format!("may not contain '{part}'"));
        }
    }
    wrong
}

fn is_label(value: &str) -> bool {
    let bytes = value.as_bytes();
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    bytes.first().is_some_and(|&b| alphanumeric(b))
        && bytes.last().is_some_and(|&b| alphanumeric(b))
        && bytes.iter().all(|&b| alphanumeric(b) || b == b'-')
}

fn is_subdomain(value: &str) -> bool {
    value.split('.').all(is_label)
}

fn is_label_key(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|&b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn too_long(value: &str, limit: usize) -> Vec<String> {
    match value.len() > limit {
        true => vec![format!("must be no more than {limit} bytes")],
        false => Vec::new(),
    }
}

fn shape(words: &str, regex: &str, examples: &[&str]) -> String {
    let examples: Vec<String> = examples.iter().map(|e| format!("'{e}', ")).collect();
    format!("{words} (e.g. {}regex used for validation is '{regex}')", examples.join("or "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(of: fn(&str) -> Vec<String>, good: &[&str], bad: &[&str]) {
        for value in good {
            assert_eq!(of(value), Vec::<String>::new(), "{value:?}");
        }
        for value in bad {
            assert!(!of(value).is_empty(), "{value:?}");
        }
    }

    #[test]
    fn shapes() {
        let long = "a".repeat(64);
        let label_bad = ["", "A", "a_b", "-a", "a-", ".", "a.b", "a b", &long];
        check(dns1123_label, &["a", "0", "a-1--b", &long[1..]], &label_bad);
        check(dns1123_subdomain, &["a.b", "0.1", &long], &["", "a..b", ".a", "A.b", "a_b", "é"]);
        check(dns1035_label, &["a", "a-1"], &["1a", "", "a-", "a.b"]);
        check(
            qualified,
            &["a", "A_b.c", "example.com/MyName", "1.2/x"],
            &["", "/a", "a/", "a/b/c", "-a", "Example.com/a", &long],
        );
        check(label_value, &["", "a", "A_b.c"], &["-a", "a b", &long]);
        check(env_name, &["A", "a b", "1", "x.y-z"], &["", "a=b", "é", "a\n"]);
        check(config_key, &["a", ".a", "A_b-c.d"], &["", ".", "..", "..a", "a/b", "a b"]);
        check(port_name, &["http", "a1", "1a"], &["", "1", "A", "a--b", "-a", "a-", "abcdefghijklmnop"]);
        check(path_segment, &["a", "a:b"], &[".", "..", "a/b", "a%b"]);
    }

    #[test]
    fn words_are_upstreams() {
        assert_eq!(
            dns1123_label("A"),
            [
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name', or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert_eq!(dns1123_label("a.b"), ["must not contain dots"]);
        assert_eq!(port_number(0), ["must be between 1 and 65535, inclusive"]);
    }
}
