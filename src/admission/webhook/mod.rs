//! Admission webhooks: others' servers that change a new object or refuse a request.
//!
//! In: requests that the chain's own plugins have let through. Out: changed objects, refusals, warnings. `hook` says which
//! webhooks a request is for, `review` what they are asked and answer; `registry::outward` reaches them.
//!
//! **Invariant:** a webhook holds up one request, for its timeout at most; nothing is locked meanwhile.
//! **Invariant:** where no configuration is stored, a request pays for two look-ups and nothing else.
//!
//! Rules: upstream `apiserver/pkg/admission/plugin/webhook/{mutating,validating,generic}`.

mod hook;
mod review;

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use futures::future::join_all;
use serde_json::Value;

use super::asking::{Asking, is_of};
use super::matching::GroupVersion;
use crate::admission::policy::{Ask, request};
use crate::api::audit::annotate;
use crate::api::cel::Named;
use crate::api::patch;
use crate::api::status::{ApiResult, Status};
use crate::registry::View;
use crate::registry::outward::Call;

use hook::Hook;
use review::{Decision, Question};

const GROUP: &str = "admissionregistration.k8s.io";

/// The hooks of one kind of configuration, as of the revisions they were read at.
#[derive(Default)]
struct Compiled {
    revisions: Vec<(String, u64)>,
    hooks: Vec<Arc<Hook>>,
}

/// All webhooks of a server.
pub struct Webhooks {
    mutating: ArcSwap<Compiled>,
    validating: ArcSwap<Compiled>,
    call: Arc<dyn Call>,
    ask: Arc<dyn Ask>,
}

/// What the second round of mutation has to know of the first one.
#[derive(Default)]
pub struct Rounds {
    asked: HashSet<String>,
    again: HashSet<String>,
    last: Option<Value>,
    /// Some webhook changed the object.
    pub changed: bool,
    second: bool,
}

impl Rounds {
    /// Makes it the second round. `new` is the object after the plugins of the server have seen it once more.
    pub fn next(&mut self, new: &Value) {
        self.second = true;
        if self.last.as_ref() != Some(new) {
            self.again.extend(self.asked.drain());
        }
    }
}

/// A failed call of a webhook, or what it decided.
enum Outcome {
    Decided(Decision),
    Ignored,
}

impl Webhooks {
    /// Called through `call`; `ask` answers what their conditions ask the authorizer.
    pub fn new(call: Arc<dyn Call>, ask: Arc<dyn Ask>) -> Self {
        Self { mutating: ArcSwap::default(), validating: ArcSwap::default(), call, ask }
    }

    /// True when the conditions of a hook hold. What cannot be told is refused, unless the hook's failures are ignored:
    /// then it is not asked.
    fn conditions_hold(
        &self,
        cx: &Asking<'_>,
        hook: &Hook,
        new: Option<&Value>,
        old: Option<&Value>,
    ) -> ApiResult<bool> {
        if hook.conditions.is_empty() {
            return Ok(true);
        }
        let values = request::values(cx.admission, new, old, cx.view, &self.ask);
        match hook.conditions.hold(&Named(&values)) {
            Ok(hold) => Ok(hold),
            Err(_) if hook.ignores_failure => Ok(false),
            Err(why) => {
                let info = &cx.admission.resource.info;
                Err(Status::forbidden(&info.gvk.group, &info.plural, &cx.admission.target.name, &why))
            }
        }
    }

    /// Asks the mutating webhooks, one after another. For a deletion `new` is none, and nothing can be changed.
    pub async fn mutate(
        &self,
        cx: &Asking<'_>,
        mut new: Option<&mut Value>,
        old: Option<&Value>,
        rounds: &mut Rounds,
    ) -> ApiResult<()> {
        let hooks = compiled(&self.mutating, "mutatingwebhookconfigurations", cx.view);
        for hook in &hooks.hooks {
            if rounds.second && !(hook.reinvoked && rounds.again.contains(&hook.id)) {
                continue;
            }
            let Some(version) = cx.matches(&hook.matcher, new.as_deref(), old)? else { continue };
            if !self.conditions_hold(cx, hook, new.as_deref(), old)? {
                continue;
            }
            let outcome = self.ask(cx, hook, &version, new.as_deref(), old, true).await?;
            if let Outcome::Decided(decision) = outcome {
                decision.allowed?;
                if let Some(patch) = decision.patch
                    && apply(cx, hook, &version, new.as_deref_mut(), patch).await?
                {
                    rounds.changed = true;
                    rounds.again.extend(rounds.asked.drain());
                }
            }
            if hook.reinvoked {
                rounds.asked.insert(hook.id.clone());
            }
            rounds.last = new.as_deref().cloned();
        }
        Ok(())
    }

