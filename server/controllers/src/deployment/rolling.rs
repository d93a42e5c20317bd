//! How large each replica set may be at each step of a rolling update.

use serde_json::Value;

use crate::object::number;

/// `maxSurge` and `maxUnavailable` in pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub surge: i64,
    pub unavailable: i64,
}

/// The sizes to set, olds in the order they came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizes {
    pub new: i64,
    pub olds: Vec<i64>,
}

pub fn limits(deployment: &Value) -> Limits {
    if deployment["spec"]["strategy"]["type"] == "Recreate" {
        return Limits { surge: 0, unavailable: 0 };
    }
    let replicas = number(deployment, "/spec/replicas");
    let rolling = &deployment["spec"]["strategy"]["rollingUpdate"];
    let surge = amount(&rolling["maxSurge"], replicas, true);
    let unavailable = amount(&rolling["maxUnavailable"], replicas, false).min(replicas);
    // Both zero (25 % of one pod rounds to it) would never move: one may be missing.
    Limits { surge, unavailable: if surge == 0 && unavailable == 0 { 1 } else { unavailable } }
}

/// A number or a percentage; 25 % when absent. Surge rounds up, unavailability down.
fn amount(value: &Value, of: i64, up: bool) -> i64 {
    let percent = match value {
        Value::Number(n) => return n.as_i64().unwrap_or(0).max(0),
        Value::String(text) => text.strip_suffix('%').and_then(|p| p.parse::<i64>().ok()).unwrap_or(0),
        _ => 25,
    };
    let exact = of.saturating_mul(percent.max(0));
    if up { (exact + 99) / 100 } else { exact / 100 }
}

fn replicas(set: &Value) -> i64 {
    number(set, "/spec/replicas")
}

fn available(set: &Value) -> i64 {
    number(set, "/status/availableReplicas")
}

/// What a set that is about to be made starts with.
pub fn first_size(deployment: &Value, others: &[&Value]) -> i64 {
    let wanted = number(deployment, "/spec/replicas");
    let present: i64 = others.iter().map(|set| replicas(set)).sum();
    if deployment["spec"]["strategy"]["type"] == "Recreate" {
        return wanted;
    }
    (wanted + limits(deployment).surge - present).clamp(0, wanted)
}

/// The next sizes: the new set as large as the surge allows, then old ones as small as availability
/// allows, broken pods first.
pub fn step(deployment: &Value, new: &Value, olds: &[&Value]) -> Sizes {
    let wanted = number(deployment, "/spec/replicas");
    let limits = limits(deployment);
    let old_total: i64 = olds.iter().map(|set| replicas(set)).sum();
    let room = (wanted + limits.surge - old_total - replicas(new)).max(0);
    let new_size = if replicas(new) > wanted { wanted } else { (replicas(new) + room).min(wanted) };
    let mut sizes: Vec<i64> = olds.iter().map(|set| replicas(set)).collect();
    // Pods that the new set has not made available yet must be covered by old ones.
    let minimum = wanted - limits.unavailable;
    let new_missing = (new_size.max(replicas(new)) - available(new)).max(0);
    let mut removable = old_total + new_size.max(replicas(new)) - minimum - new_missing;
    for (size, old) in sizes.iter_mut().zip(olds) {
        let broken = (*size - available(old)).clamp(0, removable.max(0));
        *size -= broken;
        removable -= broken;
    }
    let available_total = available(new) + olds.iter().map(|set| available(set)).sum::<i64>();
    let mut spare = (available_total - minimum).max(0);
    for size in &mut sizes {
        let less = (*size).min(spare);
        *size -= less;
        spare -= less;
    }
    Sizes { new: new_size, olds: sizes }
}

