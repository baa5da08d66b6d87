//! Finished Jobs go after their `ttlSecondsAfterFinished`. Rule: upstream `pkg/controller/ttlafterfinished`.

use async_trait::async_trait;

use super::model::Job;
use crate::api::object::ObjectKey;
use crate::api::value::ValueExt;
use crate::client::{DeleteOptions, Propagation, optional, res};
use crate::runtime::{Cx, Error, Reconciler, Requeue, Watches};

/// The controller.
pub struct Ttl;

/// For the list of controllers.
pub fn controller() -> Box<dyn Reconciler> {
    Box::new(Ttl)
}

/// Seconds until a Job may go; none when it has no such time, or does not know yet.
pub fn left(job: &Job, now: i64) -> Option<i64> {
    let ttl = job.spec.int_at("/ttlSecondsAfterFinished")?;
    Some(job.finished_at()?.as_second() + ttl - now)
}

#[async_trait]
impl Reconciler for Ttl {
    fn name(&self) -> &'static str {
        "ttl-after-finished-controller"
    }

    fn watches(&self) -> Watches {
        Watches::own(&res::JOBS)
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        let Some(object) = cx.get(&res::JOBS, key).filter(|o| !o.is_deleting()) else { return Ok(Requeue::Never) };
        match left(&Job::new(&object), cx.now().as_second()) {
            None => Ok(Requeue::Never),
            Some(wait) if wait > 0 => Ok(Requeue::after_seconds(Some(wait))),
            Some(_) => {
                // Only the state that was looked at: the time may have been changed meanwhile.
                let options = DeleteOptions {
                    propagation: Some(Propagation::Foreground),
                    resource_version: Some(object.revision.to_string()),
                    ..DeleteOptions::of_uid(&object.meta.uid)
                };
                optional(cx.client.delete(&res::JOBS, &key.namespace, &key.name, &options).await)?;
                Ok(Requeue::Never)
            }
        }
    }
}
