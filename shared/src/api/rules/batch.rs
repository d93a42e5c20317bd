//! Jobs and CronJobs.

use serde_json::Value;

use super::{Errors, flag, int, pod, selector, text};
use crate::api::field::{FieldError, Path};

/// A cron job's name and eleven characters of a time have to fit a job's.
const CRON_NAME_MAX: usize = 52;

/// Completions of an indexed job, as upstream bounds them.
const MAX_INDEXED: i64 = 1_000_000;

pub(super) fn job(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    let root = Path::ROOT;
    let path = root.child("spec");
    let none = Value::Null;
    let spec = new.get("spec").unwrap_or(&none);
    job_spec(spec, &path, errors);
    let chosen = spec.get("selector");
    if chosen.is_none() {
        errors.push(FieldError::required(&path.child("selector"), ""));
    }
    if let Some(old) = old.and_then(|o| o.get("spec")) {
        for field in
            ["selector", "completionMode", "podFailurePolicy", "successPolicy", "backoffLimitPerIndex", "managedBy"]
        {
            errors.immutable(spec.get(field), old.get(field), &path.child(field));
        }
        if text(spec, "completionMode") != "Indexed" {
            errors.immutable(spec.get("completions"), old.get("completions"), &path.child("completions"));
        }
        // A suspended job has no pods that the template could contradict.
        if !flag(old, "suspend") {
            errors.immutable(spec.get("template"), old.get("template"), &path.child("template"));
        }
    }
}

fn job_spec(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        errors.not_negative(spec, field, path);
    }
    if text(spec, "completionMode") == "Indexed" {
        match int(spec, "completions") {
            None => {
                let words = "when completion mode is Indexed";
                errors.push(FieldError::required(&path.child("completions"), words));
            }
            Some(all) if all > MAX_INDEXED => {
                let words = format!("must be less than or equal to {MAX_INDEXED} when completion mode is Indexed");
                errors.push(FieldError::invalid(&path.child("completions"), all, words));
            }
            Some(_) => {}
        }
    } else if spec.get("backoffLimitPerIndex").is_some() {
        let words = "requires indexed completion mode";
        let shown = spec["backoffLimitPerIndex"].clone();
        errors.push(FieldError::invalid(&path.child("backoffLimitPerIndex"), shown, words));
    }
    if let Some(chosen) = spec.get("selector") {
        selector::validate(chosen, &path.child("selector"), errors);
    }
    let template = spec.get("template").cloned().unwrap_or_default();
    let path = path.child("template");
    pod::template(&template, &path, errors);
    let path = path.child("spec");
    let policy = template.get("spec").map_or("", |s| text(s, "restartPolicy"));
    if !matches!(policy, "OnFailure" | "Never") {
        let words = FieldError::not_supported(&path.child("restartPolicy"), policy, ["OnFailure", "Never"]);
        let required = FieldError::required(&path.child("restartPolicy"), "valid values: \"OnFailure\", \"Never\"");
        errors.push(if policy == "Always" { words } else { required });
    }
}

pub(super) fn cron_job(new: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let root = Path::ROOT;
    let path = root.child("spec");
    let name = new.get("metadata").map_or("", |m| text(m, "name"));
    if name.len() > CRON_NAME_MAX {
        let words = format!("must be no more than {CRON_NAME_MAX} characters");
        errors.push(FieldError::invalid(&root.child("metadata").child("name"), name, words));
    }
    let none = Value::Null;
    let spec = new.get("spec").unwrap_or(&none);
    let schedule = text(spec, "schedule");
    match schedule.is_empty() {
        true => errors.push(FieldError::required(&path.child("schedule"), "")),
        false => {
            if let Err(why) = cron(schedule) {
                errors.push(FieldError::invalid(&path.child("schedule"), schedule, why));
            }
        }
    }
    if spec.get("timeZone").is_some() && text(spec, "timeZone").is_empty() {
        let words = "timeZone must be nil or non-empty string";
        errors.push(FieldError::invalid(&path.child("timeZone"), "", words));
    }
    for field in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        errors.not_negative(spec, field, &path);
    }
    let template = spec.get("jobTemplate").and_then(|t| t.get("spec")).unwrap_or(&none);
    let path_template = path.child("jobTemplate");
    let within = path_template.child("spec");
    if flag(template, "manualSelector") {
        let words = FieldError::not_supported(&within.child("manualSelector"), "true", ["nil", "false"]);
        errors.push(words);
    }
    job_spec(template, &within, errors);
}

