//! What is printed: tables, JSON, YAML, names.

use std::io::{self, Write};

use serde_json::Value;

use crate::error::Error;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Table,
    Wide,
    Json,
    Yaml,
    Name,
}

impl Format {
    pub fn parse(text: Option<&str>) -> Result<Format, Error> {
        match text {
            None => Ok(Format::Table),
            Some("wide") => Ok(Format::Wide),
            Some("json") => Ok(Format::Json),
            Some("yaml") => Ok(Format::Yaml),
            Some("name") => Ok(Format::Name),
            Some(other) => Err(Error::Usage(format!("output format {other:?}: there are json, yaml, wide and name"))),
        }
    }
}

/// Prints, and ends quietly when the reader has gone (`coracle get pods | head`).
pub fn print(text: &str) -> Result<(), Error> {
    write(text.as_bytes())
}

pub fn write(bytes: &[u8]) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|_| Error::Closed)
}

pub fn json(value: &Value) -> String {
    format!("{value:#}\n")
}

pub fn yaml(value: &Value) -> Result<String, Error> {
    serde_yaml_ng::to_string(value).map_err(|e| Error::Unreachable(format!("the answer has no YAML form: {e}")))
}

/// Lays out a `meta.k8s.io/v1 Table`: columns of priority 0, or all with `wide`.
pub fn table(table: &Value, wide: bool, with_namespace: bool, with_header: bool) -> String {
    let empty = Vec::new();
    let columns = table["columnDefinitions"].as_array().unwrap_or(&empty);
    let shown: Vec<usize> =
        (0..columns.len()).filter(|&i| wide || columns[i]["priority"].as_i64().unwrap_or(0) == 0).collect();
    let mut rows = Vec::new();
    if with_header {
        let mut header: Vec<String> =
            shown.iter().map(|&i| columns[i]["name"].as_str().unwrap_or_default().to_uppercase()).collect();
        if with_namespace {
            header.insert(0, "NAMESPACE".into());
        }
        rows.push(header);
    }
    for row in table["rows"].as_array().unwrap_or(&empty) {
        let mut cells: Vec<String> = shown.iter().map(|&i| cell(&row["cells"][i])).collect();
        if with_namespace {
            cells.insert(0, cell(&row["object"]["metadata"]["namespace"]));
        }
        rows.push(cells);
    }
    columns_of(&rows)
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Columns three spaces apart, as wide as their widest cell.
pub fn columns_of(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count)
        .map(|i| rows.iter().filter_map(|r| r.get(i)).map(|c| c.chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}   "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tables() {
        let t = json!({"columnDefinitions": [{"name": "Name"}, {"name": "IP", "priority": 1}, {"name": "Age"}],
            "rows": [{"cells": ["a-long-name", "10.0.0.1", "5m"], "object": {"metadata": {"namespace": "ns"}}},
                     {"cells": ["b", null, 3], "object": {"metadata": {"namespace": "default"}}}]});
        assert_eq!(table(&t, false, false, true), "NAME          AGE\na-long-name   5m\nb             3\n");
        assert_eq!(table(&t, true, false, false), "a-long-name   10.0.0.1   5m\nb                        3\n");
        assert_eq!(
            table(&t, false, true, true),
            "NAMESPACE   NAME          AGE\nns          a-long-name   5m\ndefault     b             3\n"
        );
    }
}
