//! `pods/log`: the text of a container's log.

use coracle_shared::api::status::Status;
use coracle_shared::api::time::Time;
use futures_lite::{AsyncReadExt as _, stream};
use hyper::StatusCode;
use hyper::body::Bytes;
use serde_json::Value;

use super::{ContainerRef, LogReader, LogRequest, StreamError};
use crate::api::query::Query;
use crate::api::reply::{Cut, Payload, Reply, respond};
use crate::api::route::Target;
use crate::api::{Api, list, object};
use crate::kinds::View;

/// Bytes of a log that are read at a time.
const PIECE: usize = 16 << 10;

impl Api {
    /// Answers a request for a log.
    pub async fn logs(&self, target: &Target, query: &Query) -> Result<Reply, Status> {
        let pod = object::of_item(target.kind, &list::find(&*self.store, target)?);
        let now = (self.config.clock)();
        let request = request(&pod, query, now)?;
        has_log(&pod, &request)?;
        let node = node_of(&pod)?;
        let reader = self.nodes.open_logs(&node, request).await.map_err(refusal)?;
        Ok(respond(
            StatusCode::OK,
            "text/plain; charset=utf-8",
            Payload::Stream(Box::pin(stream::unfold(Some(reader), |reader| async move { read(reader?).await }))),
        ))
    }
}

async fn read(mut reader: LogReader) -> Option<(Result<Bytes, Cut>, Option<LogReader>)> {
    let mut piece = vec![0; PIECE];
    match reader.read(&mut piece).await {
        Ok(0) => None,
        Ok(length) => {
            piece.truncate(length);
            Some((Ok(piece.into()), Some(reader)))
        }
        Err(_) => Some((Err(Cut), None)),
    }
}

/// The node that a pod is bound to.
pub fn node_of(pod: &Value) -> Result<String, Status> {
    let view = View(pod);
    match view.text(&["spec", "nodeName"]) {
        "" => {
            Err(Status::bad_request(format!("pod {} does not have a host assigned", view.text(&["metadata", "name"]))))
        }
        node => Ok(node.to_owned()),
    }
}

