//! `orch agent`: one more node of a cluster.
//!
//! In: a server and a token, once; after that what `<data-dir>/agent` keeps. Out: a node whose parts work as those of a
//! server's node do, over a client with the node's own certificate.
//!
//! **Invariant:** what the servers say is only needed to become a node: one that has been a node starts without them.

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use futures::{FutureExt, StreamExt};
use http::Uri;
use rand::Rng;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::api::status::Reason;
use crate::api::value::ValueExt;
use crate::client::{Client, Credentials, Servers, res};
use crate::kubelet::serve::opener;
use crate::pki::tls::SwappableCert;
use crate::pki::token::{self, JoinToken};
use crate::runtime::kept::{self, Part};
use crate::runtime::node_listers::{Before, Connect, NodeListers};
use crate::runtime::{Delta, Listers};
use crate::util::backoff::Backoff;
use crate::util::clock::{SharedClock, SystemClock};
use crate::util::notify::{Notify, Word};
use crate::util::tasks::{OnEnd, Shutdown, Tasks};

use super::cluster::{self, Cluster};
use super::flags::{Common, NodeFlags, TokenFlags};
use super::identity::Identity;
use super::join::{self, Asker, Files, JoinError};
use super::manager::{self, Watched};
use super::node::{FoundRuntime, NodeParts};

/// Between attempts to join.
const JOIN_RETRY: Backoff = Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(30) };
/// How long a node that has been one asks for the newest settings before it starts with the ones it knows: after a power
/// cut a switch takes some seconds longer than a machine, and what was replaced meanwhile must not run again for that.
const SETTINGS_WAIT: Duration = Duration::from_secs(10);
/// Between two questions within that time.
const SETTINGS_RETRY: Duration = Duration::from_millis(500);
/// How long a stop may take before what still runs is aborted.
const STOP_DEADLINE: Duration = Duration::from_secs(20);
/// What a node keeps of its cluster: the servers and their settings.
const STATE: &str = "cluster.json";

/// Flags of `orch agent`; the names are k3s's where k3s has the same thing.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub common: Common,
    /// Server to join, as https://HOST:6443
    #[arg(short, long, visible_alias = "join", value_name = "URL", env = "ORCH_URL")]
    pub server: Option<String>,
    #[command(flatten)]
    pub token: TokenFlags,
    #[command(flatten)]
    pub node: NodeFlags,
}

/// Runs until a signal or a failure.
pub fn main(args: Args) -> anyhow::Result<ExitCode> {
    args.common.log();
    super::on_threads(async {
        let shutdown = Shutdown::new();
        super::signals::stop_on_signals(&shutdown)?;
        let mut agent = Agent::build(args).await?;
        match shutdown.or(agent.join()).await {
            Some(node) => agent.run(node?, shutdown).await,
            None => Ok(()),
        }
    })
}

/// A machine that may be a node already.
struct Agent {
    args: Args,
    name: String,
    token: Option<JoinToken>,
    servers: Arc<Servers>,
    files: Files,
    runtime: FoundRuntime,
    port: tokio::net::TcpListener,
    clock: SharedClock,
    notify: Notify,
}

/// One that is a node.
struct Member {
    ca_pem: String,
    client: Client,
    cert: Arc<SwappableCert>,
    cluster: Cluster,
    client_ca_pem: String,
    /// No server answered: what was known last has to do.
    alone: bool,
}

