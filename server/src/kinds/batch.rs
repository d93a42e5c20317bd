//! Job and CronJob.

use serde_json::{Value, json};

use super::cluster::{AGE, NAME, created, durable, name, nothing_to_update, plain};
use super::human::{age, duration, millis};
use super::workload::{CONTAINERS, IMAGES, SELECTOR, joined};
use super::{Column, Moment, Rules, View, selector};

pub(super) const JOB_COLUMNS: &[Column] = &[
    NAME,
    plain("Status", "How the job stands."),
    plain("Completions", "The number of pods that succeeded out of those that shall."),
    plain("Duration", "From the start to the end, or until now."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) fn job_cells(view: &View<'_>, moment: &Moment) -> Vec<Value> {
    let succeeded = view.number(&["status", "succeeded"]);
    let completions = match view.at(&["spec", "completions"]).as_i64() {
        Some(wanted) => format!("{succeeded}/{wanted}"),
        None => match view.number(&["spec", "parallelism"]) {
            parallel @ 2.. => format!("{succeeded}/1 of {parallel}"),
            _ => format!("{succeeded}/1"),
        },
    };
    let start = millis(view.text(&["status", "startTime"]));
    let end = millis(view.text(&["status", "completionTime"])).unwrap_or(moment.now);
    let [containers, images] = joined(view.list(&["spec", "template", "spec", "containers"]));
    vec![
        name(view),
        job_status(view).into(),
        completions.into(),
        start.map(|start| duration(end - start)).unwrap_or_default().into(),
        created(view, moment),
        containers,
        images,
        selector(view.at(&["spec", "selector"])).into(),
    ]
}

fn job_status(view: &View<'_>) -> &'static str {
    for (condition, word) in [("Complete", "Complete"), ("Failed", "Failed")] {
        if view.is_true(condition) {
            return word;
        }
    }
    if view.has(&["metadata", "deletionTimestamp"]) {
        return "Terminating";
    }
    for condition in ["Suspended", "FailureTarget", "SuccessCriteriaMet"] {
        if view.is_true(condition) {
            return condition;
        }
    }
    "Running"
}

pub(super) const CRON_JOB_COLUMNS: &[Column] = &[
    NAME,
    plain("Schedule", "When it runs, in the notation of cron."),
    plain("Timezone", "Whose clock the schedule follows."),
    plain("Suspend", "Whether no more jobs are started."),
    plain("Active", "The number of running jobs."),
    plain("Last Schedule", "When a job was started last."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) fn cron_job_cells(view: &View<'_>, moment: &Moment) -> Vec<Value> {
    let or_none = |text: &str| if text.is_empty() { "<none>".to_owned() } else { text.to_owned() };
    let last = view.text(&["status", "lastScheduleTime"]);
    let last = if last.is_empty() { "<none>".to_owned() } else { age(last, moment.now) };
    let [containers, images] = joined(view.list(&["spec", "jobTemplate", "spec", "template", "spec", "containers"]));
    vec![
        name(view),
        view.text(&["spec", "schedule"]).into(),
        or_none(view.text(&["spec", "timeZone"])).into(),
        if view.flag(&["spec", "suspend"]) { "True" } else { "False" }.into(),
        view.list(&["status", "active"]).len().into(),
        last.into(),
        created(view, moment),
        containers,
        images,
        selector(view.at(&["spec", "jobTemplate", "spec", "selector"])).into(),
    ]
}

pub(super) const JOB: Rules = Rules { create, update: nothing_to_update, class: durable };

const UID: &str = "batch.kubernetes.io/controller-uid";
const JOB_NAME: &str = "batch.kubernetes.io/job-name";

/// A job finds its pods by its own uid, unless it says that it selects by hand.
fn create(object: &mut Value, _: &Moment) {
    object["status"] = json!({});
    if View(object).flag(&["spec", "manualSelector"]) {
        return;
    }
    let meta = View(&*object);
    let (uid, name) = (meta.at(&["metadata", "uid"]).clone(), meta.at(&["metadata", "name"]).clone());
    if !object["spec"]["template"].is_object() {
        return;
    }
    let labels = &mut object["spec"]["template"]["metadata"]["labels"];
    // The names without a prefix are what people have long selected by.
    for (key, value) in [(UID, &uid), ("controller-uid", &uid), (JOB_NAME, &name), ("job-name", &name)] {
        labels[key] = value.clone();
    }
    if View(object).size(&["spec", "selector"]) == 0 {
        object["spec"]["selector"] = json!({"matchLabels": {UID: uid}});
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_gets_a_selector_of_its_own() {
        let mut job = json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"template": {"spec": {}}}});
        create(&mut job, &Moment { now: 0 });
        assert_eq!(job["spec"]["selector"]["matchLabels"][UID], "u");
        assert_eq!(job["spec"]["template"]["metadata"]["labels"]["job-name"], "j");
    }

    #[test]
    fn a_job_shows_how_far_it_is() {
        let job = json!({"spec": {"completions": 3}, "status": {"succeeded": 1, "startTime": "1970-01-01T00:00:00Z"}});
        let cells = job_cells(&View(&job), &Moment { now: 5000 });
        assert_eq!((&cells[1], &cells[2], &cells[3]), (&"Running".into(), &"1/3".into(), &"5s".into()));
    }
}