    /// Asks the validating webhooks, all at once. The first refusal in their order is the answer.
    pub async fn validate(&self, cx: &Asking<'_>, new: Option<&Value>, old: Option<&Value>) -> ApiResult<()> {
        let hooks = compiled(&self.validating, "validatingwebhookconfigurations", cx.view);
        if hooks.hooks.is_empty() {
            return Ok(());
        }
        let mut matched = Vec::new();
        for hook in &hooks.hooks {
            if let Some(version) = cx.matches(&hook.matcher, new, old)?
                && self.conditions_hold(cx, hook, new, old)?
            {
                matched.push((hook, version));
            }
        }
        let answers =
            join_all(matched.iter().map(|(hook, version)| self.ask(cx, hook, version, new, old, false))).await;
        answers.into_iter().try_for_each(|outcome| match outcome? {
            Outcome::Decided(decision) => decision.allowed,
            Outcome::Ignored => Ok(()),
        })
    }

    async fn ask(
        &self,
        cx: &Asking<'_>,
        hook: &Hook,
        version: &GroupVersion,
        new: Option<&Value>,
        old: Option<&Value>,
        mutating: bool,
    ) -> ApiResult<Outcome> {
        if cx.admission.cx.dry_run && !hook.dry_run {
            return Err(Status::bad_request(format!("admission webhook {:?} does not support dry run", hook.name)));
        }
        let between = cx.between(version);
        let (new, old) = (between.to(new).await?, between.to(old).await?);
        let question = Question { admission: cx.admission, version, new: new.as_deref(), old: old.as_deref() };
        let uid = uuid::Uuid::new_v4().to_string();
        let body = serde_json::to_vec(&question.review(hook, &uid)).map_err(Status::internal)?;
        let query = format!("timeout={}s", hook.timeout.as_secs());
        let failure = match self.call.post(&hook.client, &query, hook.timeout, body).await {
            Err(why) => format!("failed to call webhook: {why}"),
            Ok(bytes) => match review::answer(&bytes, hook, &uid, mutating) {
                Err(why) => format!("received invalid webhook response: {why}"),
                Ok(mut decision) => {
                    std::mem::take(&mut decision.annotations).into_iter().for_each(|note| annotate(|| note));
                    decision.warnings.iter().for_each(|w| cx.admission.cx.warn(w.clone()));
                    return Ok(Outcome::Decided(decision));
                }
            },
        };
        let why = format!("failed calling webhook {:?}: {failure}", hook.name);
        if hook.ignores_failure {
            tracing::warn!("failing open: {why}");
            return Ok(Outcome::Ignored);
        }
        Err(Status::internal(why))
    }
}

/// Applies a webhook's patch; true when it changed the object.
async fn apply(
    cx: &Asking<'_>,
    hook: &Hook,
    version: &GroupVersion,
    new: Option<&mut Value>,
    patch: Value,
) -> ApiResult<bool> {
    let Some(new) = new else {
        let why = "attempted to modify the object, which is not supported for this operation";
        return Err(Status::internal(format!("admission webhook {:?} {why}", hook.name)));
    };
    let between = cx.between(version);
    let shown = between.to(Some(new)).await?.map_or(Value::Null, Cow::into_owned);
    let patched = patch::json::apply(shown, patch).map_err(|e| Status::internal(&e.message))?;
    let resource = cx.admission.resource;
    let mut patched = between.back(patched).await?;
    if is_of(&patched, resource) {
        patched = resource.decoded(patched).map_err(Status::internal)?;
        resource.apply_defaults(&mut patched);
    }
    let changed = *new != patched;
    *new = patched;
    Ok(changed)
}

/// The hooks of all configurations, by the configurations' names; read anew when one changed.
fn compiled(cell: &ArcSwap<Compiled>, plural: &str, view: &dyn View) -> Arc<Compiled> {
    let mut stored = view.list(GROUP, plural, None);
    if stored.is_empty() {
        return Arc::default();
    }
    stored.sort_by(|a, b| a.meta.name.cmp(&b.meta.name));
    let current = cell.load_full();
    let same = |(o, (name, revision)): (&Arc<crate::api::object::Object>, &(String, u64))| {
        o.meta.name == *name && o.revision == *revision
    };
    if stored.len() == current.revisions.len() && stored.iter().zip(&current.revisions).all(same) {
        return current;
    }
    let made = Arc::new(Compiled {
        revisions: stored.iter().map(|o| (o.meta.name.clone(), o.revision)).collect(),
        hooks: stored.iter().flat_map(|o| Hook::all(o)).map(Arc::new).collect(),
    });
    cell.store(made.clone());
    made
}
