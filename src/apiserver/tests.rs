//! What only shows when the parts of the server work together.

use serde_json::{Value, json};
use test_case::test_case;

use super::testing::Bed;
use crate::api::user::UserInfo;

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn config_map(name: &str, value: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"k": value}})
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|o| o["metadata"]["name"].as_str().unwrap()).collect()
}

/// The second page is of the first page's moment, however much has happened since.
#[tokio::test]
async fn a_list_goes_on_where_it_was_over_many_changes() {
    let bed = Bed::new().await;
    for name in ["a", "b", "c", "d"] {
        bed.admin("POST", CONFIG_MAPS, &config_map(name, "old")).await;
    }
    let (_, first) = bed.admin("GET", &format!("{CONFIG_MAPS}?limit=1"), &Value::Null).await;
    assert_eq!(names(&first), ["a"]);
    for i in 0..400 {
        assert_eq!(bed.admin("POST", CONFIG_MAPS, &config_map(&format!("x{i}"), "new")).await.0, 201);
    }
    bed.admin("DELETE", &format!("{CONFIG_MAPS}/d"), &Value::Null).await;
    bed.admin("PATCH", &format!("{CONFIG_MAPS}/c"), &json!({"data": {"k": "new"}})).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let (_, rest) = bed.admin("GET", &format!("{CONFIG_MAPS}?limit=500&continue={token}"), &Value::Null).await;
    assert_eq!(names(&rest), ["b", "c", "d"]);
    assert!(rest["items"].as_array().unwrap().iter().all(|o| o["data"]["k"] == "old"));
}

#[test_case("GET", "/api/v1/configmaps?watch=1&timeoutSeconds=9223372036854775807&resourceVersion=1"; "a watch for ever")]
#[test_case("GET", "/api/v1/configmaps?resourceVersion=18446744073709551615&resourceVersionMatch=Exact"; "a far revision")]
#[test_case("GET", "/api/v1/configmaps?limit=9223372036854775807"; "a huge page")]
#[test_case("DELETE", "/api/v1/namespaces/default/configmaps/x?gracePeriodSeconds=9223372036854775807"; "a long grace")]
#[test_case("GET", "/api/v1/configmaps?continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6OTIyMzM3MjAzNjg1NDc3NTgwNywic3RhcnQiOiJhL2IifQ"; "a far token")]
#[tokio::test]
async fn extreme_numbers_get_an_answer(method: &str, path: &str) {
    let bed = Bed::new().await;
    // A watch goes on: its head is the answer.
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .extension(super::Identity(UserInfo::authenticated("admin", &[UserInfo::MASTERS])))
        .body(http_body_util::Full::<bytes::Bytes>::default())
        .unwrap();
    let answer = bed.api.handle(request).await;
    assert_ne!(answer.status().as_u16(), 500, "{path}");
}

fn kubelet(node: &str) -> UserInfo {
    UserInfo::authenticated(format!("system:node:{node}"), &["system:nodes"])
}

/// Two nodes with a pod each, `p1` and `p2`; gives back the uid of each.
async fn two_nodes(bed: &Bed) -> [String; 2] {
    let account = json!({"metadata": {"name": "default"}});
    assert_eq!(bed.admin("POST", "/api/v1/namespaces/default/serviceaccounts", &account).await.0, 201);
    let mut uids = [String::new(), String::new()];
    for (i, uid) in uids.iter_mut().enumerate() {
        let pod = json!({"metadata": {"name": format!("p{}", i + 1)}, "spec": {"nodeName": format!("n{}", i + 1),
            "automountServiceAccountToken": false, "containers": [{"name": "c", "image": "i"}]}});
        let (code, made) = bed.admin("POST", "/api/v1/namespaces/default/pods", &pod).await;
        assert_eq!(code, 201, "{made}");
        *uid = made["metadata"]["uid"].as_str().unwrap().to_owned();
    }
    uids
}

/// What is posted to a subresource passes admission as what it is.
#[tokio::test]
async fn a_node_asks_only_for_its_own_pods() {
    let bed = Bed::new().await;
    let [own, other] = two_nodes(&bed).await;
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let token = |name: &str, uid: &str| json!({"spec": {"audiences": [], "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": name, "uid": uid}}});
    for (body, want) in [
        (token("p1", &own), 201),
        (token("p2", &other), 403),
        (token("p1", &other), 403),
        (json!({"spec": {"audiences": []}}), 403),
    ] {
        let (code, answer) = bed.ask(&kubelet("n1"), "POST", path, &body).await;
        assert_eq!(code, want, "{answer}");
    }
    for (pod, want) in [("p2", 403), ("p1", 201)] {
        let path = format!("/api/v1/namespaces/default/pods/{pod}/eviction");
        let (code, answer) = bed.ask(&kubelet("n1"), "POST", &path, &json!({"metadata": {"name": pod}})).await;
        assert_eq!(code, want, "{answer}");
    }
}

