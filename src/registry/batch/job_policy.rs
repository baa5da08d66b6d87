//! When a job counts as failed, and when as done before its end.

use crate::registry::validate::{Field, containers};

/// Rules of one policy.
const RULES_MAX: usize = 20;
/// Exit codes, or conditions, of one rule.
const PATTERNS_MAX: usize = 255;

/// `podFailurePolicy`.
pub fn failure(spec: &Field<'_>) {
    let field = spec.at("podFailurePolicy");
    if field.value.is_null() {
        return;
    }
    if field.count("rules") > RULES_MAX {
        field.errs.at("rules").too_many(field.count("rules"), RULES_MAX);
    }
    let pod = spec.at("template").at("spec");
    let names: Vec<&str> =
        ["containers", "initContainers"].iter().flat_map(|list| containers::container_names(pod.value, list)).collect();
    for rule in field.items("rules") {
        let action = rule.text("action");
        if action.is_empty() {
            rule.errs.at("action").required("valid values: \"Count\", \"FailIndex\", \"FailJob\", \"Ignore\"");
        } else {
            rule.one_of("action", &["Count", "FailIndex", "FailJob", "Ignore"]);
        }
        if action == "FailIndex" && !spec.has("backoffLimitPerIndex") {
            rule.at("action").invalid("requires the backoffLimitPerIndex to be set");
        }
        if rule.has("onExitCodes") {
            exit_codes(&rule.at("onExitCodes"), &names);
        }
        if rule.count("onPodConditions") > PATTERNS_MAX {
            rule.errs.at("onPodConditions").too_many(rule.count("onPodConditions"), PATTERNS_MAX);
        }
        for pattern in rule.items("onPodConditions") {
            let kind = pattern.text("type");
            pattern.errs.at("type").all_invalid(kind, crate::api::meta::names::qualified_name(kind));
            if pattern.text("status").is_empty() {
                pattern.errs.at("status").required("valid values: \"False\", \"True\", \"Unknown\"");
            } else {
                pattern.one_of("status", &["False", "True", "Unknown"]);
            }
        }
        match (rule.has("onExitCodes"), rule.count("onPodConditions") > 0) {
            (true, true) => rule.invalid("specifying both OnExitCodes and OnPodConditions is not supported"),
            (false, false) => rule.invalid("specifying one of OnExitCodes and OnPodConditions is required"),
            _ => {}
        }
    }
}

fn exit_codes(field: &Field<'_>, names: &[&str]) {
    let operator = field.text("operator");
    if operator.is_empty() {
        field.errs.at("operator").required("valid values: \"In\", \"NotIn\"");
    } else {
        field.one_of("operator", &["In", "NotIn"]);
    }
    if field.has("containerName") && !names.contains(&field.text("containerName")) {
        field.at("containerName").invalid("must be one of the container or initContainer names in the pod template");
    }
    let count = field.count("values");
    if count == 0 {
        field.at("values").invalid("at least one value is required");
    } else if count > PATTERNS_MAX {
        field.errs.at("values").too_many(count, PATTERNS_MAX);
    }
    let mut before: Option<i64> = None;
    let mut seen = Vec::new();
    let mut ordered = true;
    for value in field.items("values") {
        let code = value.value.as_i64().unwrap_or(0);
        if operator == "In" && code == 0 {
            value.invalid("must not be 0 for the In operator");
        }
        if seen.contains(&code) {
            value.errs.duplicate(code);
        } else {
            seen.push(code);
        }
        ordered &= before.is_none_or(|b| b <= code);
        before = Some(code);
    }
    if !ordered {
        field.at("values").invalid("must be ordered");
    }
}

/// `successPolicy`.
pub fn success(spec: &Field<'_>) {
    let field = spec.at("successPolicy");
    if field.value.is_null() {
        return;
    }
    if spec.text("completionMode") != "Indexed" {
        field.invalid("requires indexed completion mode");
        return;
    }
    let rules = field.count("rules");
    if rules == 0 {
        field.errs.at("rules").required("at least one rules must be specified for the successPolicy");
    } else if rules > RULES_MAX {
        field.errs.at("rules").too_many(rules, RULES_MAX);
    }
    let completions = spec.int("completions").unwrap_or(0);
    for rule in field.items("rules") {
        if !rule.has("succeededCount") && !rule.has("succeededIndexes") {
            rule.errs.required("at least one of succeededCount or succeededIndexes must be specified");
        }
        let mut listed = 0;
        if rule.has("succeededIndexes") {
            match indexes(rule.text("succeededIndexes"), completions) {
                Ok(count) => listed = count,
                Err(why) => rule.at("succeededIndexes").invalid(format!("error parsing succeededIndexes: {why}")),
            }
        }
        let Some(count) = rule.int("succeededCount") else { continue };
        rule.not_negative("succeededCount");
        if count > completions {
            rule.at("succeededCount")
                .invalid(format!("must be less than or equal to {completions} (the number of specified completions)"));
        }
        if rule.has("succeededIndexes") && count > listed {
            rule.at("succeededCount").invalid(format!(
                "must be less than or equal to {listed} (the number of indexes in the specified succeededIndexes field)"
            ));
        }
    }
}

/// How many indexes a text as `0,2-4` names; they ascend, and are below `completions`.
pub fn indexes(text: &str, completions: i64) -> Result<i64, String> {
    if text.is_empty() {
        return Ok(0);
    }
    let (mut count, mut last) = (0, -1);
    for part in text.split(',') {
        let (first, end) = interval(part, completions)?;
        if first <= last {
            return Err(format!("non-increasing order, previous: {last}, current: {first}"));
        }
        count += end - first + 1;
        last = end;
    }
    Ok(count)
}

/// First and last of a part.
fn interval(part: &str, completions: i64) -> Result<(i64, i64), String> {
    let number = |text: &str| -> Result<i64, String> {
        let n: i64 = text.parse().map_err(|_| format!("cannot convert string to integer for index: {text:?}"))?;
        if n >= completions { Err(format!("too large index: {text:?}")) } else { Ok(n) }
    };
    let Some((first, end)) = part.split_once('-') else { return number(part).map(|n| (n, n)) };
    if end.contains('-') {
        return Err(format!(
            "the fragment {part:?} violates the requirement that an index interval can have at most two parts separated by '-'"
        ));
    }
    match (number(first)?, number(end)?) {
        (first, end) if first >= end => Err(format!("non-increasing order, previous: {first}, current: {end}")),
        both => Ok(both),
    }
}

/// The first index that two such texts share. What cannot be read is told of elsewhere.
pub fn overlap(one: &str, other: &str, completions: i64) -> Option<i64> {
    let read = |part| interval(part, completions).ok();
    let mut one = one.split(',').filter_map(read).peekable();
    let mut other = other.split(',').filter_map(read).peekable();
    loop {
        let (a, b) = (*one.peek()?, *other.peek()?);
        if a.0 <= b.1 && b.0 <= a.1 {
            return Some(a.0.max(b.0));
        }
        if a.0 <= b.0 {
            one.next()
        } else {
            other.next()
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case("0,2-4", Some(4))]
    #[test_case("", Some(0); "none")]
    #[test_case("3-1", None; "backwards")]
    #[test_case("1,1", None; "twice")]
    #[test_case("5", None; "beyond the end")]
    #[test_case("x", None)]
    fn counts_indexes(text: &str, want: Option<i64>) {
        assert_eq!(indexes(text, 5).ok(), want);
    }
}
