//! The cluster's DNS, answered on every node.
//!
//! In: Services, EndpointSlices and Namespaces from listers. [`zone`] knows the cluster's names, [`forward`] asks the
//! host's resolvers for all others. The server listens on an address of the node, by default the bridge's; the Service
//! proxy leads the cluster's DNS address there (`proxy::LocalService`), so the same works on every node and in every
//! network namespace, and no interface has to carry the Service's address.
//!
//! **Invariant:** until the listers have synced, names of the cluster are answered with SERVFAIL, never with "no such name".

pub mod forward;
pub mod zone;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, RData, RecordType};
use parking_lot::RwLock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

pub use self::forward::Upstreams;
use self::forward::{Forwarder, Transport, failure};
use self::zone::{Reply, Zone};
use crate::api::object::ObjectKey;
use crate::api::services::{Service, Slice};
use crate::runtime::{Delta, Lister, Listers};
use crate::util::tasks::Shutdown;

/// Bytes of an answer over UDP when the client does not say.
const PLAIN_UDP_BYTES: u16 = 512;
/// Bytes of an answer over UDP at most: what passes everywhere without fragments.
const MAX_UDP_BYTES: u16 = 1232;
/// Bytes of a question at most.
const MAX_QUESTION_BYTES: usize = 4096;
/// Connections at once; more wait.
const MAX_CONNECTIONS: usize = 128;
/// Questions over UDP under way at once; more are dropped, and the client asks again.
const MAX_UDP_UNDER_WAY: usize = 1024;
/// A silent connection is closed.
const IDLE: Duration = Duration::from_secs(10);
/// External names that lead to external names.
const MAX_ALIASES: usize = 8;

/// What the server has to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen, UDP and TCP; port 0 takes any.
    pub listen: Vec<SocketAddr>,
    /// The cluster's domain, as `cluster.local`.
    pub domain: String,
    /// Networks of pods and Services: reverse names of their addresses stay here.
    pub networks: Vec<ipnet::IpNet>,
    /// Who answers for the world.
    pub upstreams: Upstreams,
}

/// Why the server does not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A port cannot be had.
    #[error("cannot listen for DNS on {address}: {source}; another DNS server may listen on all addresses")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The domain is not a name.
    #[error("{0}")]
    Domain(String),
    /// A lister's stream ended.
    #[error("the source of {0} ended")]
    SourceEnded(&'static str),
    /// A socket broke.
    #[error("DNS socket: {0}")]
    Socket(#[from] std::io::Error),
}

/// The DNS server before it listens.
pub struct Dns {
    config: Config,
    names: Arc<Names>,
    services: BoxStream<'static, Delta>,
    slices: BoxStream<'static, Delta>,
}

/// The DNS server with its ports.
pub struct Bound {
    dns: Dns,
    udp: Vec<Arc<UdpSocket>>,
    tcp: Vec<TcpListener>,
    forwarder: Forwarder,
}

/// What answers are made of.
struct Names {
    zone: RwLock<Zone>,
    namespaces: Arc<dyn Lister>,
    synced: AtomicBool,
}

impl Dns {
    /// A server that follows these listers.
    pub fn new(config: Config, listers: &dyn Listers) -> Result<Self, Error> {
        let zone = Zone::new(&config.domain, config.networks.clone()).map_err(Error::Domain)?;
        let namespaces = listers.lister("", "namespaces");
        Ok(Self {
            config,
            names: Arc::new(Names { zone: RwLock::new(zone), namespaces, synced: AtomicBool::new(false) }),
            services: listers.lister("", "services").deltas(),
            slices: listers.lister("discovery.k8s.io", "endpointslices").deltas(),
        })
    }

    /// Takes the ports.
    pub async fn bind(self) -> Result<Bound, Error> {
        let (mut udp, mut tcp) = (Vec::new(), Vec::new());
        for address in &self.config.listen {
            let failed = |source| Error::Bind { address: *address, source };
            let listener = TcpListener::bind(address).await.map_err(failed)?;
            // Port 0: the same one for both.
            let address = listener.local_addr()?;
            udp.push(Arc::new(UdpSocket::bind(address).await.map_err(failed)?));
            tcp.push(listener);
        }
        let own: Vec<IpAddr> = self.config.listen.iter().map(SocketAddr::ip).collect();
        let forwarder = Forwarder::new(self.config.upstreams.clone(), own);
        Ok(Bound { dns: self, udp, tcp, forwarder })
    }
}

impl Bound {
    /// Where it listens, in the order of the configuration.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.tcp.iter().filter_map(|l| l.local_addr().ok()).collect()
    }

    /// Serves until told to stop.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), Error> {
        let Self { dns, udp, tcp, forwarder } = self;
        let server = Arc::new(Server { names: dns.names.clone(), forwarder });
        let mut tasks: JoinSet<Result<(), Error>> = JoinSet::new();
        for socket in udp {
            tasks.spawn(serve_udp(server.clone(), socket));
        }
        for listener in tcp {
            tasks.spawn(serve_tcp(server.clone(), listener));
        }
        tasks.spawn(follow(dns.names, dns.services, dns.slices));
        // Dropping the set ends its tasks and what they own.
        match shutdown.or(tasks.join_next()).await {
            Some(Some(Ok(ended))) => ended,
            Some(Some(Err(panic))) => Err(Error::Socket(std::io::Error::other(panic))),
            Some(None) | None => Ok(()),
        }
    }
}

