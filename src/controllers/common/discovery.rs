//! What kinds there are: all resources of the API, once each, in their preferred version.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use serde_json::Value;

use crate::api::meta::gvk;
use crate::api::status::{ApiResult, Reason};
use crate::api::value::ValueExt;
use crate::client::{Client, Res, is_unreachable, optional};

/// A resource and what can be done with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The resource.
    pub res: Res,
    /// Its verbs.
    pub verbs: Vec<String>,
    /// The versions that it is served in, the preferred one first.
    pub versions: Vec<String>,
}

impl Found {
    /// True when it has all of `verbs`.
    pub fn can(&self, verbs: &[&str]) -> bool {
        verbs.iter().all(|v| self.verbs.iter().any(|x| x == v))
    }
}

/// All resources, and the group versions that did not answer.
pub async fn resources(client: &Client) -> ApiResult<(Vec<Found>, Vec<String>)> {
    let mut versions = vec![(String::new(), "/api/v1".to_owned())];
    let groups = client.read("/apis".into()).await?;
    for group in groups.items_at("/groups") {
        let name = group.str_at("/name").unwrap_or_default();
        let preferred = group.str_at("/preferredVersion/groupVersion");
        let others = group.items_at("/versions").iter().filter_map(|v| v.str_at("/groupVersion"));
        let all = preferred.into_iter().chain(others.filter(|gv| Some(*gv) != preferred));
        versions.extend(all.map(|gv| (name.to_owned(), format!("/apis/{gv}"))));
    }
    let (mut found, mut silent) = (Vec::<Found>::new(), Vec::new());
    let mut seen: HashMap<_, usize> = HashMap::new();
    for (group, path) in versions {
        match client.read(path.clone()).await {
            Ok(list) => {
                for kind in list.items_at("/resources").iter().filter_map(|r| row(&group, &path, r)) {
                    // A kind may be in some versions of its group only: definitions make such ones.
                    match seen.entry((kind.res.group.clone(), kind.res.plural.clone())) {
                        Entry::Occupied(known) => found[*known.get()].versions.extend(kind.versions),
                        Entry::Vacant(new) => {
                            new.insert(found.len());
                            found.push(kind);
                        }
                    }
                }
            }
            // Not served any more since the groups were asked for.
            Err(e) if e.reason == Reason::NotFound => {}
            // An aggregated API that is down must not stop everything else.
            Err(e) if !is_unreachable(&e) => silent.push(format!("{path}: {e}")),
            Err(e) => return Err(e),
        }
    }
    Ok((found, silent))
}

/// Resources by kind, each group version asked for at most once: for a piece of work, not for long.
pub struct Kinds<'a> {
    client: &'a Client,
    known: HashMap<String, Version>,
}

/// What a group version serves.
struct Version {
    resources: Vec<Found>,
    /// Plurals of those with the subresource `scale`.
    scaled: HashSet<String>,
}

impl<'a> Kinds<'a> {
    /// Nothing asked yet.
    pub fn of(client: &'a Client) -> Self {
        Self { client, known: HashMap::new() }
    }

    /// The resource of a kind; none when the server has no such kind, or not yet.
    pub async fn find(&mut self, api_version: &str, kind: &str) -> ApiResult<Option<Res>> {
        if !self.known.contains_key(api_version) {
            let (group, _) = gvk::split(api_version);
            let path = if group.is_empty() { format!("/api/{api_version}") } else { format!("/apis/{api_version}") };
            let list = optional(self.client.read(path.clone()).await)?;
            let rows = || list.iter().flat_map(|l| l.items_at("/resources"));
            let scaled = |r: &Value| r.str_at("/name").and_then(|n| n.strip_suffix("/scale")).map(str::to_owned);
            let version = Version {
                resources: rows().filter_map(|r| row(group, &path, r)).collect(),
                scaled: rows().filter_map(scaled).collect(),
            };
            self.known.insert(api_version.to_owned(), version);
        }
        Ok(self.known[api_version].resources.iter().find(|f| f.res.kind == kind).map(|f| f.res.clone()))
    }

    /// True when a resource that was found here has a scale.
    pub fn has_scale(&self, res: &Res) -> bool {
        self.known.get(&res.api_version()).is_some_and(|v| v.scaled.contains(&*res.plural))
    }

    /// The resource of a kind in any version of its group; in the one that is named where it is there.
    pub async fn find_in_group(&mut self, api_version: &str, kind: &str) -> ApiResult<Option<Res>> {
        if let Some(res) = self.find(api_version, kind).await? {
            return Ok(Some(res));
        }
        let (group, _) = gvk::split(api_version);
        if group.is_empty() {
            return self.find("v1", kind).await;
        }
        let found = optional(self.client.read(format!("/apis/{group}")).await)?.unwrap_or_default();
        for version in found.items_at("/versions").iter().filter_map(|v| v.str_at("/groupVersion")) {
            if let Some(res) = self.find(version, kind).await? {
                return Ok(Some(res));
            }
        }
        Ok(None)
    }
}

fn row(group: &str, path: &str, resource: &Value) -> Option<Found> {
    let plural = resource.str_at("/name").filter(|n| !n.contains('/'))?;
    let version = path.rsplit('/').next()?;
    let res = Res {
        group: group.to_owned().into(),
        version: version.to_owned().into(),
        plural: plural.to_owned().into(),
        kind: resource.str_at("/kind")?.to_owned().into(),
        namespaced: resource.bool_at("/namespaced").unwrap_or(false),
    };
    let verbs = resource.items_at("/verbs").iter().filter_map(|v| v.as_str().map(str::to_owned)).collect();
    Some(Found { res, verbs, versions: vec![version.to_owned()] })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::res;
    use crate::runtime::fake::Cluster;

    #[tokio::test]
    async fn a_kind_leads_to_its_resource() {
        let client = Cluster::new().client();
        let mut kinds = Kinds::of(&client);
        assert_eq!(kinds.find("apps/v1", "Deployment").await.unwrap(), Some(res::DEPLOYMENTS.clone()));
        assert_eq!(kinds.find("v1", "Thing").await.unwrap(), None);
        assert_eq!(kinds.find("x.example/v1", "Thing").await.unwrap(), None);
        assert_eq!(kinds.find("apps/v1beta1", "Deployment").await.unwrap(), None);
        assert_eq!(kinds.find_in_group("apps/v1beta1", "Deployment").await.unwrap(), Some(res::DEPLOYMENTS.clone()));
        assert_eq!(kinds.find_in_group("v2", "Pod").await.unwrap(), Some(res::PODS.clone()));
        assert_eq!(kinds.find_in_group("x.example/v1", "Thing").await.unwrap(), None);
    }

    #[tokio::test]
    async fn finds_all_resources_of_all_groups() {
        let (all, silent) = resources(&Cluster::new().client()).await.unwrap();
        assert_eq!((all.len(), silent.len()), (res::ALL.len(), 0));
        assert!(all.iter().any(|f| f.res == res::DEPLOYMENTS && f.can(&["list", "delete"])));
    }
}
