//! Events in both of their groups.
//!
//! Conformance, [sig-instrumentation] Events API: "should ensure that an event can be fetched, patched, deleted, and listed",
//! "should delete a collection of events".
//! Conformance, [sig-instrumentation] Events: "should manage the lifecycle of an event", "should delete a collection of
//! events".

use test_case::test_case;

use super::*;

const STRATEGIC: &str = "application/strategic-merge-patch+json";

fn older(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"test": "yes"}}, "message": "This is a test event", "reason": "Test",
        "type": "Normal", "count": 1, "source": {"component": "test-controller"}, "involvedObject": {"namespace": "n"}})
}

fn newer(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"test": "yes"}}, "note": "This is a test event", "reason": "Test",
        "type": "Normal", "action": "Do", "eventTime": "2017-09-19T13:49:16.000000Z", "regarding": {"namespace": "n"},
        "reportingController": "test-controller", "reportingInstance": "test-node"})
}

/// An event without what the server says of it.
fn said(mut event: Value) -> Value {
    let metadata = event["metadata"].as_object_mut().unwrap();
    metadata.remove("resourceVersion");
    metadata.remove("managedFields");
    event
}

#[test_case("api/v1", older, "source=test-controller", json!({"message": "patched"}); "of the core")]
#[test_case("apis/events.k8s.io/v1", newer, "reportingController=test-controller",
    json!({"series": {"count": 2, "lastObservedTime": "2017-09-19T13:49:11.000000Z"}}); "of their own group")]
#[tokio::test]
async fn an_event_lives(group: &str, event: fn(&str) -> Value, selector: &str, patch: Value) {
    let s = Server::new().await;
    let (everywhere, here) = (format!("/{group}/events"), format!("/{group}/namespaces/n/events"));
    s.post(&here, event("e")).await.is(201);
    let one = format!("{here}/e");
    for list in [&everywhere, &here] {
        assert_eq!(s.get(&format!("{list}?labelSelector=test%3Dyes")).await.names(), ["e"]);
        assert_eq!(s.get(&format!("{list}?fieldSelector={}", selector.replace('=', "%3D"))).await.names(), ["e"]);
        assert_eq!(s.get(&format!("{list}?fieldSelector={}", selector.replace('=', "%3Dno-"))).await.names(), [""; 0]);
    }
    // A patch changes what it says and nothing else.
    let mut want = said(s.get(&one).await.is(200));
    s.patch(&one, STRATEGIC, patch.clone()).await.is(200);
    want.as_object_mut().unwrap().extend(patch.as_object().unwrap().clone());
    assert_eq!(said(s.get(&one).await.is(200)), want);
    want["series"] = json!({"count": 100, "lastObservedTime": "2017-09-19T13:49:16.000000Z"});
    s.put(&one, want.clone()).await.is(200);
    assert_eq!(said(s.get(&one).await.is(200)), want);
    s.delete(&one, json!({})).await.is(200);
    for list in [&everywhere, &here] {
        assert_eq!(s.get(&format!("{list}?labelSelector=test%3Dyes")).await.names(), [""; 0]);
    }
    // And many go at once, those of the label alone.
    for i in 1..=3 {
        s.post(&here, event(&format!("test-event-{i}"))).await.is(201);
    }
    let mut other = event("other");
    other["metadata"]["labels"] = json!({});
    s.post(&here, other).await.is(201);
    let selected = format!("{here}?labelSelector=test%3Dyes");
    assert_eq!(s.get(&selected).await.names().len(), 3);
    s.delete(&selected, json!({})).await.is(200);
    assert_eq!(s.get(&here).await.names(), ["other"]);
}
