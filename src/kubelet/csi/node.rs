//! What a driver says of the node, for others: the CSINode object, and the node's labels and annotation.
//!
//! Rules: upstream `pkg/volume/csi/nodeinfomanager`.
//!
//! **Invariant:** only this node's own objects are written; other drivers' entries stay as they are.

use serde_json::{Map, Value, json};

use crate::api::status::{ApiResult, Reason, Status};
use crate::api::value::ValueExt;
use crate::client::{Client, Patch, res};
use crate::kubelet::cri::proto::csi::NodeGetInfoResponse;

/// On the Node: the node's name in each driver's words, as JSON.
const NODE_IDS: &str = "csi.volume.kubernetes.io/nodeid";
/// Writes that lose against somebody else's before giving up.
const TRIES: u32 = 5;

/// The driver's entry of a CSINode.
fn entry(driver: &str, info: &NodeGetInfoResponse) -> Value {
    let mut out = json!({"name": driver, "nodeID": info.node_id});
    let keys: Vec<&String> = info.accessible_topology.iter().flat_map(|t| t.segments.keys()).collect();
    if !keys.is_empty() {
        out["topologyKeys"] = json!(keys);
    }
    if info.max_volumes_per_node > 0 {
        // The API holds 32 bits; so many volumes are no limit.
        let most = i32::try_from(info.max_volumes_per_node).unwrap_or(i32::MAX);
        out["allocatable"] = json!({ "count": most });
    }
    out
}

/// The CSINode of a node without drivers.
fn of_no_driver(node: &Value) -> Value {
    let name = node.str_at("/metadata/name").unwrap_or_default();
    let uid = node.str_at("/metadata/uid").unwrap_or_default();
    let owner = json!({"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid});
    json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSINode", "spec": {"drivers": []},
        "metadata": {"name": name, "ownerReferences": [owner]}})
}