impl Agent {
    /// Looks at flags and files; nothing is sent.
    async fn build(args: Args) -> anyhow::Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            bail!("a node needs root; run as root");
        }
        let data_dir = args.common.data_dir()?;
        let name = args.node.name()?;
        let token = args.token.read()?.map(|t| token::parse(&t)).transpose()?;
        let runtime = FoundRuntime::find(&data_dir, &args.node)?;
        let port = super::node::bind_port(args.node.kubelet_port).await?;
        let files = Files::open(data_dir.join("agent"))?;
        let mut known = state_servers(&state(&files)?);
        if let Some(server) = &args.server {
            let server = server_uri(server)?;
            known.retain(|s| *s != server);
            known.push(server);
        }
        if known.is_empty() {
            bail!("this machine has not joined yet: name a server with --server https://HOST:6443, and its --token");
        }
        let (clock, notify) = (Arc::new(SystemClock), Notify::from_env());
        Ok(Self { args, name, token, servers: Servers::new(known), files, runtime, port, clock, notify })
    }

    /// Becomes a node, or finds out that it is one. Ends early only when somebody has to change something.
    async fn join(&mut self) -> anyhow::Result<Member> {
        let mut failures = 0;
        loop {
            match self.try_join().await {
                Ok(member) => return Ok(member),
                Err(JoinError::Final(why)) => bail!(why),
                Err(JoinError::Again(why)) => {
                    failures += 1;
                    let delay = JOIN_RETRY.delay(failures).mul_f64(rand::rng().random_range(1.0..1.3));
                    tracing::warn!(seconds = delay.as_secs(), "cannot join yet, trying again: {why}");
                    self.notify.tell(Word::Status(&format!("cannot join yet: {why}")));
                    tokio::time::sleep(delay).await;
                }
            }
        }
    }

    async fn try_join(&self) -> Result<Member, JoinError> {
        let ca_pem = join::trust(&self.files, &self.servers, self.token.as_ref()).await?;
        let kept = self.files.pair(join::CLIENT)?;
        let pair = match kept.filter(|p| p.is_of(&format!("system:node:{}", self.name))) {
            // With nobody to ask, a clock that was not set yet keeps the pods of a rebooted node waiting no longer than
            // servers that are not there.
            Some(pair) if pair.begins() > self.clock.now().as_second() => match join::shown_by(&self.servers).await {
                Err(_) if self.has_been_node()? => pair,
                _ => return Err(self.explained("the node's certificate is not valid yet").await),
            },
            Some(pair) if pair.ends() > self.clock.now().as_second() => pair,
            _ => self.certificate(&ca_pem).await?,
        };
        let certified = pair.certified().map_err(|e| JoinError::Final(e.to_string()))?;
        let cert = SwappableCert::new(certified);
        let client = Client::tls_any(self.servers.clone(), ca_pem.as_bytes(), Credentials::Rotating(cert.clone()))
            .map_err(|e| JoinError::Final(e.to_string()))?;
        let (cluster, client_ca_pem, alone) = self.settings(&client).await?;
        Ok(Member { ca_pem, client, cert, cluster, client_ca_pem, alone })
    }

    /// Whether a server has told it of its cluster.
    fn has_been_node(&self) -> Result<bool, JoinError> {
        Ok(state(&self.files)?.get("settings").is_some_and(|s| Cluster::from_config_map(s).is_ok()))
    }

    /// A certificate for the token.
    async fn certificate(&self, ca_pem: &str) -> Result<crate::pki::Pair, JoinError> {
        let Some(token) = &self.token else {
            return Err(JoinError::Final("this machine has no certificate that holds: give a --token".into()));
        };
        let text = token.to_string();
        let asker = Asker::Token(&text);
        match join::client_certificate(&self.files, &self.name, &self.servers, ca_pem, asker).await {
            Ok(pair) => {
                tracing::info!(node = self.name, "got the node's certificate");
                Ok(pair)
            }
            Err(JoinError::Again(why)) => Err(self.explained(&why).await),
            failed => failed,
        }
    }

    /// Why something failed; when the clocks differ, that is why.
    async fn explained(&self, why: &str) -> JoinError {
        let clocks = join::shown_by(&self.servers).await.ok().and_then(|s| s.clocks());
        JoinError::Again(match clocks {
            Some(clocks) => format!("{clocks} ({why})"),
            None => why.to_owned(),
        })
    }

    /// What the node has to know of its cluster: from a server, or as it was told last, and whether it was that.
    async fn settings(&self, client: &Client) -> Result<(Cluster, String, bool), JoinError> {
        let known = state(&self.files)?;
        let kept = known.get("settings").and_then(|s| Cluster::from_config_map(s).ok());
        let asking = async {
            loop {
                let asked = client.get(&res::CONFIG_MAPS, cluster::NAMESPACE, cluster::NAME).await;
                let away = asked.as_ref().err().filter(|e| crate::client::is_unreachable(e));
                match away.filter(|_| kept.is_some()) {
                    Some(why) => tracing::debug!("asking for settings again: {}", why.message),
                    None => return asked,
                }
                tokio::time::sleep(SETTINGS_RETRY).await;
            }
        };
        let asked = match kept.is_some() {
            true => tokio::time::timeout(SETTINGS_WAIT, asking).await.map_err(|_| "no server answers".to_owned()),
            false => Ok(asking.await),
        };
        if let Ok(Err(e)) = &asked
            && e.reason == Reason::Unauthorized
        {
            return Err(JoinError::Final(format!(
                "the servers do not take the certificate of node {}: another machine has its name by now; join again with \
                 another --node-name and a --token",
                self.name
            )));
        }
        let asked = asked.and_then(|a| a.map_err(|e| e.message.clone()));
        let read = asked.and_then(|map| {
            let (cluster, client_ca) = Cluster::from_config_map(&map).map_err(|e| format!("{e:#}"))?;
            Ok((cluster, client_ca, json!({"data": map["data"]})))
        });
        match (read, kept) {
            (Ok((cluster, client_ca, map)), _) => {
                save(&self.files, &self.servers, &map)?;
                Ok((cluster, client_ca, false))
            }
            (Err(why), Some((cluster, client_ca))) => {
                tracing::warn!("starting with what the servers said last: {why}");
                Ok((cluster, client_ca, true))
            }
            (Err(why), None) => Err(JoinError::Again(why)),
        }
    }

    /// What the node knew last, where no server says what is, and the tokens that it has.
    fn before(&self, alone: bool) -> (Before, Arc<kept::Tokens>) {
        let read = |part: Part| kept::read(&self.files.path(part.file()), &self.name);
        let mut pods = read(Part::Pods);
        let tokens = pods.as_mut().map(|known| std::mem::take(&mut known.tokens)).unwrap_or_default();
        let tokens = kept::Tokens::new(tokens);
        if !alone {
            return (Before::default(), tokens);
        }
        let count = pods.as_ref().and_then(|k| k.objects.get("pods")).map_or(0, Vec::len);
        tracing::warn!(pods = count, "no server answers: going on with the pods that this node knew last");
        (Before { pods, network: read(Part::Network) }, tokens)
    }

    async fn run(self, member: Member, shutdown: Shutdown) -> anyhow::Result<()> {
        let data_dir = self.args.common.data_dir()?;
        let peer = self.servers.list().first().and_then(|s| s.host()?.trim_matches(['[', ']']).parse().ok());
        let address = Arc::new(self.args.node.address(peer, &member.cluster, &data_dir));
        let node = self.args.node.config(&data_dir, &self.name, address.watch(), &member.cluster)?;
        let (before, tokens) = self.before(member.alone);
        let parts = NodeParts::new(node, self.runtime);
        let mut tasks = Tasks::new(shutdown);
        let connect: Connect = {
            let (servers, ca, cert) = (self.servers.clone(), member.ca_pem.clone(), member.cert.clone());
            Arc::new(move || {
                Client::tls_any(servers.clone(), ca.as_bytes(), Credentials::Rotating(cert.clone()))
                    .expect("the same has made a client before")
            })
        };
        let (listers, informers) = NodeListers::new(&self.name, connect, &before);
        drop(before);
        let listers: Arc<dyn Listers> = listers;
        tasks.own("informers", OnEnd::StopAll, move |stop| async move {
            informers.run(stop).await;
            Ok(())
        });
        let kubelet = parts.kubelet(listers.clone(), member.client.clone(), self.clock.clone());
        kubelet.keep_tokens(tokens.clone());
        for part in [Part::Pods, Part::Network] {
            let (name, keeping, path) = (self.name.clone(), listers.clone(), self.files.path(part.file()));
            let tokens = (part == Part::Pods).then(|| tokens.clone());
            tasks.own(part.file(), OnEnd::Fine, move |stop| async move {
                kept::keep(part, &name, path, &*keeping, tokens.as_deref(), &stop).await;
                Ok(())
            });
        }
        let first = self.args.server.as_deref().and_then(|s| server_uri(s).ok());
        let files = Arc::new(self.files);
        let identity = Identity {
            files: files.clone(),
            node: self.name.clone(),
            address: address.watch(),
            servers: self.servers.clone(),
            ca_pem: member.ca_pem.clone(),
            client: member.client.clone(),
            client_cert: member.cert.clone(),
            token: self.token,
            clock: self.clock,
            serving: Default::default(),
        };
        let serving = identity.serving.subscribe();
        tasks.own("certificates", OnEnd::Fine, move |stop| identity.keep_fresh(stop));
        let (mut moves, servers) = (address.watch(), self.servers.clone());
        tasks.own("moves", OnEnd::Fine, move |stop| async move {
            while let Some(Ok(())) = stop.or(moves.changed()).await {
                // What was connected from the old address hangs until somebody gives up waiting.
                servers.reconnect();
            }
            Ok(())
        });
        let followed = address.clone();
        tasks.own_restarting("address", Backoff::RESTART, move |stop| {
            let address = followed.clone();
            async move { Ok(address.follow(stop).await?) }.boxed()
        });
        parts.serve(&mut tasks, &kubelet, self.port, serving, (member.client_ca_pem, member.client));
        let (told, known) = watch::channel(self.servers.list().to_vec());
        let open = opener(Arc::new(kubelet.clone()));
        let (ca, cert, moves) = (member.ca_pem, member.cert, address.watch());
        tasks.own("connections", OnEnd::StopAll, move |stop| async move {
            let dial = |server: &Uri| {
                let servers = Servers::new(vec![server.clone()]);
                Client::tls_any(servers, ca.as_bytes(), Credentials::Rotating(cert.clone()))
                    .expect("the same has made a client before")
            };
            super::tunnels::run(known, moves, dial, open, &stop).await;
            Ok(())
        });
        let (servers, slices) = (self.servers, listers.clone());
        tasks.own("servers", OnEnd::Fine, move |stop| async move {
            stop.or(follow_servers(&*slices, &servers, first, &files, told)).await;
            Ok(())
        });
        let pulse = kubelet.pulse();
        parts.start(&mut tasks, kubelet, listers);
        manager::start(&mut tasks, Watched { api: None, node: Some(pulse) });
        tracing::info!(node = self.name, "the node runs");
        tasks.join_in_reverse(STOP_DEADLINE).await;
        tracing::info!("stopped");
        Ok(())
    }
}

