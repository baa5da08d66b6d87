//! The API servers of a cluster as a node knows them: tried in turn, the one that answered last first.
//!
//! **Invariant:** the list is never empty once it was not.

use std::sync::Arc;

use arc_swap::ArcSwap;
use http::Uri;
use tokio_util::sync::CancellationToken;

/// The name that every API server's certificate has, whatever address it is reached at.
pub const SERVER_NAME: &str = "kubernetes.default.svc";

/// Addresses of API servers. Cheap to share; changed while connections are made.
#[derive(Debug)]
pub struct Servers {
    list: ArcSwap<Vec<Uri>>,
    /// Ends the connections that are open.
    epoch: ArcSwap<CancellationToken>,
}

impl Servers {
    /// `https://host:port` each, at least one.
    pub fn new(list: Vec<Uri>) -> Arc<Self> {
        Arc::new(Self { list: ArcSwap::from_pointee(list), epoch: ArcSwap::from_pointee(CancellationToken::new()) })
    }

    /// All of them, the preferred one first.
    pub fn list(&self) -> Arc<Vec<Uri>> {
        self.list.load_full()
    }

    /// Takes a new list; an empty one is not taken. The preferred one stays in front while it is in the list. True when
    /// something changed.
    pub fn replace(&self, mut new: Vec<Uri>) -> bool {
        let old = self.list.load();
        if let Some(at) = old.first().and_then(|first| new.iter().position(|s| s == first)) {
            new[..=at].rotate_right(1);
        }
        let changed = !new.is_empty() && **old != new;
        if changed {
            self.list.store(Arc::new(new));
        }
        changed
    }

    /// This one answered: it is asked first from now on.
    pub fn prefer(&self, server: &Uri) {
        let old = self.list.load();
        if old.first() == Some(server) {
            return;
        }
        if let Some(at) = old.iter().position(|s| s == server) {
            let mut new = (**old).clone();
            new[..=at].rotate_right(1);
            self.list.store(Arc::new(new));
        }
    }

    /// Ends all connections: a certificate was renewed, and they were made with the old one.
    pub fn reconnect(&self) {
        self.epoch.swap(Arc::new(CancellationToken::new())).cancel();
    }

    pub(super) fn epoch(&self) -> CancellationToken {
        (**self.epoch.load()).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_answered_is_first_and_stays_so() {
        let uri = |n: u8| format!("https://192.0.2.{n}:6443").parse::<Uri>().unwrap();
        let servers = Servers::new(vec![uri(1), uri(2), uri(3)]);
        servers.prefer(&uri(3));
        assert_eq!(*servers.list(), [uri(3), uri(1), uri(2)]);
        assert!(servers.replace(vec![uri(1), uri(3), uri(4)]));
        assert_eq!(*servers.list(), [uri(3), uri(1), uri(4)]);
        assert!(!servers.replace(vec![]), "better an old list than none");
        assert!(!servers.replace(vec![uri(3), uri(1), uri(4)]));
        let epoch = servers.epoch();
        servers.reconnect();
        assert!(epoch.is_cancelled() && !servers.epoch().is_cancelled());
    }
}