/// Makes the node's CSINode where there is none, so that whoever looks for it finds it from the start. Upstream:
/// `InitializeCSINodeWithAnnotation`.
pub async fn ensure(client: &Client, node: &Value) -> ApiResult<()> {
    let name = node.str_at("/metadata/name").unwrap_or_default();
    if crate::client::optional(client.get(&res::CSI_NODES, "", name).await)?.is_some() {
        return Ok(());
    }
    match client.create(&res::CSI_NODES, "", &of_no_driver(node)).await {
        Err(e) if e.reason != Reason::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}

/// The CSINode with a driver's entry made, replaced, or (without one) removed; none when it says so already.
fn csi_node(old: Option<&Value>, node: &Value, driver: &str, entry: Option<&Value>) -> Option<Value> {
    let mut out = old.cloned().unwrap_or_else(|| of_no_driver(node));
    let drivers = out.items_at("/spec/drivers").to_vec();
    let known = drivers.iter().find(|d| d.str_at("/name") == Some(driver));
    if known == entry || (known.is_none() && entry.is_none()) {
        return None;
    }
    let mut new: Vec<Value> = drivers.iter().filter(|d| d.str_at("/name") != Some(driver)).cloned().collect();
    new.extend(entry.cloned());
    out["spec"]["drivers"] = new.into();
    Some(out)
}

/// The merge patch of the Node; none when it says so already. A label of the driver's that has another value is an error.
fn node_patch(node: &Value, driver: &str, info: Option<&NodeGetInfoResponse>) -> Result<Option<Value>, String> {
    let annotations = &node["metadata"]["annotations"];
    let before = annotations[NODE_IDS].as_str();
    let mut ids: Map<String, Value> = before.and_then(|t| serde_json::from_str(t).ok()).unwrap_or_default();
    match info {
        Some(info) => drop(ids.insert(driver.to_owned(), info.node_id.as_str().into())),
        None => drop(ids.remove(driver)),
    }
    let after = (!ids.is_empty()).then(|| Value::Object(ids).to_string());
    let mut patch = json!({});
    if before != after.as_deref() {
        patch["metadata"]["annotations"][NODE_IDS] = after.map_or(Value::Null, Value::String);
    }
    for (key, value) in info.into_iter().flat_map(|i| &i.accessible_topology).flat_map(|t| &t.segments) {
        match node["metadata"]["labels"][key.as_str()].as_str() {
            Some(there) if there == value => {}
            Some(there) => {
                return Err(format!(
                    "detected topology value collision: driver reported {key:?}:{value:?} but existing label is {key:?}:{there:?}"
                ));
            }
            None => patch["metadata"]["labels"][key.as_str()] = value.as_str().into(),
        }
    }
    Ok((patch != json!({})).then_some(patch))
}

/// Writes what a driver says of the node, or (without a word of it) takes that away.
///
/// # Errors
/// The API refuses, or the driver contradicts a label of the node.
pub async fn tell(client: &Client, name: &str, driver: &str, info: Option<&NodeGetInfoResponse>) -> Result<(), String> {
    let text = |e: Box<Status>| e.to_string();
    let node = client.get(&res::NODES, "", name).await.map_err(text)?;
    if let Some(patch) = node_patch(&node, driver, info)? {
        client.patch(&res::NODES, "", name, None, Patch::Merge(&patch)).await.map_err(text)?;
    }
    let entry = info.map(|i| entry(driver, i));
    let mut tries = 0;
    loop {
        tries += 1;
        match write(client, &node, driver, entry.as_ref()).await {
            Err(e) if tries < TRIES && matches!(e.reason, Reason::Conflict | Reason::AlreadyExists) => {}
            // What is fixed in an entry changes only with a new one.
            Err(e) if tries < TRIES && e.reason == Reason::Invalid && entry.is_some() => {
                write(client, &node, driver, None).await.map_err(text)?;
            }
            other => return other.map_err(text),
        }
    }
}

async fn write(client: &Client, node: &Value, driver: &str, entry: Option<&Value>) -> ApiResult<()> {
    let name = node.str_at("/metadata/name").unwrap_or_default();
    let old = crate::client::optional(client.get(&res::CSI_NODES, "", name).await)?;
    match (csi_node(old.as_ref(), node, driver, entry), old) {
        (None, _) => Ok(()),
        (Some(new), Some(_)) => client.update(&res::CSI_NODES, "", name, None, &new).await.map(drop),
        (Some(new), None) => client.create(&res::CSI_NODES, "", &new).await.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubelet::cri::proto::csi::Topology;
    use crate::runtime::fake::Cluster;

    fn info(id: &str, most: i64, topology: &[(&str, &str)]) -> NodeGetInfoResponse {
        let segments = topology.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        NodeGetInfoResponse {
            node_id: id.into(),
            max_volumes_per_node: most,
            accessible_topology: Some(Topology { segments }),
        }
    }

    #[tokio::test]
    async fn drivers_come_and_go_beside_each_other() {
        let cluster = Cluster::new();
        let node = json!({"metadata": {"name": "node", "uid": "1", "labels": {"d/zone": "a"}}});
        cluster.put({
            let mut n = node.clone();
            n["apiVersion"] = "v1".into();
            n["kind"] = "Node".into();
            n
        });
        let client = cluster.client();
        for _ in 0..2 {
            ensure(&client, &node).await.unwrap();
        }
        assert_eq!(cluster.get(&res::CSI_NODES, "", "node").unwrap()["spec"], json!({"drivers": []}));
        tell(&client, "node", "d", Some(&info("id", 3, &[("d/zone", "a"), ("d/host", "h")]))).await.unwrap();
        tell(&client, "node", "e", Some(&info("other", 0, &[]))).await.unwrap();
        let csi = cluster.get(&res::CSI_NODES, "", "node").unwrap();
        let want = json!([{"name": "d", "nodeID": "id", "topologyKeys": ["d/host", "d/zone"], "allocatable": {"count": 3}},
            {"name": "e", "nodeID": "other"}]);
        assert_eq!(csi["spec"]["drivers"], want);
        assert_eq!(csi.str_at("/metadata/ownerReferences/0/name"), Some("node"));
        let node = cluster.get(&res::NODES, "", "node").unwrap();
        assert_eq!(node["metadata"]["annotations"][NODE_IDS], r#"{"d":"id","e":"other"}"#);
        assert_eq!(node["metadata"]["labels"]["d/host"], "h");
        tell(&client, "node", "d", None).await.unwrap();
        tell(&client, "node", "d", None).await.unwrap();
        let csi = cluster.get(&res::CSI_NODES, "", "node").unwrap();
        assert_eq!(csi["spec"]["drivers"].as_array().map(Vec::len), Some(1));
        let node = cluster.get(&res::NODES, "", "node").unwrap();
        assert_eq!(node["metadata"]["annotations"][NODE_IDS], r#"{"e":"other"}"#);
    }

    #[test]
    fn what_is_said_already_is_not_written() {
        let node = json!({"metadata": {"name": "node", "uid": "1"}});
        let e = entry("d", &info("id", 0, &[]));
        let made = csi_node(None, &node, "d", Some(&e)).unwrap();
        assert_eq!(csi_node(Some(&made), &node, "d", Some(&e)), None);
        assert_eq!(csi_node(None, &node, "d", None), None, "nothing to take away");
        let labelled = json!({"metadata": {"labels": {"k": "b"}}});
        assert!(node_patch(&labelled, "d", Some(&info("id", 0, &[("k", "a")]))).unwrap_err().contains("collision"));
    }
}
