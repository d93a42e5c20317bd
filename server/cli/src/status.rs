//! `coracle status`: one screen, server, nodes, pods, and what is wrong.

use argh::FromArgs;
use serde_json::{Value, json};

use crate::client::Client;
use crate::error::Error;
use crate::output::{self, Format};

/// One screen: the server, nodes, pods, and what is wrong. Exits 1 when something is.
#[derive(FromArgs)]
#[argh(subcommand, name = "status")]
pub struct Status {
    /// output format: json or yaml
    #[argh(option, short = 'o')]
    output: Option<String>,
}

/// How many troubles are named one by one; the rest is a number.
const NAMED_TROUBLES: usize = 20;

impl Status {
    pub fn run(self, client: &Client) -> Result<(), Error> {
        let format = Format::parse(self.output.as_deref())?;
        let version = client.get("/version")?;
        let nodes = client.get("/api/v1/nodes")?;
        let pods = client.get("/api/v1/pods")?;
        let summary = summarize(&client.config.server, &version, &nodes, &pods);
        match format {
            Format::Json => output::print(&output::json(&summary))?,
            Format::Yaml => output::print(&output::yaml(&summary)?)?,
            _ => output::print(&screen(&summary))?,
        }
        let troubles = summary["wrong"].as_array().map_or(0, Vec::len);
        if troubles == 0 { Ok(()) } else { Err(Error::Troubles(troubles)) }
    }
}

fn items(list: &Value) -> &[Value] {
    list["items"].as_array().map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == kind)
}

fn summarize(server: &str, version: &Value, nodes: &Value, pods: &Value) -> Value {
    let mut wrong = Vec::new();
    let nodes: Vec<Value> = items(nodes).iter().map(|node| node_row(node, items(pods), &mut wrong)).collect();
    let mut phases = serde_json::Map::new();
    for pod in items(pods) {
        let phase = Some(text(pod, "/status/phase")).filter(|p| !p.is_empty()).unwrap_or("Pending");
        let count = phases.get(phase).and_then(Value::as_u64).unwrap_or(0) + 1;
        phases.insert(phase.to_owned(), count.into());
        wrong.extend(pod_trouble(pod));
    }
    json!({
        "server": {"address": server, "version": version["gitVersion"]},
        "nodes": nodes, "pods": phases, "wrong": wrong,
    })
}

fn node_row(node: &Value, pods: &[Value], wrong: &mut Vec<Value>) -> Value {
    let name = text(node, "/metadata/name");
    let ready = condition(node, "Ready");
    let state = match ready.map(|c| text(c, "/status")) {
        Some("True") => "Ready",
        Some("False") => "NotReady",
        _ => "Unknown",
    };
    if state != "Ready" {
        let (reason, message) = ready.map_or(("", ""), |c| (text(c, "/reason"), text(c, "/message")));
        wrong.push(format!("node {name} is {state}: {reason} {message}").trim().into());
    }
    for c in node["status"]["conditions"].as_array().into_iter().flatten() {
        if c["type"] != "Ready" && c["status"] == "True" {
            wrong.push(
                format!("node {name}: {} ({}) {}", text(c, "/type"), text(c, "/reason"), text(c, "/message"))
                    .trim_end()
                    .into(),
            );
        }
    }
    let running =
        pods.iter().filter(|p| text(p, "/spec/nodeName") == name && text(p, "/status/phase") == "Running").count();
    json!({
        "name": name, "state": state, "running": running,
        "architecture": node["status"]["nodeInfo"]["architecture"],
        "address": node["status"]["addresses"][0]["address"],
        "schedulable": node["spec"]["unschedulable"] != true,
    })
}