/// Keeps the zone as the listers have it.
async fn follow(
    names: Arc<Names>,
    mut services: BoxStream<'static, Delta>,
    mut slices: BoxStream<'static, Delta>,
) -> Result<(), Error> {
    let (mut services_synced, mut slices_synced) = (false, false);
    loop {
        tokio::select! {
            delta = services.next() => match delta.ok_or(Error::SourceEnded("services"))? {
                Delta::Upsert { new, .. } => match Service::decode(&new) {
                    Ok(service) => names.zone.write().set_service(ObjectKey::from(&new.meta), service),
                    Err(error) => tracing::warn!(service = %ObjectKey::from(&new.meta), "cannot read it: {error}"),
                },
                Delta::Delete(old) => names.zone.write().remove_service(&ObjectKey::from(&old.meta)),
                Delta::Synced => services_synced = true,
            },
            delta = slices.next() => match delta.ok_or(Error::SourceEnded("endpointslices"))? {
                Delta::Upsert { new, .. } => match Slice::decode(&new) {
                    Ok(slice) => names.zone.write().set_slice(ObjectKey::from(&new.meta), slice),
                    Err(error) => tracing::warn!(slice = %ObjectKey::from(&new.meta), "cannot read it: {error}"),
                },
                Delta::Delete(old) => names.zone.write().remove_slice(&ObjectKey::from(&old.meta)),
                Delta::Synced => slices_synced = true,
            },
        }
        if services_synced && slices_synced {
            names.synced.store(true, Ordering::Release);
        }
    }
}

struct Server {
    names: Arc<Names>,
    forwarder: Forwarder,
}

async fn serve_udp(server: Arc<Server>, socket: Arc<UdpSocket>) -> Result<(), Error> {
    let mut under_way: JoinSet<()> = JoinSet::new();
    let mut buffer = vec![0; MAX_QUESTION_BYTES];
    loop {
        let (n, from) = tokio::select! {
            received = socket.recv_from(&mut buffer) => match received {
                Ok(got) => got,
                // An earlier answer met a closed port.
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => continue,
                Err(e) => return Err(e.into()),
            },
            Some(_) = under_way.join_next() => continue,
        };
        if under_way.len() >= MAX_UDP_UNDER_WAY {
            continue;
        }
        let (question, server, socket) = (buffer[..n].to_vec(), server.clone(), socket.clone());
        under_way.spawn(async move {
            if let Some(answer) = server.answer(&question, Transport::Udp).await {
                let _ = socket.send_to(&answer, from).await;
            }
        });
    }
}

async fn serve_tcp(server: Arc<Server>, listener: TcpListener) -> Result<(), Error> {
    let mut connections: JoinSet<()> = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    let server = server.clone();
                    connections.spawn(async move {
                        // A client that goes away in the middle is no event.
                        let _ = converse(&server, stream).await;
                    });
                }
                Err(error) => {
                    tracing::warn!("cannot accept a DNS connection: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn converse(server: &Server, mut stream: TcpStream) -> std::io::Result<()> {
    loop {
        let length = tokio::time::timeout(IDLE, stream.read_u16()).await??;
        let mut question = vec![0; usize::from(length).min(MAX_QUESTION_BYTES)];
        tokio::time::timeout(IDLE, stream.read_exact(&mut question)).await??;
        let Some(answer) = server.answer(&question, Transport::Tcp).await else { return Ok(()) };
        let length = u16::try_from(answer.len()).map_err(std::io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes(), &answer[..]].concat()).await?;
    }
}

impl Server {
    /// The answer's bytes; none for what is not a question at all.
    async fn answer(&self, bytes: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let request = match Message::from_vec(bytes) {
            Ok(request) if request.metadata.message_type == MessageType::Query => request,
            Ok(_) => return None,
            Err(_) => {
                let id = u16::from_be_bytes([*bytes.first()?, *bytes.get(1)?]);
                return Message::error_msg(id, OpCode::Query, ResponseCode::FormErr).to_vec().ok();
            }
        };
        let message = match request.queries.as_slice() {
            _ if request.metadata.op_code != OpCode::Query => refuse(&request, ResponseCode::NotImp),
            [query] if query.query_class == DNSClass::IN => self.resolve(&request, query, transport).await,
            [_] => refuse(&request, ResponseCode::Refused),
            _ => refuse(&request, ResponseCode::FormErr),
        };
        fit(&request, message, transport)
    }