/// Also one who got more rights than a node has by another way binds nothing while it is a node.
#[tokio::test]
async fn a_node_binds_no_pod() {
    let bed = Bed::new().await;
    two_nodes(&bed).await;
    let pod = json!({"metadata": {"name": "free"}, "spec": {"containers": [{"name": "c", "image": "i"}],
        "automountServiceAccountToken": false}});
    assert_eq!(bed.admin("POST", "/api/v1/namespaces/default/pods", &pod).await.0, 201);
    let mut node = kubelet("n1");
    node.groups.push(UserInfo::MASTERS.into());
    let binding = json!({"metadata": {"name": "free"}, "target": {"kind": "Node", "name": "n1"}});
    for path in ["/api/v1/namespaces/default/pods/free/binding", "/api/v1/namespaces/default/bindings"] {
        let (code, answer) = bed.ask(&node, "POST", path, &binding).await;
        assert_eq!(code, 403, "{answer}");
        assert!(answer["message"].as_str().unwrap().contains("unexpected pod subresource \"binding\""), "{answer}");
    }
    assert_eq!(bed.admin("POST", "/api/v1/namespaces/default/pods/free/binding", &binding).await.0, 201);
}

/// Nothing is evicted, bound or given a token in a namespace that is going.
#[tokio::test]
async fn a_namespace_that_goes_takes_no_posts() {
    let bed = Bed::new().await;
    let (code, _) = bed.admin("POST", "/api/v1/namespaces", &json!({"metadata": {"name": "going"}})).await;
    assert_eq!(code, 201);
    let path = "/api/v1/namespaces/going/serviceaccounts";
    assert_eq!(bed.admin("POST", path, &json!({"metadata": {"name": "a"}})).await.0, 201);
    bed.admin("DELETE", "/api/v1/namespaces/going", &Value::Null).await;
    let (code, answer) = bed.admin("POST", &format!("{path}/a/token"), &json!({"spec": {"audiences": []}})).await;
    assert_eq!((code, &answer["details"]["causes"][0]["reason"]), (403, &json!("NamespaceTerminating")), "{answer}");
}

/// A client that goes away in the middle of a write leaves a write behind, whose address nobody else gets.
#[tokio::test]
async fn an_address_is_held_until_its_service_shows() {
    let bed = Bed::new().await;
    let services = "/api/v1/namespaces/default/services";
    let service =
        |name: &str| json!({"metadata": {"name": name}, "spec": {"clusterIP": "10.43.77.7", "ports": [{"port": 80}]}});
    // Polled once: it has sent its write and waits for the answer.
    let first = service("first");
    let left = futures::FutureExt::now_or_never(bed.admin("POST", services, &first));
    assert_eq!(left, None, "it is answered at once");
    let (code, answer) = bed.admin("POST", services, &service("second")).await;
    assert_eq!(code, 422, "{answer}");
    // The write that was left behind goes on when this test lets it.
    let (mut code, mut made) = (0, Value::Null);
    for _ in 0..100 {
        tokio::task::yield_now().await;
        (code, made) = bed.admin("GET", &format!("{services}/first"), &Value::Null).await;
        if code == 200 {
            break;
        }
    }
    assert_eq!((code, &made["spec"]["clusterIP"]), (200, &json!("10.43.77.7")));
}

/// A quota race: a hundred who create at the same time get what the quota has, and not one more.
#[tokio::test]
async fn a_hundred_creators_share_a_quota_exactly() {
    let bed = Bed::new().await;
    let quotas = "/api/v1/namespaces/default/resourcequotas";
    let hard = json!({"count/configmaps": "10"});
    let quota = json!({"metadata": {"name": "ten"}, "spec": {"hard": hard}});
    assert_eq!(bed.admin("POST", quotas, &quota).await.0, 201);
    let counted = json!({"status": {"hard": hard, "used": {"count/configmaps": "0"}}});
    assert_eq!(bed.admin("PATCH", &format!("{quotas}/ten/status"), &counted).await.0, 200);
    let maps = "/api/v1/namespaces/default/configmaps";
    let bed = &bed;
    let creators = (0..100).map(|i| async move { bed.admin("POST", maps, &config_map(&format!("c{i}"), "x")).await.0 });
    let mut codes = futures::future::join_all(creators).await;
    codes.sort_unstable();
    assert_eq!(codes, [vec![201; 10], vec![403; 90]].concat());
    let (_, list) = bed.admin("GET", maps, &Value::Null).await;
    assert_eq!(names(&list).len(), 10);
    let (_, quota) = bed.admin("GET", &format!("{quotas}/ten"), &Value::Null).await;
    assert_eq!(quota["status"]["used"], json!({"count/configmaps": "10"}));
}
