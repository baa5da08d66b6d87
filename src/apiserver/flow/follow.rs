//! Follows the FlowSchemas and PriorityLevelConfigurations, and says of each schema whether its level is there.

use std::sync::Arc;

use serde_json::Value;

use crate::api::meta::GroupResource;
use crate::api::object::Object;
use crate::api::status::Reason;
use crate::api::user::UserInfo;
use crate::api::value::ValueExt;
use crate::registry::apiextensions::set_condition;
use crate::registry::{Op, Registry, RequestCx, Target};
use crate::store::cache::Since;
use crate::util::clock::SharedClock;
use crate::util::tasks::Shutdown;

use super::super::limits::REQUESTS;
use super::{Flow, config};

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const SCHEMAS: &str = "flowschemas";
const LEVELS: &str = "prioritylevelconfigurations";

/// Keeps what is decided in line with what is stored.
pub struct Follower {
    flow: Arc<Flow>,
    registry: Arc<Registry>,
    clock: SharedClock,
}

impl Follower {
    pub(in crate::apiserver) fn new(flow: Arc<Flow>, registry: Arc<Registry>, clock: SharedClock) -> Self {
        Self { flow, registry, clock }
    }

    /// Until the shutdown.
    pub async fn follow(self, stop: Shutdown) -> anyhow::Result<()> {
        stop.clone().or(self.run()).await.unwrap_or(Ok(()))
    }

    async fn run(&self) -> anyhow::Result<()> {
        let resource = |plural: &'static str| self.registry.cache().resource(&GroupResource::new(GROUP, plural));
        let mut schemas = resource(SCHEMAS).watch(Since::Initial)?;
        let mut levels = resource(LEVELS).watch(Since::Initial)?;
        loop {
            tokio::select! {
                batch = schemas.next_batch() => drop(batch?),
                batch = levels.next_batch() => drop(batch?),
            }
            let stored = |plural| resource(plural).list(None).0;
            let values = |all: &[Arc<Object>]| -> Vec<Value> { all.iter().map(|o| o.value()).collect() };
            let objects = values(&stored(SCHEMAS));
            let plan = config::plan(&values(&stored(LEVELS)), &objects, &crate::registry::first_objects(), REQUESTS);
            let found = plan.found.clone();
            self.flow.take(plan);
            for (name, level, there) in found {
                if let Some(object) = objects.iter().find(|o| o.str_at("/metadata/name") == Some(&name)) {
                    self.tell(object, &name, &level, there).await;
                }
            }
        }
    }

    /// Writes the condition `Dangling`, when it does not say so already.
    async fn tell(&self, object: &Value, name: &str, level: &str, there: bool) {
        let about = format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?}");
        let (reason, message) = match there {
            true => ("Found", format!("{about} and it exists")),
            false => ("NotFound", format!("{about} but there is no such object")),
        };
        let wanted = if there { "False" } else { "True" };
        let told = |c: &Value| {
            c.str_at("/type") == Some("Dangling")
                && c.str_at("/status") == Some(wanted)
                && c.str_at("/message") == Some(&message)
        };
        if object.items_at("/status/conditions").iter().any(told) {
            return;
        }
        let Some(res) = self.registry.resources().get(GROUP, "v1", SCHEMAS) else { return };
        let now = self.clock.now();
        let change = |old: &Value| {
            let mut new = old.clone();
            set_condition(&mut new, ("Dangling", !there, reason, &message), now);
            Ok(new)
        };
        let user = UserInfo::authenticated("system:apiserver", &[UserInfo::MASTERS]);
        let mut cx = RequestCx::new(user, "api-priority-and-fairness-config-consumer-v1", now);
        cx.api_version = res.info.gvk.api_version();
        cx.is_patch = true;
        let at = Target { namespace: String::new(), name: name.to_owned() };
        let op = Op::Subresource("status".into());
        match self.registry.update(&res, &cx, &at, &op, &change, None).await {
            Err(e) if !matches!(e.reason, Reason::NotFound | Reason::Conflict) => {
                tracing::warn!(flowschema = name, "cannot write the status of a FlowSchema: {e}");
            }
            _ => {}
        }
    }
}
