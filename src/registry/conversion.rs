//! Objects in the version that is asked for, where a webhook makes it.
//!
//! In: stored objects of a definition whose versions are converted by a webhook. Out: the same objects in one version,
//! with their bytes, so that everything behind answers from bytes as for other kinds. Kinds without a webhook come out in
//! the version that their row takes for the stored one: their rows convert them from it (`Resource::from_stored`).
//!
//! What a webhook made of one revision of an object is kept for a while: upstream's watch cache of a version holds it, too,
//! and a hundred watchers must not ask a hundred times.
//!
//! **Invariant:** an object that is in the version already is never sent to the webhook.
//! **Invariant:** what is kept belongs to one state of the definition; another one asks anew.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::custom::Custom;
use super::{Registry, Resource, encode};
use crate::api::meta::Gvk;
use crate::api::object::Object;
use crate::api::status::{ApiResult, Reason, Status};
use crate::store::cache::{Event, splice_revision};
use bytes::Bytes;

/// How long a webhook may take. Upstream: thirty seconds.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Objects of one question.
const BATCH_OBJECTS: usize = 256;
/// Bytes of the objects of one question; the first is sent whatever its size.
const BATCH_BYTES: usize = 2 << 20;
/// Bytes of converted objects that are kept, for all definitions.
const KEPT_BYTES: usize = 16 << 20;

/// Which state of which object in which version: definition, version, namespace, name, revision.
type Key = (u64, String, String, String, u64);

/// What webhooks made, the oldest first to go.
#[derive(Default)]
pub(super) struct Kept {
    objects: HashMap<Key, Arc<Object>>,
    order: VecDeque<Key>,
    bytes: usize,
}

impl Kept {
    fn put(&mut self, key: Key, object: Arc<Object>) {
        self.bytes += object.json.len();
        if let Some(old) = self.objects.insert(key.clone(), object) {
            self.bytes -= old.json.len();
            return;
        }
        self.order.push_back(key);
        while self.bytes > KEPT_BYTES {
            let Some(oldest) = self.order.pop_front() else { break };
            self.bytes -= self.objects.remove(&oldest).map_or(0, |o| o.json.len());
        }
    }
}

impl Registry {
    /// The objects in a resource's version where a webhook makes it, else in the version that the resource converts from.
    ///
    /// # Errors
    /// 500 with what the webhook did wrong.
    pub async fn in_version(&self, res: &Resource, mut objects: Vec<Arc<Object>>) -> ApiResult<Vec<Arc<Object>>> {
        let Some(custom) = res.by_webhook() else {
            if res.custom.is_some() {
                objects.iter_mut().try_for_each(|o| renamed(res, o))?;
            }
            return Ok(objects);
        };
        let mut asked: Vec<(usize, Value)> = Vec::new();
        let mut bytes = 0;
        for i in 0..objects.len() {
            if objects[i].gvk.version == res.info.gvk.version {
                continue;
            }
            let known = self.kept.lock().objects.get(&key(custom, res, &objects[i])).cloned();
            if let Some(known) = known {
                objects[i] = known;
                continue;
            }
            bytes += objects[i].json.len();
            asked.push((i, objects[i].value()));
            if asked.len() >= BATCH_OBJECTS || bytes >= BATCH_BYTES {
                bytes = 0;
                self.convert_batch(custom, res, &mut objects, std::mem::take(&mut asked)).await?;
            }
        }
        self.convert_batch(custom, res, &mut objects, asked).await?;
        Ok(objects)
    }

    /// The same for one object.
    pub async fn one_in_version(&self, res: &Resource, mut object: Arc<Object>) -> ApiResult<Arc<Object>> {
        if res.by_webhook().is_none() {
            return renamed(res, &mut object).map(|()| object);
        }
        let mut made = self.in_version(res, vec![object]).await?;
        made.pop().ok_or_else(|| Status::internal("a conversion lost its object"))
    }