/// `https://host:port`, as it may be given.
fn server_uri(text: &str) -> anyhow::Result<Uri> {
    let text = text.trim().trim_end_matches('/');
    let uri: Uri = text.parse().with_context(|| format!("--server {text:?} is no URL"))?;
    let host = uri.host().filter(|_| uri.scheme_str() == Some("https") && uri.path() == "/");
    let Some(host) = host else { bail!("--server {text:?} is not of the form https://HOST:6443") };
    Ok(format!("https://{host}:{}", uri.port_u16().unwrap_or(6443)).parse()?)
}

fn state(files: &Files) -> Result<Value, JoinError> {
    let text = files.read(STATE)?.unwrap_or_default();
    // One that cannot be read is asked for again.
    Ok(serde_json::from_str(&text).unwrap_or_default())
}

fn state_servers(state: &Value) -> Vec<Uri> {
    state.items_at("/servers").iter().filter_map(|s| s.as_str()?.parse().ok()).collect()
}

fn save(files: &Files, servers: &Servers, settings: &Value) -> Result<(), JoinError> {
    let servers: Vec<String> = servers.list().iter().map(|s| s.to_string().trim_end_matches('/').to_owned()).collect();
    files.write(STATE, &json!({"servers": servers, "settings": settings}).to_string())
}

