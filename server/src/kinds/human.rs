//! Durations and lists as `kubectl get` prints them.

/// Milliseconds since the Unix epoch of an RFC 3339 time.
pub fn millis(time: &str) -> Option<i64> {
    time.parse::<jiff::Timestamp>().ok().map(|t| t.as_millisecond())
}

/// How long ago a time was, `<unknown>` when there is none.
pub fn age(time: &str, now: i64) -> String {
    match millis(time) {
        Some(then) => duration(now - then),
        None => "<unknown>".into(),
    }
}

/// A duration in milliseconds in at most two units, as Kubernetes' `HumanDuration`.
pub fn duration(millis: i64) -> String {
    let seconds = millis / 1000;
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let two = |big: i64, unit: &str, small: i64, sub: &str| match small {
        0 => format!("{big}{unit}"),
        small => format!("{big}{unit}{small}{sub}"),
    };
    match () {
        () if seconds < -1 => "<invalid>".into(),
        () if millis < 0 => "0s".into(),
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => two(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 24 * 8 => two(hours / 24, "d", hours % 24, "h"),
        () if hours < 24 * 365 * 2 => format!("{}d", hours / 24),
        () if hours < 24 * 365 * 8 => two(hours / 24 / 365, "y", hours / 24 % 365, "d"),
        () => format!("{}y", hours / 24 / 365),
    }
}

/// Joined by commas, or `<none>`.
pub fn join(parts: &[String]) -> String {
    if parts.is_empty() { "<none>".into() } else { parts.join(",") }
}

/// The first `max` joined by commas, then how many more there are.
pub fn join_some(parts: &[String], max: usize) -> String {
    if parts.len() <= max {
        return join(parts);
    }
    format!("{} + {} more...", parts[..max].join(","), parts.len() - max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(seconds: i64, expect: &str) {
        assert_eq!(duration(seconds * 1000), expect);
    }

    #[test]
    fn durations_read_as_kubectl_prints_them() {
        check(-5, "<invalid>");
        check(0, "0s");
        check(119, "119s");
        check(120, "2m");
        check(305, "5m5s");
        check(3600, "60m");
        check(3 * 3600, "3h");
        check(3 * 3600 + 300, "3h5m");
        check(30 * 3600, "30h");
        check(3 * 86400, "3d");
        check(3 * 86400 + 7200, "3d2h");
        check(30 * 86400, "30d");
        check(3 * 365 * 86400, "3y");
        check(9 * 365 * 86400 + 86400, "9y");
    }

    #[test]
    fn an_age_without_a_time_is_unknown() {
        assert_eq!(age("", 0), "<unknown>");
        assert_eq!(age("1970-01-01T00:00:00Z", 5000), "5s");
    }

    #[test]
    fn long_lists_are_cut() {
        let parts: Vec<String> = ["a", "b", "c", "d"].map(String::from).to_vec();
        assert_eq!(join_some(&parts, 3), "a,b,c + 1 more...");
        assert_eq!(join_some(&[], 3), "<none>");
    }
}