/// The fields of a schedule: name, lowest, highest, names that stand for numbers.
const CRON: [(&str, u32, u32, &[&str]); 5] = [
    ("minute", 0, 59, &[]),
    ("hour", 0, 23, &[]),
    ("day of month", 1, 31, &[]),
    ("month", 1, 12, &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]),
    ("day of week", 0, 6, &["sun", "mon", "tue", "wed", "thu", "fri", "sat"]),
];

/// Checks a schedule in the notation of cron: five fields, or one of the words with an `@`.
fn cron(text: &str) -> Result<(), String> {
    if text.contains("TZ") {
        return Err("cannot use TZ or CRON_TZ in schedule, use timeZone field instead".into());
    }
    if let Some(word) = text.strip_prefix('@') {
        let every = word.strip_prefix("every ").is_some_and(|span| crate::api::time::parse_duration(span).is_some());
        let known = ["yearly", "annually", "monthly", "weekly", "daily", "midnight", "hourly"].contains(&word);
        return if known || every { Ok(()) } else { Err(format!("unrecognized descriptor: {text}")) };
    }
    let fields: Vec<&str> = text.split_whitespace().collect();
    if fields.len() != CRON.len() {
        return Err(format!("expected exactly 5 fields, found {}: {fields:?}", fields.len()));
    }
    fields.iter().zip(CRON).try_for_each(|(field, shape)| field.split(',').try_for_each(|part| cron_part(part, shape)))
}

fn cron_part(part: &str, (what, low, high, names): (&str, u32, u32, &[&str])) -> Result<(), String> {
    let number = |text: &str| -> Result<u32, String> {
        let named = names.iter().position(|name| name.eq_ignore_ascii_case(text));
        let value = named.and_then(|at| u32::try_from(at).ok()).map(|at| at + low).or_else(|| text.parse().ok());
        let value = value.ok_or_else(|| format!("failed to parse int from {text}: {what}"))?;
        match value {
            value if value < low => Err(format!("{what} {value} is below minimum ({low})")),
            value if value > high => Err(format!("{what} {value} is above maximum ({high})")),
            value => Ok(value),
        }
    };
    let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
    if let Some(step) = step
        && step.parse::<u32>().is_ok_and(|s| s == 0) | step.parse::<u32>().is_err()
    {
        return Err(format!("step of range should be a positive number: {part}"));
    }
    match (range, range.split_once('-')) {
        ("*" | "?", _) => Ok(()),
        (_, Some((from, to))) => match (number(from)?, number(to)?) {
            (from, to) if from > to => Err(format!("beginning of range ({from}) beyond end of range ({to}): {part}")),
            _ => Ok(()),
        },
        (one, None) => number(one).map(|_| ()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_read_as_cron_reads_them() {
        for good in ["*/5 * * * *", "0 0 1,15 jan-mar mon", "@daily", "@every 1h30m", "0 22 * * 1-5", "? * * * *"] {
            assert_eq!(cron(good), Ok(()), "{good}");
        }
        for bad in
            ["", "* * * *", "60 * * * *", "* * 0 * *", "*/0 * * * *", "5-1 * * * *", "@never", "TZ=UTC * * * * *"]
        {
            assert!(cron(bad).is_err(), "{bad}");
        }
    }
}
