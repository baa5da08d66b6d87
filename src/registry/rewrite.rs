//! Writes around a kind's strategy: of what the server itself decides about an object, as the node of a pod.
//!
//! Neither defaults nor admission nor validation nor managed fields see such a change: the request behind it was for another
//! object, which they have judged. Upstream: the calls of `GuaranteedUpdate` in `pkg/registry`.
//!
//! **Invariant:** what is written is made of what was stored at that moment: a lost race is run again.

use super::strategy::Held;
use super::write::{MAX_CONFLICT_RETRIES, modified, store_failure};
use super::{Registry, RequestCx, Resource, Target};
use crate::api::edit::Edit;
use crate::api::object::Object;
use crate::api::status::{ApiResult, Status};
use crate::store::{CommitError, Expect};

/// Changes the text of an object.
pub type Rewrite<'a> = &'a (dyn Fn(&Object, &mut Edit) -> ApiResult<()> + Send + Sync);

impl Registry {
    /// Changes a stored object; in a dry run only tries to. The kind is one of the table's that is stored in the version
    /// of `res`.
    ///
    /// # Errors
    /// 404 where it is not there; what `change` refuses it with.
    pub async fn rewrite(&self, res: &Resource, cx: &RequestCx, at: &Target, change: Rewrite<'_>) -> ApiResult<()> {
        let plain = res.def.filter(|_| !res.converts() && res.by_webhook().is_none());
        let def = plain.ok_or_else(|| Status::internal("a kind that is converted is not rewritten"))?;
        for _ in 0..=MAX_CONFLICT_RETRIES {
            let Some(current) = self.cache().resource(&res.info.stored).get(&at.namespace, &at.name) else {
                return Err(Status::not_found(&res.info.gvk.group, &res.info.plural, &at.name));
            };
            let mut edit = Edit::new(&current.json, def);
            change(&current, &mut edit)?;
            if cx.dry_run {
                return Ok(());
            }
            // The store's revision is its truth.
            edit.remove(&["metadata", "resourceVersion"]);
            let (key, expect) = (res.key(&at.namespace, &at.name), Expect::Revision(current.revision));
            match self.commit(key, expect, Some(edit.finish()), Held::default()).await {
                Ok(_) => return Ok(()),
                Err(CommitError::Conflict { .. }) => {}
                Err(other) => return Err(store_failure(&other)),
            }
        }
        Err(modified(res, &at.name))
    }
}
