//! What the server writes before anybody else may ask: namespaces, the `kubernetes` Service, roles and bindings, and
//! what else every cluster has from the start.

use anyhow::Context;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use crate::api::status::{ApiResult, Reason};
use crate::api::value::ValueExt;
use crate::apiserver::auth::rbac::bootstrap::{Reconcile, objects, reconcile};
use crate::client::{Client, Res, optional};
use crate::controllers::bootstrap::{ApiServer, ensure};

const GROUP: &str = "rbac.authorization.k8s.io";
/// Objects written at a time: those that wait for the store share its sync.
const AT_ONCE: usize = 128;

/// Who applies the manifests of the server's directory. Whoever may write there is root on the server, and what they write
/// may be anything, roles too; so this user may do everything. An administrator may narrow it: without the binding's
/// `autoupdate` annotation it is left as it is.
pub(super) const ADDONS_USER: &str = "system:orch:addons";

fn addons_binding() -> Value {
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": ADDONS_USER, "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"}},
        "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": GROUP, "kind": "User", "name": ADDONS_USER}]})
}

/// Writes what is missing; changes what an older version wrote.
pub async fn run(client: &Client, server: &ApiServer) -> anyhow::Result<()> {
    ensure(client, server).await.context("cannot create the first namespaces and Services")?;
    let (mut roles, others) = (objects(), crate::registry::first_objects());
    roles.push(addons_binding());
    let roles = roles.iter().map(|wanted| (wanted, one(client, wanted).boxed()));
    let others = others.iter().map(|(plural, wanted)| (wanted, create(client, plural, wanted).boxed()));
    let writes = stream::iter(roles.chain(others)).map(|(wanted, write)| async move {
        write.await.with_context(|| format!("cannot write {} {}", wanted["kind"], wanted["metadata"]["name"]))
    });
    writes.buffer_unordered(AT_ONCE).try_collect().await
}

/// Creates a cluster-scoped object unless it is there.
async fn create(client: &Client, plural: &'static str, wanted: &Value) -> ApiResult<()> {
    let (group, version) = crate::api::meta::gvk::split(wanted.str_at("/apiVersion").unwrap_or_default());
    let kind = wanted.str_at("/kind").unwrap_or_default().to_owned();
    let res = Res {
        group: group.to_owned().into(),
        version: version.to_owned().into(),
        plural: plural.into(),
        kind: kind.into(),
        namespaced: false,
    };
    let name = wanted.str_at("/metadata/name").unwrap_or_default();
    if optional(client.get(&res, "", name).await)?.is_some() {
        return Ok(());
    }
    match client.create(&res, "", wanted).await {
        Err(e) if e.reason != Reason::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}

async fn one(client: &Client, wanted: &Value) -> ApiResult<()> {
    let (plural, namespaced) = match wanted.str_at("/kind").unwrap_or_default() {
        "ClusterRole" => ("clusterroles", false),
        "ClusterRoleBinding" => ("clusterrolebindings", false),
        "Role" => ("roles", true),
        _ => ("rolebindings", true),
    };
    let kind = wanted.str_at("/kind").unwrap_or_default().to_owned();
    let res = Res { group: GROUP.into(), version: "v1".into(), plural: plural.into(), kind: kind.into(), namespaced };
    let (namespace, name) =
        (wanted.str_at("/metadata/namespace").unwrap_or_default(), wanted.str_at("/metadata/name").unwrap_or_default());
    let existing = optional(client.get(&res, namespace, name).await)?;
    match reconcile(existing.as_ref(), wanted) {
        Reconcile::Nothing => Ok(()),
        Reconcile::Create(object) => match client.create(&res, namespace, &object).await {
            Err(e) if e.reason != Reason::AlreadyExists => Err(e),
            _ => Ok(()),
        },
        Reconcile::Update(object) => client.update(&res, namespace, name, None, &object).await.map(|_| ()),
        Reconcile::Recreate(object) => {
            client.delete(&res, namespace, name, &crate::client::DeleteOptions::default()).await?;
            client.create(&res, namespace, &object).await.map(|_| ())
        }
    }
}