/// A paused deployment does not roll, but follows `spec.replicas`: the newest set that has pods
/// takes the difference, the others give in order when it is used up.
pub fn proportional(deployment: &Value, new: &Value, olds: &[&Value]) -> Sizes {
    let wanted = number(deployment, "/spec/replicas");
    let mut sizes = Sizes { new: replicas(new), olds: olds.iter().map(|set| replicas(set)).collect() };
    let allowed = if sizes.olds.iter().any(|&s| s > 0) { wanted + limits(deployment).surge } else { wanted };
    let total = sizes.new + sizes.olds.iter().sum::<i64>();
    if total < wanted {
        let grows = sizes.olds.iter_mut().max_by_key(|s| **s).filter(|s| **s > sizes.new);
        match grows {
            Some(old) => *old += wanted - total,
            None => sizes.new += wanted - total,
        }
    }
    let mut surplus = total - allowed;
    for size in sizes.olds.iter_mut().chain([&mut sizes.new]) {
        let less = (*size).min(surplus.max(0));
        *size -= less;
        surplus -= less;
    }
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn set(replicas: i64, available: i64) -> Value {
        json!({"spec": {"replicas": replicas}, "status": {"availableReplicas": available}})
    }

    fn deployment(replicas: i64, surge: Value, unavailable: Value) -> Value {
        json!({"spec": {"replicas": replicas, "strategy": {"rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}}})
    }

    #[test]
    fn percentages() {
        let check = |replicas, surge, unavailable, expect: (i64, i64)| {
            let limits = limits(&deployment(replicas, surge, unavailable));
            assert_eq!((limits.surge, limits.unavailable), expect);
        };
        check(3, json!("25%"), json!("25%"), (1, 0));
        check(10, json!("25%"), json!("25%"), (3, 2));
        check(3, json!(0), json!("25%"), (0, 1));
        check(3, json!(0), json!(0), (0, 1));
        check(1, json!(2), json!(5), (2, 1));
        check(4, Value::Null, Value::Null, (1, 1));
    }

    #[test]
    fn steps() {
        let check = |d: &Value, new: Value, olds: &[Value], expect: (i64, &[i64])| {
            let olds: Vec<&Value> = olds.iter().collect();
            let sizes = step(d, &new, &olds);
            assert_eq!((sizes.new, &sizes.olds[..]), expect);
        };
        let d = deployment(3, json!(1), json!(0));
        check(&d, set(0, 0), &[set(3, 3)], (1, &[3]));
        check(&d, set(1, 0), &[set(3, 3)], (1, &[3]));
        check(&d, set(1, 1), &[set(3, 3)], (1, &[2]));
        check(&d, set(1, 1), &[set(2, 2)], (2, &[2]));
        check(&d, set(3, 3), &[set(0, 0)], (3, &[0]));
        check(&d, set(1, 0), &[set(3, 1)], (1, &[3]));
        let tolerant = deployment(3, json!(0), json!(1));
        check(&tolerant, set(0, 0), &[set(3, 3)], (0, &[2]));
        check(&tolerant, set(0, 0), &[set(3, 0)], (0, &[2]));
        check(&tolerant, set(1, 0), &[set(2, 2)], (1, &[2]));
    }

    proptest! {
        /// Whatever a fair cluster does, the update ends, and never leaves its limits.
        #[test]
        fn every_update_ends(replicas in 0i64..12, surge in 0i64..4, unavailable in 0i64..4, picks in prop::collection::vec(any::<bool>(), 400)) {
            let d = deployment(replicas, json!(surge), json!(unavailable));
            let limits = limits(&d);
            let (mut new, mut old) = (set(0, 0), set(replicas, replicas));
            for pick in picks {
                let sizes = step(&d, &new, &[&old]);
                let total = sizes.new + sizes.olds[0];
                prop_assert!(total <= replicas + limits.surge);
                for (set, size) in [(&mut new, sizes.new), (&mut old, sizes.olds[0])] {
                    let available = available(set).min(size);
                    set["spec"]["replicas"] = size.into();
                    set["status"]["availableReplicas"] = available.into();
                }
                prop_assert!(available(&new) + available(&old) >= replicas - limits.unavailable);
                if pick && available(&new) < self::replicas(&new) {
                    new["status"]["availableReplicas"] = (available(&new) + 1).into();
                }
                if self::replicas(&old) == 0 && available(&new) == replicas {
                    break;
                }
            }
            prop_assert_eq!((self::replicas(&old), available(&new)), (0, replicas));
        }
    }
}
