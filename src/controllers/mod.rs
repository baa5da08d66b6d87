//! The controllers: each brings one kind of object where it should be.
//!
//! One folder each: `plan.rs` decides (pure), `mod.rs` reads through listers and acts through the client. [`CONTROLLERS`] is
//! the one list; [`start`] runs it. What a cluster has from the start is in [`bootstrap`].

pub mod addons;
pub mod aggregation;
pub mod autoscaling;
pub mod bootstrap;
pub mod certificates;
pub mod common;
pub mod cronjob;
pub mod daemonset;
pub mod deployment;
pub mod devicetaint;
pub mod disruption;
pub mod endpoints;
pub mod garbage;
pub mod identity;
pub mod job;
pub mod loadbalancer;
pub mod namespace;
pub mod node;
pub mod quota;
pub mod replicaset;
pub mod resourceclaim;
pub mod serviceranges;
pub mod statefulset;
pub mod tokens;
pub mod volumes;

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use ipnet::IpNet;

use crate::client::Client;
use crate::runtime::metrics::Registry;
use crate::runtime::{Cx, Error, Listers, Reconciler, events, reconciler};
use crate::util::backoff::Backoff;
use crate::util::clock::SharedClock;
use crate::util::tasks::{OnEnd, Shutdown, Tasks};

/// What controllers have to be told.
#[derive(Clone, Default)]
pub struct Config {
    /// Pod addresses of the cluster: one range, or one of each family.
    pub cluster_cidrs: Vec<IpNet>,
    /// The CA that signed the API server's certificate, PEM.
    pub root_ca_pem: String,
    /// Seconds without a heartbeat after which a node counts as silent; upstream's when none are given.
    pub node_grace_seconds: Option<i64>,
    /// TCP ports that the nodes need themselves, which no load balancer gets; none where nodes balance no load.
    pub balanced_but: Option<Vec<u16>>,
    /// The way to nodes, for volumes that are directories there; none where that part is disabled.
    pub local_path: Option<volumes::local_path::Nodes>,
    /// Makes tokens for Secrets; none makes none.
    pub token_secrets: Option<tokens::secrets::Sign>,
    /// What signs certificates; none signs none.
    pub signing: Option<certificates::Signing>,
}

/// A row of the list.
pub enum Controller {
    /// A reconciler, run by the common loop.
    Reconciler(fn(&Config) -> Box<dyn Reconciler>),
    /// Something with a loop of its own: its name and the loop.
    Loop(&'static str, fn(Cx, Shutdown) -> BoxFuture<'static, Result<(), Error>>),
}

use Controller::{Loop, Reconciler as R};

/// All controllers. Add yours here.
pub const CONTROLLERS: &[Controller] = &[
    R(|_| namespace::deletion()),
    R(|_| namespace::default_service_account()),
    R(|c| namespace::root_ca(&c.root_ca_pem)),
    R(|_| deployment::controller()),
    R(|_| replicaset::Replicas::of_sets()),
    R(|_| replicaset::Replicas::of_controllers()),
    R(|_| statefulset::controller()),
    R(|_| daemonset::controller()),
    R(|_| disruption::controller()),
    R(|_| disruption::stale()),
    R(|_| aggregation::controller()),
    R(|_| quota::controller()),
    R(|_| job::controller()),
    R(|_| job::ttl::controller()),
    R(|_| cronjob::controller()),
    R(|_| resourceclaim::making()),
    R(|_| resourceclaim::claims()),
    R(|_| devicetaint::controller()),
    R(|_| autoscaling::controller()),
    R(|_| endpoints::slices()),
    R(|_| endpoints::endpoints()),
    R(|_| endpoints::mirror()),
    R(|c| loadbalancer::controller(c.balanced_but.as_deref())),
    R(|_| serviceranges::ranges()),
    R(|_| serviceranges::addresses()),
    R(|c| node::lifecycle(c.node_grace_seconds)),
    R(|_| node::eviction::controller()),
    R(|c| node::ipam::Ipam::over(c.cluster_cidrs.clone())),
    R(|_| node::ttl::controller()),
    Loop("generic-garbage-collector", |cx, stop| garbage::run(cx, stop).boxed()),
    R(|_| garbage::pods::controller()),
    R(|_| certificates::approving()),
    R(|c| certificates::signing(c.signing.clone())),
    R(|_| certificates::cleaner()),
    R(|_| certificates::names()),
    R(|_| tokens::cleaner()),
    R(|_| tokens::unused::controller()),
    R(|c| tokens::secrets::controller(c.token_secrets.clone(), &c.root_ca_pem)),
    R(|_| volumes::claims::controller()),
    R(|_| volumes::attach::controller()),
    R(|_| volumes::supply::controller()),
    R(|_| volumes::protect::claims()),
    R(|_| volumes::protect::volumes()),
    R(|_| volumes::protect::classes()),
    R(|_| volumes::ephemeral::controller()),
    R(|_| volumes::expand::controller()),
    R(|c| volumes::local_path::provisioner(c.local_path.clone())),
    R(|c| volumes::local_path::deleter(c.local_path.clone())),
    R(|c| volumes::local_path::class(c.local_path.clone())),
];