/// Keeps the list of servers as the Service `kubernetes` has it, here and on the disk; `first` is the one that was named,
/// which may be the address of them all.
async fn follow_servers(
    listers: &dyn Listers,
    servers: &Servers,
    first: Option<Uri>,
    files: &Files,
    told: watch::Sender<Vec<Uri>>,
) {
    let mut deltas = listers.lister("discovery.k8s.io", "endpointslices").deltas();
    while let Some(delta) = deltas.next().await {
        let Delta::Upsert { new, .. } = delta else { continue };
        if new.meta.namespace != "default" || new.meta.name != "kubernetes" {
            continue;
        }
        let mut list = endpoints(&new.value());
        if !list.is_empty() {
            told.send_if_modified(|old| std::mem::replace(old, list.clone()) != list);
        }
        list.extend(first.iter().filter(|f| !list.contains(f)).cloned().collect::<Vec<_>>());
        if servers.replace(list) {
            let settings = state(files).map(|s| s["settings"].clone());
            if let Err(e) = settings.and_then(|s| save(files, servers, &s)) {
                tracing::warn!("cannot keep the list of servers: {e}");
            }
        }
    }
}

/// The servers behind an EndpointSlice.
fn endpoints(slice: &Value) -> Vec<Uri> {
    let port = slice.int_at("/ports/0/port").and_then(|p| u16::try_from(p).ok()).unwrap_or(6443);
    let ready = slice.items_at("/endpoints").iter().filter(|e| e.bool_at("/conditions/ready") != Some(false));
    let addresses = ready.flat_map(|e| e.items_at("/addresses")).filter_map(|a| a.as_str()?.parse::<IpAddr>().ok());
    addresses.filter_map(|ip| format!("https://{}", SocketAddr::new(ip, port)).parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case("https://10.0.0.1:7443" => Some("https://10.0.0.1:7443/".into()))]
    #[test_case("https://edge.example/" => Some("https://edge.example:6443/".into()); "k3s's port is the default")]
    #[test_case("https://[2001:db8::1]:6443" => Some("https://[2001:db8::1]:6443/".into()))]
    #[test_case("http://10.0.0.1:6443" => None; "never without TLS")]
    #[test_case("10.0.0.1:6443" => None)]
    #[test_case("https://10.0.0.1/api" => None)]
    fn servers(text: &str) -> Option<String> {
        server_uri(text).ok().map(|u| u.to_string())
    }

    #[test]
    fn the_endpoints_of_the_api_are_the_servers() {
        let slice = json!({"ports": [{"port": 7443}], "endpoints": [{"addresses": ["192.0.2.1"]},
            {"addresses": ["192.0.2.2"], "conditions": {"ready": false}}, {"addresses": ["2001:db8::1"]}]});
        let found: Vec<String> = endpoints(&slice).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["https://192.0.2.1:7443/", "https://[2001:db8::1]:7443/"]);
    }
}
