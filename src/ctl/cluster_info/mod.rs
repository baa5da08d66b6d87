//! `cluster-info`: where the control plane answers, and the services that belong to the cluster.

mod dump;

use super::cx::{Cx, Done, say};
use crate::api::value::ValueExt;
use crate::client::res::SERVICES;

/// Addresses of the control plane and cluster services
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum What {
    Dump(dump::Args),
}

/// Runs the verb.
pub async fn run(cx: &Cx, args: Args) -> Done {
    if let Some(What::Dump(args)) = args.what {
        return dump::run(cx, args).await;
    }
    say(format!("Kubernetes control plane is running at {}", cx.server))?;
    for service in cx.items(&SERVICES, "kube-system", "kubernetes.io/cluster-service=true", "").await? {
        let text = |path: &str| service.str_at(path).unwrap_or_default();
        let name = match text("/metadata/labels/kubernetes.io~1name") {
            "" => text("/metadata/name"),
            name => name,
        };
        let port = service.items_at("/spec/ports").first();
        let port = port.and_then(|p| p.str_at("/name")).map_or(String::new(), |n| format!(":{n}"));
        let path = format!("/api/v1/namespaces/kube-system/services/{}{port}/proxy", text("/metadata/name"));
        say(format!("{name} is running at {}{path}", cx.server))?;
    }
    say("\nTo further debug and diagnose cluster problems, use 'kubectl cluster-info dump'.")
}