/// Which container is meant: the one named, the one annotated as default, or the only one.
pub fn container_of(pod: &Value, asked: Option<&str>, annotated: bool) -> Result<ContainerRef, Status> {
    let view = View(pod);
    let names =
        |field: &str| -> Vec<&str> { view.list(&["spec", field]).iter().map(|c| View(c).text(&["name"])).collect() };
    let (containers, init) = (names("containers"), names("initContainers"));
    let default = view
        .pairs(&["metadata", "annotations"])
        .find(|(key, _)| annotated && *key == "kubectl.kubernetes.io/default-container")
        .map(|(_, name)| name);
    let pod_name = view.text(&["metadata", "name"]);
    let name = match (asked.or(default), containers.as_slice()) {
        (Some(name), _) => name,
        (None, [only]) => only,
        (None, several) => {
            let mut words = format!(
                "a container name must be specified for pod {pod_name}, choose one of: [{}]",
                several.join(" ")
            );
            if !init.is_empty() {
                words.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            return Err(Status::bad_request(words));
        }
    };
    if !containers.contains(&name) && !init.contains(&name) {
        return Err(Status::bad_request(format!("container {name} is not valid for pod {pod_name}")));
    }
    Ok(ContainerRef {
        namespace: view.text(&["metadata", "namespace"]).to_owned(),
        pod: pod_name.to_owned(),
        uid: view.text(&["metadata", "uid"]).to_owned(),
        container: name.to_owned(),
    })
}

fn request(pod: &Value, query: &Query, now: i64) -> Result<LogRequest, Status> {
    let seconds = query.number::<u32>("sinceSeconds")?;
    let time = match query.get("sinceTime") {
        None => None,
        Some(text) => {
            let wrong = || Status::bad_request(format!("parameter sinceTime: {text:?} is not a time in RFC 3339"));
            let time = Time::parse(text).ok_or_else(wrong)?;
            Some(time.seconds * 1000 + i64::from(time.nanos / 1_000_000))
        }
    };
    if seconds.is_some() && time.is_some() {
        return Err(Status::bad_request("at most one of `sinceTime` or `sinceSeconds` may be specified"));
    }
    Ok(LogRequest {
        container: container_of(pod, query.get("container"), true)?,
        follow: query.flag("follow")?,
        previous: query.flag("previous")?,
        tail_lines: query.number("tailLines")?,
        since: time.or(seconds.map(|s| now - i64::from(s) * 1000)),
        timestamps: query.flag("timestamps")?,
        limit_bytes: query.number("limitBytes")?.filter(|l| *l > 0),
    })
}

/// What is known without asking the node: a container that never ran has no log.
fn has_log(pod: &Value, request: &LogRequest) -> Result<(), Status> {
    let (container, pod_name) = (&request.container.container, &request.container.pod);
    let view = View(pod);
    let statuses =
        view.list(&["status", "containerStatuses"]).iter().chain(view.list(&["status", "initContainerStatuses"]));
    let Some(status) = statuses.map(View).find(|s| s.text(&["name"]) == container) else { return Ok(()) };
    let ran_before = status.has(&["lastState", "terminated"]);
    if request.previous && !ran_before {
        return Err(Status::bad_request(format!(
            "previous terminated container {container:?} in pod {pod_name:?} not found"
        )));
    }
    let waiting = status.text(&["state", "waiting", "reason"]);
    if !waiting.is_empty() && !ran_before {
        let mut words = format!("container {container:?} in pod {pod_name:?} is waiting to start: {waiting}");
        if waiting == "ErrImagePull" || waiting == "ImagePullBackOff" {
            words = format!(
                "container {container:?} in pod {pod_name:?} is waiting to start: {}",
                if waiting == "ErrImagePull" { "image can't be pulled" } else { "trying and failing to pull image" }
            );
        }
        return Err(Status::bad_request(words));
    }
    Ok(())
}

/// Why a stream could not be had, as a client is told.
pub fn refusal(error: StreamError) -> Status {
    match error {
        StreamError::NodeAway { node } => Status::unavailable(format!("node {node:?} is not connected to this server")),
        StreamError::NotFound(why) | StreamError::Refused(why) => Status::bad_request(why),
        StreamError::Lost(why) => Status::unavailable(format!("the connection to the node was lost: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Value {
        json!({"metadata": {"name": "p", "namespace": "a", "uid": "u"},
            "spec": {"nodeName": "n", "containers": [{"name": "x"}, {"name": "y"}]},
            "status": {"containerStatuses": [{"name": "y", "state": {"waiting": {"reason": "ContainerCreating"}}}]}})
    }

    #[track_caller]
    fn check(pod: &Value, query: &str, expect: Result<LogRequest, &str>) {
        let made = request(pod, &Query::parse(query), 10_000).and_then(|r| has_log(pod, &r).map(|()| r));
        assert_eq!(made.map_err(|s| s.message), expect.map_err(str::to_owned));
    }

    fn of(container: &str) -> LogRequest {
        let (namespace, pod, uid) = ("a".into(), "p".into(), "u".into());
        let container = ContainerRef { namespace, pod, uid, container: container.into() };
        LogRequest { container, ..LogRequest::default() }
    }

    #[test]
    fn a_log_is_asked_for_by_its_parameters() {
        let query = "container=x&follow=true&tailLines=5&sinceSeconds=4&timestamps=true&limitBytes=9&previous=false";
        let expect = LogRequest {
            follow: true,
            tail_lines: Some(5),
            since: Some(6000),
            timestamps: true,
            limit_bytes: Some(9),
            ..of("x")
        };
        check(&pod(), query, Ok(expect));
        let since = LogRequest { since: Some(1500), ..of("x") };
        check(&pod(), "container=x&sinceTime=1970-01-01T00:00:01.5Z", Ok(since));
    }

    #[test]
    fn which_container_is_in_the_words_people_search_for() {
        check(&pod(), "", Err("a container name must be specified for pod p, choose one of: [x y]"));
        check(&pod(), "container=z", Err("container z is not valid for pod p"));
        let mut annotated = pod();
        annotated["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/default-container": "x"});
        check(&annotated, "", Ok(of("x")));
    }

    #[test]
    fn a_container_that_never_ran_has_no_log() {
        let words = "container \"y\" in pod \"p\" is waiting to start: ContainerCreating";
        check(&pod(), "container=y", Err(words));
        let words = "previous terminated container \"y\" in pod \"p\" not found";
        check(&pod(), "container=y&previous=true", Err(words));
        let mut again = pod();
        again["status"]["containerStatuses"][0]["lastState"] = json!({"terminated": {"exitCode": 1}});
        check(&again, "container=y&previous=true", Ok(LogRequest { previous: true, ..of("y") }));
    }
}