    /// The same for what happened to objects: both states of each.
    pub async fn events_in_version(&self, res: &Resource, events: Vec<Arc<Event>>) -> ApiResult<Vec<Arc<Event>>> {
        let wanted = if res.by_webhook().is_some() { &res.info.gvk.version } else { &res.info.stored_version };
        let is_own = |o: &Arc<Object>| o.gvk.version == *wanted;
        let all_own = |e: &Arc<Event>| is_own(&e.object) && e.previous.as_ref().is_none_or(is_own);
        if res.custom.is_none() || events.iter().all(all_own) {
            return Ok(events);
        }
        let states = events.iter().flat_map(|e| [Some(&e.object), e.previous.as_ref()].into_iter().flatten());
        let mut states = self.in_version(res, states.cloned().collect()).await?.into_iter();
        let mut next = || states.next().ok_or_else(|| Status::internal("a conversion lost its object"));
        let mut made = Vec::with_capacity(events.len());
        for event in &events {
            let object = next()?;
            let previous = if event.previous.is_some() { Some(next()?) } else { None };
            made.push(Arc::new(Event::new(event.kind, object, previous)));
        }
        Ok(made)
    }

    /// An object in another version of its resource.
    ///
    /// # Errors
    /// 500 with what a webhook did wrong.
    pub async fn converted(&self, mut object: Value, from: &Resource, to: &Resource) -> ApiResult<Value> {
        let Some(custom) = to.by_webhook() else {
            from.to_stored(&mut object);
            to.from_stored(&mut object);
            return Ok(object);
        };
        let mut made = self.ask(custom, to, &[object]).await?;
        made.pop().ok_or_else(|| Status::internal("a conversion lost its object"))
    }

    /// The bytes for the store of an object that is in a resource's version.
    pub(super) async fn encoded(&self, res: &Resource, object: &Value) -> ApiResult<Bytes> {
        if res.by_webhook().is_none() || res.is_stored_version() {
            return Ok(res.encode_for_store(object));
        }
        let stored = self.resources().stored(&res.info.stored);
        let stored = stored.ok_or_else(|| Status::internal("the definition has no stored version any more"))?;
        let made = self.converted(object.clone(), res, &stored).await?;
        Ok(encode::unversioned(&made))
    }

    /// What a write left, as it reads in a resource's version, where a webhook makes that; none for other kinds.
    pub(super) async fn written(&self, res: &Resource, json: &Bytes, revision: u64) -> ApiResult<Option<Arc<Object>>> {
        if res.by_webhook().is_none() || res.is_stored_version() {
            return Ok(None);
        }
        let Some(stored) = self.resources().stored(&res.info.stored) else { return Ok(None) };
        let json = splice_revision(json, revision).unwrap_or_else(|| json.clone());
        let object = Object::from_json(stored.gvk.clone(), json, revision, &[]).map_err(Status::internal)?;
        self.one_in_version(res, Arc::new(object)).await.map(Some)
    }

    async fn convert_batch(
        &self,
        custom: &Custom,
        res: &Resource,
        objects: &mut [Arc<Object>],
        asked: Vec<(usize, Value)>,
    ) -> ApiResult<()> {
        if asked.is_empty() {
            return Ok(());
        }
        let (places, values): (Vec<usize>, Vec<Value>) = asked.into_iter().unzip();
        for (at, value) in places.into_iter().zip(self.ask(custom, res, &values).await?) {
            let json = serde_json::to_vec(&value).map_err(Status::internal)?;
            let revision = objects[at].revision;
            let made = Object::from_json(res.gvk.clone(), json.into(), revision, &res.info.selectable);
            let made = Arc::new(made.map_err(Status::internal)?);
            self.kept.lock().put(key(custom, res, &objects[at]), made.clone());
            objects[at] = made;
        }
        Ok(())
    }

