//! Content negotiation: what form of an answer a client asks for.

use coracle_shared::api::status::Status;

/// The form of an object or list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Object,
    /// meta.k8s.io Table of this version: what `kubectl get` prints.
    Table(&'static str),
    /// meta.k8s.io PartialObjectMetadata of this version.
    Metadata(&'static str),
}

/// One alternative of an `Accept` header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Media<'a> {
    /// `type/subtype`.
    pub kind: &'a str,
    params: Vec<(&'a str, &'a str)>,
}

/// Alternatives that are looked at; a client lists its best first.
const MAX_ALTERNATIVES: usize = 16;

impl<'a> Media<'a> {
    /// The value of a parameter.
    pub fn param(&self, name: &str) -> Option<&'a str> {
        self.params.iter().find(|(n, _)| *n == name).map(|(_, v)| *v)
    }

    pub fn is_json(&self) -> bool {
        matches!(self.kind, "application/json" | "application/*" | "*/*")
    }

    /// The alternatives of a header, as the client orders them.
    pub fn parse(accept: &'a str) -> Vec<Media<'a>> {
        let alternatives = accept.split(',').map(str::trim).filter(|a| !a.is_empty());
        alternatives
            .take(MAX_ALTERNATIVES)
            .map(|alternative| {
                let mut parts = alternative.split(';').map(str::trim);
                let kind = parts.next().unwrap_or_default();
                let params = parts.filter_map(|p| p.split_once('=')).map(|(n, v)| (n.trim(), v.trim())).collect();
                Media { kind, params }
            })
            .collect()
    }
}

const SUPPORTED: &[&str] = &["application/json", "application/json;as=Table;g=meta.k8s.io;v=v1"];

/// The form of an answer that has objects. No header asks for JSON.
pub fn form(accept: Option<&str>) -> Result<Form, Status> {
    let Some(accept) = accept.filter(|a| !a.trim().is_empty()) else { return Ok(Form::Object) };
    let alternatives = Media::parse(accept);
    alternatives.iter().find_map(one_form).ok_or_else(|| Status::not_acceptable(SUPPORTED))
}

fn one_form(media: &Media<'_>) -> Option<Form> {
    if !media.is_json() {
        return None;
    }
    let version = match media.param("v") {
        Some("v1beta1") => "v1beta1",
        Some("v1") | None => "v1",
        Some(_) => return None,
    };
    match media.param("as") {
        None => Some(Form::Object),
        Some("Table") => Some(Form::Table(version)),
        Some("PartialObjectMetadata" | "PartialObjectMetadataList") => Some(Form::Metadata(version)),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(accept: &str, expect: Option<Form>) {
        assert_eq!(form(Some(accept)).ok(), expect, "{accept}");
    }

    #[test]
    fn the_first_form_that_is_known_is_taken() {
        check("application/json, */*", Some(Form::Object));
        check("*/*", Some(Form::Object));
        check("application/vnd.kubernetes.protobuf,application/json", Some(Form::Object));
        check(
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
            Some(Form::Table("v1")),
        );
        check("application/json;as=Table;v=v1beta1;g=meta.k8s.io", Some(Form::Table("v1beta1")));
        check("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", Some(Form::Metadata("v1")));
        check("application/vnd.kubernetes.protobuf", None);
        check("text/html", None);
        assert_eq!(form(None).ok(), Some(Form::Object));
        assert_eq!(form(Some("a")).expect_err("unknown").code, 406);
    }
}
