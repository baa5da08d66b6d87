//! What the server writes before anybody else may ask: namespaces, the `kubernetes` Service, roles and bindings, and
//! what else every cluster has from the start.

use std::path::PathBuf;

use anyhow::Context;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use crate::api::node_identity::{self, NAMESPACE};
use crate::api::status::{ApiResult, Reason};
use crate::api::value::ValueExt;
use crate::apiserver::auth::rbac::bootstrap::{Reconcile, objects, reconcile};
use crate::client::{Client, Res, optional, res};
use crate::controllers::bootstrap::{ApiServer, ensure};
use crate::ctl::token as ctl_token;
use crate::pki;
use crate::pki::token::{self, JoinToken};

use super::cluster::Cluster;

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

/// What the server itself has to say of its cluster.
pub struct First {
    /// What nodes have to know.
    pub cluster: Cluster,
    /// The CA of clients, for the servers of nodes.
    pub client_ca_pem: String,
    /// The CA of the front proxy's certificate, for extension API servers.
    pub request_header_ca_pem: String,
    /// The node of this process.
    pub own_node: Option<String>,
    /// Hash of its key: nobody joins under its name.
    pub own_key_hash: String,
    /// The token of the token file.
    pub token: JoinToken,
    /// `<data-dir>/server`, where the token file is.
    pub server_dir: PathBuf,
}

/// Writes what is missing; changes what an older version wrote.
pub async fn run(client: &Client, server: &ApiServer, first: &First) -> anyhow::Result<()> {
    ensure(client, server).await.context("cannot create the first namespaces and Services")?;
    let (mut roles, others) = (objects(), crate::registry::first_objects());
    roles.push(addons_binding());
    let roles = roles.iter().map(|wanted| (wanted, one(client, wanted).boxed()));
    let others = others.iter().map(|(plural, wanted)| (wanted, create(client, plural, wanted).boxed()));
    let writes = stream::iter(roles.chain(others)).map(|(wanted, write)| async move {
        write.await.with_context(|| format!("cannot write {} {}", wanted["kind"], wanted["metadata"]["name"]))
    });
    writes.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    write_cluster(client, first).await.context("cannot write what nodes have to know")?;
    let trusted = trusted_clients(first);
    put(client, &res::CONFIG_MAPS, &trusted, "data")
        .await
        .context("cannot write what extension servers have to know")?;
    register_token(client, first).await.context("cannot write the join token")
}

/// How extension API servers know users: by a client certificate, or by headers of the front proxy's requests. They read it
/// where upstream's write it.
fn trusted_clients(first: &First) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap",
    "metadata": {"name": "extension-apiserver-authentication", "namespace": NAMESPACE},
    "data": {
        "client-ca-file": first.client_ca_pem,
        "requestheader-allowed-names": format!("[{:?}]", pki::FRONT_PROXY),
        "requestheader-client-ca-file": first.request_header_ca_pem,
        "requestheader-extra-headers-prefix": "[\"X-Remote-Extra-\"]",
        "requestheader-group-headers": "[\"X-Remote-Group\"]",
        "requestheader-uid-headers": "[\"X-Remote-Uid\"]",
        "requestheader-username-headers": "[\"X-Remote-User\"]",
    }})
}

/// The settings that nodes read, and the name of the server's own node.
async fn write_cluster(client: &Client, first: &First) -> anyhow::Result<()> {
    put(client, &res::CONFIG_MAPS, &first.cluster.to_config_map(&first.client_ca_pem), "data").await?;
    if let Some(node) = &first.own_node {
        put(client, &res::CONFIG_MAPS, &node_identity::record(node, &first.own_key_hash), "data").await?;
    }
    Ok(())
}

/// The token of the token file, as a Secret with its hash.
async fn register_token(client: &Client, first: &First) -> anyhow::Result<()> {
    let JoinToken { id, secret, .. } = &first.token;
    let name = format!("bootstrap-token-{id}");
    let known = optional(client.get(&res::SECRETS, NAMESPACE, &name).await)?;
    if token::is_registered(&first.server_dir, secret) {
        if known.is_none() {
            tracing::info!("the server's join token was revoked; `orch token create` makes another");
        }
        return Ok(());
    }
    let hash = token::hash(secret);
    let description = "made with the server";
    let wanted = ctl_token::secret(id, &hash, None, description, &[ctl_token::GROUP.to_owned()]);
    put(client, &res::SECRETS, &wanted, "data").await?;
    Ok(token::set_registered(&first.server_dir, &hash)?)
}

/// Creates an object of `kube-system`, or makes one field of the present one as it should be.
async fn put(client: &Client, res: &Res, wanted: &Value, field: &str) -> ApiResult<()> {
    let name = wanted.str_at("/metadata/name").unwrap_or_default();
    let Some(mut known) = optional(client.get(res, NAMESPACE, name).await)? else {
        return client.create(res, NAMESPACE, wanted).await.map(drop);
    };
    if known[field] != wanted[field] {
        known[field] = wanted[field].clone();
        client.update(res, NAMESPACE, name, None, &known).await?;
    }
    Ok(())
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
