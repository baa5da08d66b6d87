//! What a failed pod means, and which indexes are enough. Rules: upstream `pod_failure_policy.go`, `success_policy.go`.

use serde_json::Value;

use super::indexes::Indexes;
use super::model::{Job, JobPod};
use crate::api::value::ValueExt;

/// What `podFailurePolicy` makes of a failed pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// One more failure.
    Count,
    /// As if it had not been.
    Ignore,
    /// Its index has failed for good.
    FailIndex,
    /// The Job has failed; why.
    FailJob(String),
}

/// The first rule that matches decides; without one the failure counts.
pub fn judge(job: &Job, pod: &JobPod) -> Verdict {
    for (i, rule) in job.spec.items_at("/podFailurePolicy/rules").iter().enumerate() {
        let action = rule.str_at("/action").unwrap_or_default();
        let found = match rule.get("onExitCodes") {
            Some(codes) => exit_code(codes, pod),
            None => condition(rule.items_at("/onPodConditions"), pod),
        };
        let Some(found) = found else { continue };
        return match action {
            "Ignore" => Verdict::Ignore,
            "FailIndex" if job.per_index.is_some() => Verdict::FailIndex,
            "FailJob" => Verdict::FailJob(format!("{found} matching {action} rule at index {i}")),
            _ => Verdict::Count,
        };
    }
    Verdict::Count
}

fn pod_name(pod: &JobPod) -> String {
    format!("{}/{}", pod.value.str_at("/metadata/namespace").unwrap_or_default(), pod.view.name)
}

fn exit_code(rule: &Value, pod: &JobPod) -> Option<String> {
    let only = rule.str_at("/containerName");
    let values = rule.items_at("/values");
    let matches = |code: i64| {
        let listed = values.iter().any(|v| v.as_i64() == Some(code));
        code != 0 && listed == (rule.str_at("/operator") == Some("In"))
    };
    pod.containers().find_map(|c| {
        let name = c.str_at("/name").unwrap_or_default();
        let code = c.int_at("/state/terminated/exitCode")?;
        let found = only.is_none_or(|o| o == name) && matches(code);
        found.then(|| format!("Container {name} for pod {} failed with exit code {code}", pod_name(pod)))
    })
}

fn condition(patterns: &[Value], pod: &JobPod) -> Option<String> {
    let conditions = pod.value.items_at("/status/conditions");
    let matches = |c: &Value, p: &Value| {
        c.str_at("/type") == p.str_at("/type") && c.str_at("/status") == p.str_at("/status").or(Some("True"))
    };
    let found = conditions.iter().find(|&c| patterns.iter().any(|p| matches(c, p)))?;
    Some(format!("Pod {} has condition {}", pod_name(pod), found.str_at("/type").unwrap_or_default()))
}

/// Why `successPolicy` is satisfied by these indexes; none when it is not, or there is none.
pub fn success(job: &Job, succeeded: &Indexes) -> Option<String> {
    let completions = job.completions?;
    job.spec.items_at("/successPolicy/rules").iter().enumerate().find_map(|(i, rule)| {
        let wanted = rule.str_at("/succeededIndexes").map(|t| Indexes::parse(t).below(completions));
        let met = wanted.as_ref().map_or(succeeded.count(), |w| w.common(succeeded));
        let enough = match (rule.int_at("/succeededCount"), &wanted) {
            (Some(count), _) => met >= count,
            (None, Some(wanted)) => met >= wanted.count(),
            (None, None) => false,
        };
        enough.then(|| format!("Matched rules at index {i}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    fn pod(code: i64) -> JobPod {
        let mut pod = JobPod {
            value: json!({"metadata": {"namespace": "n"}, "status": {
            "conditions": [{"type": "DisruptionTarget", "status": "True"}, {"type": "Ready", "status": "False"}],
            "initContainerStatuses": [{"name": "init", "state": {"terminated": {"exitCode": code}}}],
            "containerStatuses": [{"name": "main", "state": {"terminated": {"exitCode": code}}}]}}),
            ..JobPod::default()
        };
        pod.view.name = "p".into();
        pod
    }

    #[test_case(json!({"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}), 42,
        Verdict::FailJob("Container main for pod n/p failed with exit code 42 matching FailJob rule at index 0".into()))]
    #[test_case(json!({"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}), 1, Verdict::Count; "another code")]
    #[test_case(json!({"action": "Ignore", "onExitCodes": {"operator": "NotIn", "values": [42]}}), 1, Verdict::Ignore; "not in")]
    #[test_case(json!({"action": "Ignore", "onExitCodes": {"operator": "NotIn", "values": [42]}}), 0, Verdict::Count; "zero never")]
    #[test_case(json!({"action": "Ignore", "onExitCodes": {"containerName": "x", "operator": "In", "values": [1]}}), 1,
        Verdict::Count; "another container")]
    #[test_case(json!({"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [1]}}), 1, Verdict::FailIndex; "index")]
    #[test_case(json!({"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}), 1,
        Verdict::FailJob("Pod n/p has condition DisruptionTarget matching FailJob rule at index 0".into()))]
    #[test_case(json!({"action": "FailJob", "onPodConditions": [{"type": "Ready", "status": "False"}, {"type": "DisruptionTarget"}]}),
        1, Verdict::FailJob("Pod n/p has condition DisruptionTarget matching FailJob rule at index 0".into());
        "the pod's first condition is told of")]
    fn first_rule_that_matches(rule: Value, code: i64, want: Verdict) {
        let job = Job { spec: json!({"podFailurePolicy": {"rules": [rule]}}), per_index: Some(1), ..Job::default() };
        assert_eq!(judge(&job, &pod(code)), want);
    }

    #[test_case(json!({"succeededIndexes": "0,2"}), "0-1", false; "one is missing")]
    #[test_case(json!({"succeededIndexes": "0,2"}), "0-2", true; "all are there")]
    #[test_case(json!({"succeededCount": 2}), "3,4", true; "any two")]
    #[test_case(json!({"succeededCount": 1, "succeededIndexes": "0-2"}), "3,4", false; "one of some")]
    #[test_case(json!({"succeededCount": 1, "succeededIndexes": "0-2"}), "2", true; "one of some, there")]
    fn enough(rule: Value, succeeded: &str, want: bool) {
        let job = Job { spec: json!({"successPolicy": {"rules": [rule]}}), completions: Some(5), ..Job::default() };
        assert_eq!(success(&job, &Indexes::parse(succeeded)).is_some(), want);
    }
}