/// Why a pod is not as it should be, if it is not.
fn pod_trouble(pod: &Value) -> Option<Value> {
    let name = format!("pod {}/{}", text(pod, "/metadata/namespace"), text(pod, "/metadata/name"));
    let phase = text(pod, "/status/phase");
    if phase == "Failed" {
        return Some(
            format!("{name} failed: {} {}", text(pod, "/status/reason"), text(pod, "/status/message"))
                .trim_end()
                .into(),
        );
    }
    if let Some(c) = condition(pod, "PodScheduled").filter(|c| c["status"] == "False") {
        return Some(format!("{name} waits for a node: {}", text(c, "/message")).into());
    }
    let waiting = ["initContainerStatuses", "containerStatuses"]
        .iter()
        .flat_map(|list| pod["status"][list].as_array().into_iter().flatten())
        .find(|c| !matches!(text(c, "/state/waiting/reason"), "" | "ContainerCreating" | "PodInitializing"))?;
    let (reason, message) = (text(waiting, "/state/waiting/reason"), text(waiting, "/state/waiting/message"));
    Some(format!("{name}, container {}: {reason}: {message}", text(waiting, "/name")).into())
}

fn screen(summary: &Value) -> String {
    let mut text_out =
        format!("server  {}  {}\n\n", text(summary, "/server/address"), text(summary, "/server/version"));
    let mut rows = vec![["NODE", "STATE", "ADDRESS", "ARCH", "PODS"].map(str::to_owned).to_vec()];
    for node in summary["nodes"].as_array().into_iter().flatten() {
        let state = if node["schedulable"] == true {
            text(node, "/state").to_owned()
        } else {
            format!("{}, cordoned", text(node, "/state"))
        };
        rows.push(vec![
            text(node, "/name").into(),
            state,
            text(node, "/address").into(),
            text(node, "/architecture").into(),
            node["running"].to_string(),
        ]);
    }
    text_out.push_str(&if rows.len() > 1 {
        output::columns_of(&rows)
    } else {
        "no nodes yet: coracle token create prints what an agent needs to join\n".into()
    });
    let phases: Vec<String> =
        summary["pods"].as_object().into_iter().flatten().map(|(phase, count)| format!("{count} {phase}")).collect();
    text_out.push_str(&format!("\npods    {}\n", if phases.is_empty() { "none".into() } else { phases.join(", ") }));
    let wrong = summary["wrong"].as_array().map_or(&[][..], Vec::as_slice);
    if wrong.is_empty() {
        text_out.push_str("\nnothing is wrong\n");
    } else {
        text_out.push_str("\nwrong:\n");
        for line in wrong.iter().take(NAMED_TROUBLES) {
            text_out.push_str(&format!("  {}\n", line.as_str().unwrap_or_default()));
        }
        if wrong.len() > NAMED_TROUBLES {
            text_out.push_str(&format!("  and {} more\n", wrong.len() - NAMED_TROUBLES));
        }
    }
    text_out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn troubles_are_named() {
        let nodes = json!({"items": [
            {"metadata": {"name": "a"}, "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "DiskPressure", "status": "True", "reason": "Low"}]}},
            {"metadata": {"name": "b"}, "spec": {"unschedulable": true}, "status": {"conditions": [{"type": "Ready", "status": "Unknown", "reason": "Silent"}]}}]});
        let pods = json!({"items": [
            {"metadata": {"namespace": "d", "name": "p"}, "spec": {"nodeName": "a"}, "status": {"phase": "Running"}},
            {"metadata": {"namespace": "d", "name": "q"}, "status": {"phase": "Pending", "containerStatuses": [
                {"name": "c", "state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}]}}]});
        let summary = summarize("https://h", &json!({"gitVersion": "v1"}), &nodes, &pods);
        assert_eq!(
            summary["wrong"],
            json!([
                "node a: DiskPressure (Low)",
                "node b is Unknown: Silent",
                "pod d/q, container c: ErrImagePull: not found"
            ])
        );
        let screen = screen(&summary);
        assert!(screen.contains("1 Pending, 1 Running"), "{screen}");
        assert!(screen.contains("Unknown, cordoned"), "{screen}");
    }
}
