//! What kinds there are: all resources of the API, once each, in their preferred version.

use serde_json::Value;

use crate::api::status::ApiResult;
use crate::api::value::ValueExt;
use crate::client::{Client, Res, is_unreachable};

/// A resource and what can be done with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The resource.
    pub res: Res,
    /// Its verbs.
    pub verbs: Vec<String>,
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
        if let Some(gv) = group.str_at("/preferredVersion/groupVersion") {
            versions.push((group.str_at("/name").unwrap_or_default().to_owned(), format!("/apis/{gv}")));
        }
    }
    let (mut found, mut silent) = (Vec::new(), Vec::new());
    for (group, path) in versions {
        match client.read(path.clone()).await {
            Ok(list) => found.extend(list.items_at("/resources").iter().filter_map(|r| row(&group, &path, r))),
            // An aggregated API that is down must not stop everything else.
            Err(e) if !is_unreachable(&e) => silent.push(format!("{path}: {e}")),
            Err(e) => return Err(e),
        }
    }
    Ok((found, silent))
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
    Some(Found { res, verbs })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::res;
    use crate::runtime::fake::Cluster;

    #[tokio::test]
    async fn finds_all_resources_of_all_groups() {
        let (all, silent) = resources(&Cluster::new().client()).await.unwrap();
        assert_eq!((all.len(), silent.len()), (res::ALL.len(), 0));
        assert!(all.iter().any(|f| f.res == res::DEPLOYMENTS && f.can(&["list", "delete"])));
    }
}