/// Gives the client of a controller, by its name; so each can be who it is upstream,
/// `system:serviceaccount:kube-system:<name>`.
pub type ClientFor = Arc<dyn Fn(&'static str) -> Client + Send + Sync>;

/// Starts all controllers, each as a task that is started again when it fails.
pub fn start(
    tasks: &mut Tasks,
    config: &Config,
    client_for: &ClientFor,
    listers: &Arc<dyn Listers>,
    clock: &SharedClock,
    metrics: &Registry,
) {
    let manager = "kube-controller-manager";
    let (recorder, writer) = events::recorder(client_for(manager).named(manager), manager, "", clock.clone());
    tasks.own("controller-events", OnEnd::Fine, move |stop| async move {
        writer.run(stop).await;
        Ok(())
    });
    let cx_for = |name: &'static str, speaks_as: &str| Cx {
        client: client_for(name).named(manager),
        listers: listers.clone(),
        clock: clock.clone(),
        events: recorder.named(speaks_as),
        metrics: metrics.clone(),
    };
    for row in CONTROLLERS {
        match row {
            Controller::Reconciler(make) => {
                let controller: Arc<dyn Reconciler> = make(config).into();
                let cx = cx_for(controller.name(), controller.speaks_as());
                tasks.own_restarting(controller.name(), Backoff::RESTART, move |stop| {
                    let (controller, cx) = (controller.clone(), cx.clone());
                    async move { Ok(reconciler::run(&*controller, cx, stop).await?) }.boxed()
                });
            }
            Loop(name, run) => {
                let cx = cx_for(name, name);
                tasks.own_restarting(name, Backoff::RESTART, move |stop| {
                    let work = run(cx.clone(), stop);
                    async move { Ok(work.await?) }.boxed()
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::value::ValueExt;
    use crate::client::res;
    use crate::runtime::fake::Cluster;
    use serde_json::json;
    use std::time::Duration;

    #[test]
    fn names_are_unique() {
        let config = Config::default();
        let mut names: Vec<&str> = CONTROLLERS
            .iter()
            .map(|c| match c {
                Controller::Reconciler(make) => make(&config).name(),
                Loop(name, _) => name,
            })
            .collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    /// Upstream's names in `source.component` and `reportingComponent`, where they are not the controller's.
    #[test]
    fn events_are_signed_as_upstream_does() {
        let config = Config { cluster_cidrs: vec!["10.42.0.0/16".parse().unwrap()], ..Config::default() };
        let signed = CONTROLLERS.iter().filter_map(|c| match c {
            Controller::Reconciler(make) => {
                let controller = make(&config);
                Some((controller.name(), controller.speaks_as()))
            }
            Loop(..) => None,
        });
        let mut others: Vec<_> = signed.filter(|(name, voice)| name != voice).collect();
        others.sort_unstable();
        let want = [
            ("daemon-set-controller", "daemonset-controller"),
            ("disruption-controller", "controllermanager"),
            ("endpointslice-controller", "endpoint-slice-controller"),
            ("endpointslicemirroring-controller", "endpoint-slice-mirroring-controller"),
            ("ephemeral-volume-controller", "ephemeral_volume"),
            ("expand-controller", "volume_expand"),
            ("node-ipam-controller", "cidrAllocator"),
            ("persistent-volume-binder", "persistentvolume-controller"),
            ("persistent-volume-controller", "persistentvolume-controller"),
            ("resource-claim-controller", "resource_claim"),
            ("resource-claim-making-controller", "resource_claim"),
            ("service-cidrs-controller", "service-cidr-controller"),
        ];
        assert_eq!(others, want);
    }

    /// All controllers together: a Deployment becomes pods, with events; its deletion takes them away.
    #[tokio::test]
    async fn a_deployment_becomes_pods_and_goes_with_them() {
        let cluster = Cluster::new();
        let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {}});
        cluster
            .put(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "n"},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": template}}));
        let shutdown = Shutdown::new();
        let mut tasks = Tasks::new(shutdown.clone());
        let client = cluster.client();
        let client_for: ClientFor = Arc::new(move |_| client.clone());
        let listers: Arc<dyn Listers> = cluster.listers.clone();
        let clock: SharedClock = cluster.clock.clone();
        start(&mut tasks, &Config::default(), &client_for, &listers, &clock, &Registry::default());
        let all_there = |c: &Cluster| {
            let scaled = c.api.all(&res::EVENTS).iter().any(|e| e.str_at("/reason") == Some("ScalingReplicaSet"));
            c.api.all(&res::PODS).len() == 3 && scaled
        };
        cluster.until(|_, stop| async move { stop.wait().await }, all_there).await;
        cluster.client().delete(&res::DEPLOYMENTS, "n", "web", &Default::default()).await.unwrap();
        let gone = |c: &Cluster| c.api.all(&res::PODS).is_empty() && c.api.all(&res::REPLICA_SETS).is_empty();
        cluster.until(|_, stop| async move { stop.wait().await }, gone).await;
        shutdown.trigger();
        tasks.join_in_reverse(Duration::from_secs(5)).await;
    }
}
