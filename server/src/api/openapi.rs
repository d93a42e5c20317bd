//! OpenAPI documents, made anew for each who asks: they are asked for seldom, and kept they would
//! cost more memory than everything else here.

use std::io;

use coracle_shared::api::openapi::{self, Served, Subresource, V2_PROTOBUF};
use coracle_shared::api::status::Status;
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, HeaderValue};

use super::accept::Media;
use super::documents::{Wish, release, tag};
use super::reply::{JSON, Payload, Reply, json, respond, unchanged};
use crate::kinds::{self, Kind};

/// What version 2 in protobuf is answered as: the type that is asked for has an `@`, which Go's
/// clients cannot read in an answer.
const V2_PROTOBUF_ANSWER: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// Every kind as the documents describe it. `parts` are the subresources of each row.
fn served<'a>(parts: &'a [Vec<Subresource<'static>>]) -> Vec<Served<'a>> {
    let rows = kinds::all().iter().zip(parts);
    let row = |(kind, parts): (&'static Kind, &'a Vec<Subresource<'static>>)| Served {
        group: kind.group,
        version: kind.version,
        kind: kind.kind,
        plural: kind.plural,
        namespaced: kind.namespaced,
        verbs: kind.verbs,
        subresources: parts,
    };
    rows.map(row).collect()
}

fn parts() -> Vec<Vec<Subresource<'static>>> {
    let part = |s: &kinds::Subresource| Subresource {
        name: s.name,
        group: s.group,
        version: s.version,
        kind: s.kind,
        verbs: s.verbs,
    };
    kinds::all().iter().map(|kind| kind.subresources.iter().map(part).collect()).collect()
}

/// The documents that are asked for without `Accept` are JSON; an `Accept` of nothing else but
/// what cannot be had is refused.
fn chosen(accept: Option<&str>, other: Option<&'static str>) -> Result<&'static str, Status> {
    let Some(accept) = accept else { return Ok(JSON) };
    let known = Media::parse(accept).into_iter().find_map(|media| match media.kind {
        V2_PROTOBUF | V2_PROTOBUF_ANSWER if other.is_some() => other,
        _ if media.is_json() => Some(JSON),
        _ => None,
    });
    known.ok_or_else(|| Status::not_acceptable(&[JSON]))
}

/// `/openapi/v2`.
pub fn v2(wish: Wish<'_>) -> Result<Reply, Status> {
    let content_type = chosen(wish.accept, Some(V2_PROTOBUF_ANSWER))?;
    let parts = parts();
    let served = served(&parts);
    let release = release();
    let hashes = kinds::group_versions().iter().map(|&(g, v)| openapi::v3_hash(&served, g, v, &release));
    let hash = hashes.fold(u64::from(content_type == JSON), |all, one| all.rotate_left(7) ^ one);
    whole(content_type, hash, wish, |out| match content_type {
        JSON => openapi::v2_json(&served, &release, out),
        _ => openapi::v2_protobuf(&served, &release, out),
    })
}

/// `/openapi/v3` and the documents below it.
pub fn v3(of: Option<(&str, &str)>, wish: Wish<'_>) -> Result<Reply, Status> {
    let content_type = chosen(wish.accept, None)?;
    let parts = parts();
    let served = served(&parts);
    let release = release();
    let Some((group, version)) = of else {
        let mut out = Vec::new();
        openapi::v3_index(&served, &release, &mut out).map_err(Status::internal)?;
        return Ok(json(StatusCode::OK, out));
    };
    let hash = openapi::v3_hash(&served, group, version, &release);
    whole(content_type, hash, wish, |out| openapi::v3_document(&served, group, version, &release, out).map(|_| ()))
}

fn whole(
    content_type: &'static str,
    hash: u64,
    wish: Wish<'_>,
    write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>,
) -> Result<Reply, Status> {
    let etag = format!("\"{hash:016X}\"");
    let mut reply = match wish.if_none_match == Some(&*etag) {
        true => unchanged(),
        false => {
            let mut out = Vec::new();
            write(&mut out).map_err(Status::internal)?;
            respond(StatusCode::OK, content_type, Payload::Whole(out.into()))
        }
    };
    tag(&mut reply, &etag);
    reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    Ok(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unchanged_document_is_not_sent_again() {
        let first = v3(Some(("apps", "v1")), Wish::default()).expect("a document");
        let etag = first.headers()["etag"].to_str().expect("text").to_owned();
        let again = v3(Some(("apps", "v1")), Wish { accept: None, if_none_match: Some(&etag) }).expect("an answer");
        assert_eq!((first.status(), again.status()), (StatusCode::OK, StatusCode::NOT_MODIFIED));
    }

    #[test]
    fn version_2_is_protobuf_for_those_who_ask() {
        let reply = v2(Wish { accept: Some(V2_PROTOBUF), if_none_match: None }).expect("a document");
        assert_eq!(reply.headers()["content-type"], V2_PROTOBUF_ANSWER);
        let reply = v2(Wish { accept: Some("application/json, */*"), if_none_match: None }).expect("a document");
        assert_eq!(reply.headers()["content-type"], JSON);
        let refused = v3(
            None,
            Wish { accept: Some("application/com.github.proto-openapi.spec.v3@v1.0+protobuf"), if_none_match: None },
        );
        assert_eq!(refused.err().map(|s| s.code), Some(406));
    }
}