    /// Asks the webhook; what it gives is what the version's schema makes of it.
    async fn ask(&self, custom: &Custom, res: &Resource, objects: &[Value]) -> ApiResult<Vec<Value>> {
        let failed = |why: String| Status::new(Reason::Unknown, why);
        let Some(webhook) = &custom.definition.webhook else { return Ok(objects.to_vec()) };
        let (uid, desired) = (uuid::Uuid::new_v4().to_string(), res.info.gvk.api_version());
        let review = webhook.review(&uid, &desired, objects).map_err(failed)?;
        let body = serde_json::to_vec(&review).map_err(Status::internal)?;
        let answer = self.call.post(&webhook.client, "", TIMEOUT, body).await.map_err(|why| {
            let from = objects.first().map(|o| &o["apiVersion"]).and_then(Value::as_str).unwrap_or_default();
            failed(format!("conversion webhook for {from}, Kind={} failed: {why}", res.info.gvk.kind))
        })?;
        let made = webhook.read(&answer, &uid, &desired, objects).map_err(failed)?;
        let fit = |value: Value| {
            let mut value = custom.decode(value).map_err(failed)?.value;
            custom.default(&mut value);
            Ok(value)
        };
        made.into_iter().map(fit).collect()
    }
}

/// Brings an object of a definition without a webhook into the version that the resource takes for the stored one.
///
/// It is in another one for a moment after that was changed: the cache reads the objects again once the new rows are in
/// force, and a request that began with the rows of before may meet objects that were read again. Between versions without a
/// webhook the name is all that differs.
fn renamed(res: &Resource, object: &mut Arc<Object>) -> ApiResult<()> {
    let info = &res.info;
    if res.custom.is_none() || object.gvk.version == info.stored_version {
        return Ok(());
    }
    let gvk = Gvk { version: info.stored_version.clone(), ..info.gvk.clone() };
    let mut value = object.value();
    value["apiVersion"] = gvk.api_version().into();
    let json = serde_json::to_vec(&value).map_err(Status::internal)?;
    let made = Object::from_json(Arc::new(gvk), json.into(), object.revision, &info.selectable);
    *object = Arc::new(made.map_err(Status::internal)?);
    Ok(())
}

fn key(custom: &Custom, res: &Resource, o: &Object) -> Key {
    let (namespace, name) = (o.meta.namespace.clone(), o.meta.name.clone());
    (custom.definition.state, res.info.gvk.version.to_string(), namespace, name, o.revision)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn without_a_webhook_the_rows_own_view_of_the_stored_version_counts() {
        let crd = |stored: &str| {
            let version = |name: &str| {
                json!({"name": name, "served": true, "storage": name == stored, "schema": {"openAPIV3Schema": {"type": "object",
                    "x-kubernetes-preserve-unknown-fields": true}}})
            };
            json!({
                "spec": {"group": "e.com", "scope": "Namespaced", "versions": [version("v1"), version("v2")]},
                "status": {
                    "acceptedNames": {"plural": "things", "kind": "Thing", "listKind": "ThingList"},
                    "conditions": [{"type": "NamesAccepted", "status": "True"}],
                },
            })
        };
        let gvk = |version: &str| {
            let text = |s: &str| s.to_owned().into();
            Arc::new(Gvk { group: text("e.com"), version: text(version), kind: text("Thing") })
        };
        for (stored, found) in [("v1", "v1"), ("v1", "v2"), ("v2", "v1"), ("v2", "v2")] {
            let crd = crd(stored);
            for row in super::super::custom::Definition::of(&crd).unwrap().resources(&crd) {
                let json =
                    json!({"apiVersion": format!("e.com/{found}"), "kind": "Thing", "metadata": {"name": "a"}, "x": 1});
                let object = Object::from_json(gvk(found), json.to_string().into(), 7, &[]).unwrap();
                let mut object = Arc::new(object);
                renamed(&row, &mut object).unwrap();
                assert_eq!((&*object.gvk.version, object.revision), (stored, 7));
                let mut value = object.value();
                row.from_stored(&mut value);
                assert_eq!((&value["apiVersion"], &value["x"]), (&json!(row.info.gvk.api_version()), &json!(1)));
            }
        }
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut kept = Kept::default();
        let text = "x".repeat(KEPT_BYTES / 4);
        for revision in 0..10 {
            let object = Object::from_value(&json!({"metadata": {"name": "a"}, "text": text}), &[]);
            kept.put((1, "v1".into(), String::new(), "a".into(), revision), Arc::new(object));
        }
        assert!(kept.bytes <= KEPT_BYTES && kept.objects.len() == kept.order.len() && kept.objects.len() == 3);
        assert!(kept.objects.contains_key(&(1, "v1".into(), String::new(), "a".into(), 9)));
    }
}