    async fn resolve(&self, request: &Message, query: &Query, transport: Transport) -> Message {
        let Some(reply) = self.lookup(query) else { return self.forwarder.ask(request, query, transport).await };
        if !self.names.synced.load(Ordering::Acquire) {
            return failure(request);
        }
        let mut message = refuse(request, reply.code);
        message.metadata.authoritative = true;
        message.answers = reply.answers;
        message.additionals = reply.additionals;
        message.authorities = reply.authority.into_iter().collect();
        let turn = rand::random_range(0..message.answers.len().max(1));
        message.answers.rotate_left(turn);
        self.follow_aliases(request, query, &mut message, transport).await;
        message
    }

    fn lookup(&self, query: &Query) -> Option<Reply> {
        let zone = self.names.zone.read();
        zone.answer(&query.name, query.query_type, |ns| self.names.namespaces.get("", ns).is_some())
    }

    /// Adds what an external name leads to: the C library's resolver does not ask again.
    async fn follow_aliases(&self, request: &Message, query: &Query, message: &mut Message, transport: Transport) {
        if !matches!(query.query_type, RecordType::A | RecordType::AAAA) {
            return;
        }
        for _ in 0..MAX_ALIASES {
            let Some(RData::CNAME(target)) = message.answers.last().map(|r| &r.data) else { return };
            let next = Query::query(target.0.clone(), query.query_type);
            if let Some(reply) = self.lookup(&next) {
                if reply.answers.is_empty() {
                    return;
                }
                message.answers.extend(reply.answers);
                continue;
            }
            let mut onward = Message::query();
            onward.metadata.recursion_desired = true;
            onward.edns.clone_from(&request.edns);
            onward.add_query(next.clone());
            let answer = self.forwarder.ask(&onward, &next, transport).await;
            if answer.metadata.response_code == ResponseCode::ServFail {
                *message = failure(request);
                return;
            }
            message.metadata.authoritative = false;
            message.answers.extend(answer.answers);
            return;
        }
    }
}

/// An answer with a code and no records.
fn refuse(request: &Message, code: ResponseCode) -> Message {
    let mut message = failure(request);
    message.metadata.response_code = code;
    message
}

/// Bytes that the client can take; cut to the question where it cannot take all.
fn fit(request: &Message, mut message: Message, transport: Transport) -> Option<Vec<u8>> {
    let asked = request.edns.as_ref().map(Edns::max_payload);
    if message.edns.is_none() && asked.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_UDP_BYTES);
        message.edns = Some(edns);
    }
    let limit = usize::from(asked.unwrap_or(PLAIN_UDP_BYTES).clamp(PLAIN_UDP_BYTES, MAX_UDP_BYTES));
    let bytes = message.to_vec().ok()?;
    if transport == Transport::Tcp || bytes.len() <= limit {
        return Some(bytes);
    }
    // Addresses nobody asked for go first.
    message.additionals.clear();
    let bytes = message.to_vec().ok()?;
    if bytes.len() <= limit { Some(bytes) } else { message.truncate().to_vec().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{Name, Record};
    use test_case::test_case;

    #[test_case(5, None, Transport::Udp, false; "few fit")]
    #[test_case(60, None, Transport::Udp, true; "many do not fit in 512 bytes")]
    #[test_case(60, Some(1232), Transport::Udp, false; "but in what the client takes")]
    #[test_case(500, Some(65_000), Transport::Udp, true; "never more than passes everywhere")]
    #[test_case(500, None, Transport::Tcp, false; "a connection takes all")]
    fn answers_fit(records: u32, payload: Option<u16>, transport: Transport, truncated: bool) {
        let name = Name::from_ascii("web.shop.svc.cluster.local.").unwrap();
        let mut request = Message::query();
        request.add_query(Query::query(name.clone(), RecordType::A));
        request.edns = payload.map(|p| {
            let mut edns = Edns::new();
            edns.set_max_payload(p);
            edns
        });
        let mut message = refuse(&request, ResponseCode::NoError);
        let record = |i| Record::from_rdata(name.clone(), 5, RData::A(A(std::net::Ipv4Addr::from(i))));
        message.answers = (0..records).map(record).collect();
        let got = Message::from_vec(&fit(&request, message, transport).unwrap()).unwrap();
        assert_eq!((got.metadata.truncation, got.metadata.id), (truncated, request.metadata.id));
        assert_eq!(got.answers.is_empty(), truncated);
    }
}
