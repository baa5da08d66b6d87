//! Names of the world: asked of the host's own resolvers, byte for byte, with a small cache.
//!
//! **Invariant:** an answer is passed on only when it comes from the resolver that was asked and carries the question's id
//! and name.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::RecordType;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;

/// Questions under way at once; more are answered with SERVFAIL.
const MAX_UNDER_WAY: usize = 512;
/// Before the next resolver is asked.
const PATIENCE: Duration = Duration::from_secs(2);
/// Answers remembered.
const MAX_CACHED: usize = 1024;
/// An answer is not remembered for longer, whatever it says.
const MAX_CACHE_AGE: Duration = Duration::from_secs(30);
/// The list of resolvers is read again after this time.
const REREAD: Duration = Duration::from_secs(10);
/// Bytes of a datagram at most.
const MAX_DATAGRAM: usize = 4096;
/// Resolvers asked at most, as in the C library.
const MAX_RESOLVERS: usize = 3;

/// How the question came, and so how it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// In a datagram.
    Udp,
    /// Over a connection.
    Tcp,
}

/// Where the resolvers come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upstreams {
    /// The first of these `resolv.conf` files that names one which is not on this machine, or else one that is.
    Files(Vec<PathBuf>),
    /// These.
    Fixed(Vec<SocketAddr>),
}

impl Upstreams {
    /// The host's: its `resolv.conf`, or that of systemd-resolved, whose own address is a loopback one.
    pub fn host() -> Self {
        Self::Files(vec!["/etc/resolv.conf".into(), "/run/systemd/resolve/resolv.conf".into()])
    }

    fn read(&self, own: &[IpAddr]) -> Vec<SocketAddr> {
        match self {
            Self::Fixed(all) => all.clone(),
            Self::Files(files) => {
                let texts: Vec<String> = files.iter().filter_map(|f| std::fs::read_to_string(f).ok()).collect();
                let first = |local| texts.iter().map(|t| name_servers(t, own, local)).find(|all| !all.is_empty());
                // A resolver of this machine itself (dnsmasq, unbound) will do where there is no other.
                first(false).or_else(|| first(true)).unwrap_or_default()
            }
        }
    }
}

/// The name servers of a `resolv.conf` but ourselves: a question must not come back to where it came from. Those on
/// loopback count only if `local`: most of them ask others of the list.
fn name_servers(text: &str, own: &[IpAddr], local: bool) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter_map(|rest| rest.trim().split('%').next()?.parse::<IpAddr>().ok())
        .filter(|a| (local || !a.is_loopback()) && !a.is_unspecified() && !own.contains(a))
        .take(MAX_RESOLVERS)
        .map(|a| SocketAddr::new(a, 53))
        .collect()
}

#[derive(PartialEq, Eq, Hash)]
struct Question {
    name: String,
    kind: RecordType,
    transport: Transport,
    dnssec: bool,
    recursion: bool,
}

struct Cached {
    message: Message,
    since: Instant,
    age: Duration,
}

/// Asks resolvers and remembers what they say.
pub struct Forwarder {
    upstreams: Upstreams,
    own: Vec<IpAddr>,
    list: Mutex<Option<(Instant, Vec<SocketAddr>)>>,
    cache: Mutex<HashMap<Question, Cached>>,
    under_way: Semaphore,
}

impl Forwarder {
    /// One that never asks the addresses `own`.
    pub fn new(upstreams: Upstreams, own: Vec<IpAddr>) -> Self {
        Self {
            upstreams,
            own,
            list: Mutex::new(None),
            cache: Mutex::new(HashMap::new()),
            under_way: Semaphore::new(MAX_UNDER_WAY),
        }
    }

    /// The answer to a question; SERVFAIL when nobody gives one.
    pub async fn ask(&self, request: &Message, query: &Query, transport: Transport) -> Message {
        let key = Question {
            name: query.name.to_lowercase().to_ascii(),
            kind: query.query_type,
            transport,
            dnssec: request.edns.as_ref().is_some_and(|e| e.flags().dnssec_ok),
            recursion: request.metadata.recursion_desired,
        };
        if let Some(message) = self.remembered(&key, request) {
            return message;
        }
        let Ok(_permit) = self.under_way.try_acquire() else { return failure(request) };
        let Ok(bytes) = request.to_vec() else { return failure(request) };
        for resolver in self.resolvers() {
            let answer = match transport {
                Transport::Udp => ask_udp(resolver, &bytes).await,
                Transport::Tcp => ask_tcp(resolver, &bytes).await,
            };
            match answer.map(|a| accept(request, &a)) {
                Ok(Some(message)) => {
                    self.remember(key, &message);
                    return message;
                }
                Ok(None) => tracing::debug!(%resolver, "answered something else"),
                Err(error) => tracing::debug!(%resolver, "does not answer: {error}"),
            }
        }
        failure(request)
    }

