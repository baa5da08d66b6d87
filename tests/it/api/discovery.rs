//! What clients find in one document for all groups.
//!
//! Conformance, [sig-api-machinery] AggregatedDiscovery: "should support aggregated discovery interface", "should support raw
//! aggregated discovery endpoint Accept headers".
//! Conformance, [sig-api-machinery] AdmissionWebhook: "should include webhook resources in discovery documents".

use super::*;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
/// As client-go asks: the newest form, an older one, what there always was.
const CLIENT_GO: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
    application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
const EXPECTED: &[(&str, &str, &str)] = &[
    ("admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations"),
    ("admissionregistration.k8s.io", "v1", "mutatingwebhookconfigurations"),
    ("apiextensions.k8s.io", "v1", "customresourcedefinitions"),
    ("apiregistration.k8s.io", "v1", "apiservices"),
    ("apps", "v1", "deployments"),
    ("authentication.k8s.io", "v1", "tokenreviews"),
    ("authorization.k8s.io", "v1", "selfsubjectaccessreviews"),
    ("autoscaling", "v1", "horizontalpodautoscalers"),
    ("autoscaling", "v2", "horizontalpodautoscalers"),
    ("batch", "v1", "jobs"),
    ("certificates.k8s.io", "v1", "certificatesigningrequests"),
    ("coordination.k8s.io", "v1", "leases"),
    ("discovery.k8s.io", "v1", "endpointslices"),
    ("events.k8s.io", "v1", "events"),
    ("networking.k8s.io", "v1", "ingresses"),
    ("node.k8s.io", "v1", "runtimeclasses"),
    ("policy", "v1", "poddisruptionbudgets"),
    ("scheduling.k8s.io", "v1", "priorityclasses"),
    ("storage.k8s.io", "v1", "csinodes"),
];

fn has(list: &Value, group: &str, version: &str, resource: &str) -> bool {
    let all = |of: &Value| of.as_array().cloned().unwrap_or_default();
    let groups =
        all(&list["items"]).into_iter().filter(|g| g["metadata"]["name"].as_str().unwrap_or_default() == group);
    let versions = groups.flat_map(|g| all(&g["versions"])).filter(|v| v["version"] == version);
    versions.flat_map(|v| all(&v["resources"])).any(|r| r["resource"] == resource)
}

#[tokio::test]
async fn every_group_is_in_one_document() {
    let s = Server::new().await;
    for accept in [AGGREGATED, CLIENT_GO] {
        let groups = s.get_as("/apis", accept).await;
        assert_eq!(groups.content_type, AGGREGATED);
        let groups = groups.is(200);
        assert_eq!(
            (&groups["kind"], &groups["apiVersion"]),
            (&json!("APIGroupDiscoveryList"), &json!("apidiscovery.k8s.io/v2"))
        );
        for (group, version, resource) in EXPECTED {
            assert!(has(&groups, group, version, resource), "{group} {version} {resource}");
        }
        assert!(has(&s.get_as("/api", accept).await.is(200), "", "v1", "namespaces"));
    }
    // Both ways of asking find the same.
    for (group, version, resource) in EXPECTED {
        let list = s.get(&format!("/apis/{group}/{version}")).await.is(200);
        assert!(list["resources"].as_array().unwrap().iter().any(|r| r["name"] == *resource), "{group} {resource}");
    }
    assert_eq!(s.get_as("/apis", "application/json").await.is(200)["kind"], "APIGroupList");
}

/// The same through a client library.
#[tokio::test]
async fn a_client_finds_every_group() {
    let s = Server::new().await;
    let client = kube::Client::new(s.service.clone(), "default");
    let found = kube::discovery::Discovery::new(client).run_aggregated().await.unwrap();
    for (group, version, resource) in EXPECTED {
        let group = found.groups().find(|g| g.name() == *group).unwrap_or_else(|| panic!("{group}"));
        let resources = group.versioned_resources(version);
        // What has no verb but to create is listed by its kind all the same.
        assert!(resources.iter().any(|(r, _)| r.plural == *resource), "{} {resource}", group.name());
    }
    assert!(found.groups().any(|g| g.name().is_empty() && g.versions().any(|v| v == "v1")));
}
