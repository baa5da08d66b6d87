//! Who is asked whether a request may be done, one after another until one has an opinion.
//!
//! In: attributes and a user. Out: a decision and its reason. Node and RBAC answer from memory; webhooks are waited for.
//!
//! **Invariant:** administrators are let in before anybody is asked: no webhook locks the cluster.
//! **Invariant:** nobody's yes is needed for a no: who has no opinion changes nothing, and nobody's opinion is a no.

pub mod conditions;
pub mod config;
pub mod selectors;
pub mod webhook;

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::runtime::{Handle, RuntimeFlavor};

use super::Authorizer;
use crate::api::user::{Attributes, Decision, UserInfo};
use webhook::Asked;

/// One that is asked.
pub enum Link {
    /// One that answers from memory.
    Local(Arc<dyn Authorizer>),
    /// One that is waited for.
    Webhook(Box<Asked>),
}

/// Who is asked, in order.
pub struct Modes(ArcSwap<Vec<Link>>);

/// Has no opinion but a no.
pub struct AlwaysDeny;

impl Authorizer for AlwaysDeny {
    fn authorize(&self, _: &Attributes, _: &UserInfo) -> Decision {
        Decision::NoOpinion("Everything is forbidden.".into())
    }
}

/// What those before have said.
#[derive(Default)]
struct Said(Vec<String>);

impl Said {
    /// The opinion, if this is one.
    fn take(&mut self, (decision, why): (Decision, String)) -> Option<(Decision, String)> {
        match decision {
            Decision::NoOpinion(_) => {
                if !why.is_empty() {
                    self.0.push(why);
                }
                None
            }
            opinion => Some((opinion, why)),
        }
    }

    fn nothing(self) -> (Decision, String) {
        let reason = self.0.join("\n");
        (Decision::NoOpinion(reason.clone()), reason)
    }
}

/// One local answer; the reason of a yes only where it is wanted.
fn ask(local: &dyn Authorizer, a: &Attributes, user: &UserInfo, explained: bool) -> (Decision, String) {
    if explained {
        return local.explain(a, user);
    }
    match local.authorize(a, user) {
        Decision::NoOpinion(why) => (Decision::NoOpinion(String::new()), why),
        opinion => (opinion, String::new()),
    }
}

impl Modes {
    /// These, in this order.
    pub fn new(links: Vec<Link>) -> Self {
        Self(ArcSwap::from_pointee(links))
    }

    /// Others from now on.
    pub fn replace(&self, links: Vec<Link>) {
        self.0.store(Arc::new(links));
    }

    /// True when a webhook is among them.
    pub fn has_webhooks(&self) -> bool {
        self.0.load().iter().any(|l| matches!(l, Link::Webhook(_)))
    }

    /// The decision; with its reason where that is wanted, which costs a little more.
    pub async fn decide(&self, a: &Attributes, user: &UserInfo, explained: bool) -> (Decision, String) {
        if user.in_group(UserInfo::MASTERS) {
            return (Decision::Allow, String::new());
        }
        let links = self.0.load_full();
        let mut said = Said::default();
        for link in links.iter() {
            let answer = match link {
                Link::Local(local) => ask(&**local, a, user, explained),
                Link::Webhook(webhook) => Box::pin(webhook.decide(a, user)).await,
            };
            if let Some(opinion) = said.take(answer) {
                return opinion;
            }
        }
        said.nothing()
    }

    /// The same for those who cannot wait: admission plugins and expressions. A worker of the runtime waits in their place
    /// where there is a webhook to be waited for.
    fn decide_now(&self, a: &Attributes, user: &UserInfo, explained: bool) -> (Decision, String) {
        let links = self.0.load_full();
        let waits = links.iter().any(|l| matches!(l, Link::Webhook(_)));
        if waits
            && !user.in_group(UserInfo::MASTERS)
            && let Ok(runtime) = Handle::try_current()
            && runtime.runtime_flavor() == RuntimeFlavor::MultiThread
        {
            return tokio::task::block_in_place(|| runtime.block_on(self.decide(a, user, explained)));
        }
        if user.in_group(UserInfo::MASTERS) {
            return (Decision::Allow, String::new());
        }
        let mut said = Said::default();
        for link in links.iter() {
            let answer = match link {
                Link::Local(local) => ask(&**local, a, user, explained),
                Link::Webhook(webhook) => webhook.failed("nobody can wait for it here"),
            };
            if let Some(opinion) = said.take(answer) {
                return opinion;
            }
        }
        said.nothing()
    }
}

impl Authorizer for Modes {
    fn authorize(&self, a: &Attributes, user: &UserInfo) -> Decision {
        self.decide_now(a, user, false).0
    }

    fn explain(&self, a: &Attributes, user: &UserInfo) -> (Decision, String) {
        self.decide_now(a, user, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Says(Decision);

    impl Authorizer for Says {
        fn authorize(&self, _: &Attributes, _: &UserInfo) -> Decision {
            self.0.clone()
        }
    }

    #[tokio::test]
    async fn the_first_opinion_counts_and_reasons_of_the_others_add_up() {
        let none = |why: &str| Says(Decision::NoOpinion(why.into()));
        let links = |all: Vec<Says>| Modes::new(all.into_iter().map(|s| Link::Local(Arc::new(s) as _)).collect());
        let (a, jane) = (Attributes::default(), UserInfo::authenticated("jane", &[]));
        let nobody = links(vec![none("a"), none(""), none("b")]);
        assert_eq!(nobody.decide(&a, &jane, false).await.0, Decision::NoOpinion("a\nb".into()));
        assert_eq!(nobody.authorize(&a, &jane), Decision::NoOpinion("a\nb".into()));
        let denied = links(vec![none("a"), Says(Decision::Deny("no".into())), Says(Decision::Allow)]);
        assert_eq!(denied.decide(&a, &jane, true).await.0, Decision::Deny("no".into()));
        let admin = UserInfo::authenticated("root", &[UserInfo::MASTERS]);
        assert_eq!(denied.decide(&a, &admin, true).await.0, Decision::Allow);
        denied.replace(vec![Link::Local(Arc::new(Says(Decision::Allow)))]);
        assert_eq!(denied.decide(&a, &jane, false).await.0, Decision::Allow);
    }
}
