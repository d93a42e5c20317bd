//! Tables: what `kubectl get` prints, made on the server.

use coracle_shared::api::status::Status;
use serde_json::{Value, json};

use crate::kinds::{Column, Kind, Moment, View};

/// What of the object travels in each row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Include {
    None,
    Metadata,
    Object,
}

impl Include {
    pub fn parse(text: Option<&str>) -> Result<Include, Status> {
        match text {
            None | Some("Metadata") => Ok(Include::Metadata),
            Some("None") => Ok(Include::None),
            Some("Object") => Ok(Include::Object),
            Some(other) => Err(Status::bad_request(format!(
                "parameter includeObject: {other:?} is none of \"None\", \"Metadata\", \"Object\""
            ))),
        }
    }
}

/// The metadata of an object as an object of its own.
pub fn partial(object: &Value, version: &str) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": object["metadata"]})
}

/// `columnDefinitions`.
pub fn columns(columns: &[Column]) -> Value {
    let column = |c: &Column| {
        json!({"name": c.name, "type": c.kind, "format": c.format, "description": c.description,
            "priority": c.priority})
    };
    columns.iter().map(column).collect()
}

/// One row.
pub fn row(kind: &Kind, object: Value, include: Include, version: &str, moment: &Moment) -> Value {
    let cells = (kind.cells)(&View(&object), moment);
    match include {
        Include::None => json!({"cells": cells}),
        Include::Metadata => json!({"cells": cells, "object": partial(&object, version)}),
        Include::Object => json!({"cells": cells, "object": object}),
    }
}

/// A whole Table of ready rows.
pub fn table(version: &str, metadata: Value, columns: Value, rows: Vec<Value>) -> Value {
    json!({"kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": metadata,
        "columnDefinitions": columns, "rows": rows})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;

    #[test]
    fn a_row_holds_what_was_asked_for() {
        let kind = kinds::by_resource("configmaps").expect("known");
        let object = json!({"metadata": {"name": "a"}, "data": {"x": "y"}});
        let row = |include| super::row(kind, object.clone(), include, "v1", &Moment { now: 0 });
        assert_eq!(row(Include::None), json!({"cells": ["a", "1", "<unknown>"]}));
        assert_eq!(row(Include::Metadata)["object"]["kind"], "PartialObjectMetadata");
        assert_eq!(row(Include::Object)["object"]["data"]["x"], "y");
    }
}
