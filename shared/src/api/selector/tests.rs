use proptest::prelude::*;
use serde_json::json;

use super::*;

#[track_caller]
fn check(selector: &str, labels: Value, expect: bool) {
    let parsed = LabelSelector::parse(selector).unwrap_or_else(|e| panic!("{selector}: {e}"));
    assert_eq!(parsed.matches(labels.as_object()), expect, "{selector} on {labels}");
    let printed = parsed.to_string();
    assert_eq!(LabelSelector::parse(&printed).as_ref(), Ok(&parsed), "{printed}");
}

#[test]
fn label_selectors_match_as_upstream() {
    let labels = json!({"a": "b", "n": "5", "e": ""});
    for (selector, expect) in [
        ("", true),
        ("a=b", true),
        ("a==b", true),
        ("a=c", false),
        ("a!=b", false),
        ("x!=b", true),
        ("a", true),
        ("x", false),
        ("!x", true),
        ("!a", false),
        ("a in (b,c)", true),
        ("a in (c)", false),
        ("x in (b)", false),
        ("a notin (c)", true),
        ("a notin (b)", false),
        ("x notin (b)", true),
        ("e=", true),
        ("e in ()", true),
        ("e in (,x)", true),
        ("n>4", true),
        ("n>5", false),
        ("n<6", true),
        ("a>4", false),
        ("a=b,n=5", true),
        ("a=b , !x , n notin (1,2)", true),
        ("a=b,n=6", false),
        ("in in (x)", false),
    ] {
        check(selector, labels.clone(), expect);
    }
    assert!(LabelSelector::everything().matches(None));
    assert!(!LabelSelector::nothing().matches(None));
}

#[test]
fn malformed_label_selectors_say_where() {
    for (selector, words) in [
        ("a=b,", "found '', expected: identifier after ','"),
        ("=a", "found '=', expected: !, identifier, or 'end of string'"),
        ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        ("a in b", "unable to parse requirement: found 'b' expected: '('"),
        ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
        ("a=b=c", "found '=', expected: ',' or 'end of string'"),
    ] {
        assert_eq!(LabelSelector::parse(selector), Err(SelectorError(words.into())), "{selector}");
    }
    for selector in ["a=b c", "-a=b", "a=-b", "a>b", "!", "a/b/c=d", "é=1"] {
        assert!(LabelSelector::parse(selector).is_err(), "{selector}");
    }
}

#[test]
fn label_selector_objects() {
    let labels = json!({"app": "web", "tier": "front"});
    for (selector, expect) in [
        (json!(null), false),
        (json!({}), true),
        (json!({"matchLabels": {"app": "web"}}), true),
        (json!({"matchLabels": {"app": "db"}}), false),
        (json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["web", "db"]}]}), true),
        (json!({"matchExpressions": [{"key": "x", "operator": "DoesNotExist"}]}), true),
        (json!({"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["front"]}]}), false),
    ] {
        let parsed = LabelSelector::from_value(&selector).unwrap();
        assert_eq!(parsed.matches(labels.as_object()), expect, "{selector}");
    }
    for selector in [
        json!("x"),
        json!({"matchExpressions": [{"key": "app", "operator": "In"}]}),
        json!({"matchExpressions": [{"key": "app", "operator": "Like", "values": ["x"]}]}),
        json!({"matchExpressions": [{"key": "app", "operator": "Exists", "values": ["x"]}]}),
        json!({"matchExpressions": [7]}),
    ] {
        assert!(LabelSelector::from_value(&selector).is_err(), "{selector}");
    }
}

#[test]
fn field_selectors() {
    let pod = json!({"metadata": {"name": "a,b"}, "spec": {"unschedulable": true}, "status": {"phase": "Running"}});
    for (selector, expect) in [
        ("", true),
        ("metadata.name=a\\,b", true),
        ("metadata.name=x", false),
        ("status.phase!=Pending,metadata.name!=x", true),
        ("status.phase==Running", true),
        ("spec.unschedulable=true", true),
        ("spec.nodeName=", true),
        ("spec.nodeName!=", false),
    ] {
        let parsed = FieldSelector::parse(selector).unwrap();
        assert_eq!(parsed.matches(&pod), expect, "{selector}");
    }
    for selector in ["a", "a=b=c", "a=\\x", "a!b", "a=\\"] {
        assert!(FieldSelector::parse(selector).is_err(), "{selector}");
    }
    let parsed = FieldSelector::parse("spec.nodeName=n1").unwrap();
    assert_eq!(parsed.exact("spec.nodeName"), Some("n1"));
}

proptest! {
    #[test]
    fn hostile_selectors_never_panic(text in "[-a-z=!(),<> \\\\é/.]{0,40}") {
        let _ = LabelSelector::parse(&text);
        let _ = FieldSelector::parse(&text);
    }
}