    fn resolvers(&self) -> Vec<SocketAddr> {
        let mut list = self.list.lock();
        match &*list {
            Some((at, all)) if at.elapsed() < REREAD => all.clone(),
            _ => {
                let all = self.upstreams.read(&self.own);
                *list = Some((Instant::now(), all.clone()));
                all
            }
        }
    }

    fn remembered(&self, key: &Question, request: &Message) -> Option<Message> {
        let cache = self.cache.lock();
        let found = cache.get(key).filter(|c| c.since.elapsed() < c.age)?;
        let passed = u32::try_from(found.since.elapsed().as_secs()).unwrap_or(u32::MAX);
        let mut message = found.message.clone();
        drop(cache);
        message.metadata.id = request.metadata.id;
        message.queries.clone_from(&request.queries);
        for records in [&mut message.answers, &mut message.authorities, &mut message.additionals] {
            records.iter_mut().for_each(|r| r.ttl = r.ttl.saturating_sub(passed));
        }
        Some(message)
    }

    fn remember(&self, key: Question, message: &Message) {
        let lasting = matches!(message.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain);
        if !lasting || message.metadata.truncation {
            return;
        }
        let ttl = message.answers.iter().chain(&message.authorities).map(|r| r.ttl).min().unwrap_or(0);
        let age = Duration::from_secs(u64::from(ttl)).min(MAX_CACHE_AGE);
        if age.is_zero() {
            return;
        }
        let mut cache = self.cache.lock();
        if cache.len() >= MAX_CACHED {
            cache.retain(|_, c| c.since.elapsed() < c.age);
        }
        if cache.len() >= MAX_CACHED {
            cache.clear();
        }
        cache.insert(key, Cached { message: message.clone(), since: Instant::now(), age });
    }
}

/// The message when it answers the request.
fn accept(request: &Message, bytes: &[u8]) -> Option<Message> {
    let message = Message::from_vec(bytes).ok()?;
    let same = |a: &Query, b: &Query| a.query_type == b.query_type && a.name.to_lowercase() == b.name.to_lowercase();
    let fits = message.metadata.id == request.metadata.id
        && message.queries.len() == request.queries.len()
        && message.queries.iter().zip(&request.queries).all(|(a, b)| same(a, b));
    fits.then_some(message)
}

/// SERVFAIL.
pub fn failure(request: &Message) -> Message {
    let mut message = Message::error_msg(request.metadata.id, request.metadata.op_code, ResponseCode::ServFail);
    message.queries.clone_from(&request.queries);
    message.metadata.recursion_desired = request.metadata.recursion_desired;
    message.metadata.recursion_available = true;
    message
}

async fn ask_udp(resolver: SocketAddr, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let any: SocketAddr = if resolver.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(resolver).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; MAX_DATAGRAM];
    let n = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await??;
    buffer.truncate(n);
    Ok(buffer)
}

async fn ask_tcp(resolver: SocketAddr, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let work = async {
        let mut stream = TcpStream::connect(resolver).await?;
        let length = u16::try_from(bytes.len()).map_err(std::io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await?;
        let length = stream.read_u16().await?;
        let mut buffer = vec![0; usize::from(length)];
        stream.read_exact(&mut buffer).await?;
        Ok(buffer)
    };
    tokio::time::timeout(PATIENCE, work).await?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_on_this_machine_are_left_out() {
        let text = "# host\nsearch lan\nnameserver 127.0.0.53\nnameserver 192.0.2.53\n nameserver\tfe80::1%eth0\nnameserver 10.42.0.1\n";
        let want: Vec<SocketAddr> = vec!["192.0.2.53:53".parse().unwrap(), "[fe80::1]:53".parse().unwrap()];
        assert_eq!(name_servers(text, &["10.42.0.1".parse().unwrap()], false), want);
    }

    #[test]
    fn the_first_file_with_a_usable_resolver_counts() {
        let dir = tempfile::tempdir().unwrap();
        let (stub, real) = (dir.path().join("stub"), dir.path().join("real"));
        std::fs::write(&stub, "nameserver 127.0.0.53\n").unwrap();
        std::fs::write(&real, "nameserver 192.0.2.1\n").unwrap();
        let files = Upstreams::Files(vec![dir.path().join("none"), stub, real]);
        assert_eq!(files.read(&[]), ["192.0.2.1:53".parse::<SocketAddr>().unwrap()]);
        std::fs::remove_file(dir.path().join("real")).unwrap();
        assert_eq!(files.read(&[]), ["127.0.0.53:53".parse::<SocketAddr>().unwrap()], "better than nobody");
    }
}
