//! `port-forward`: local ports to a pod's.
//!
//! Each local connection has a web socket of its own: channel 0 carries the data, channel 1 an error. The first message of
//! each channel is the port, two bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use futures::stream::{FuturesUnordered, SelectAll};
use futures::{SinkExt, StreamExt};
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;

use super::builder::Info;
use super::cx::{Cx, Done, append_query, say};
use super::fail::{Failure, fail};
use super::pods::{self, RunningFlag};
use super::streams;
use crate::api::value::ValueExt;
use serde_json::Value;

/// Bytes read from a local connection at once.
const CHUNK: usize = 32 * 1024;
/// Local connections at once.
const MAX_CONNECTIONS: usize = 512;

const DATA: u8 = 0;
const ERROR: u8 = 1;
/// v5: the channel named by the next byte is closed.
const CLOSE: u8 = 255;

/// Forward local ports to a pod
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// POD or TYPE/NAME
    target: String,
    /// [LOCAL:]REMOTE…; :REMOTE takes any free local port
    #[arg(required = true)]
    ports: Vec<String>,
    /// Local addresses
    #[arg(long, value_delimiter = ',', default_value = "localhost")]
    address: Vec<String>,
    #[command(flatten)]
    running: RunningFlag,
}

/// One forwarded port.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Forward {
    local: u16,
    /// A number, or a name of a port.
    remote: String,
}

fn parse(text: &str) -> Done<Forward> {
    let number = |part: &str| part.parse::<u16>();
    let bad = || Failure::Plain(format!("error parsing port {text:?}: give REMOTE, LOCAL:REMOTE or :REMOTE"));
    match text.split_once(':') {
        None => Ok(Forward { local: number(text).unwrap_or(0), remote: text.to_owned() }),
        Some(("", remote)) if !remote.is_empty() => Ok(Forward { local: 0, remote: remote.to_owned() }),
        Some((local, remote)) if !remote.is_empty() => {
            Ok(Forward { local: number(local).map_err(|_| bad())?, remote: remote.to_owned() })
        }
        Some(_) => Err(bad()),
    }
}

/// The container port that `remote` means: of a service it is looked up, a name too.
fn resolve(remote: &str, of: &Value, pod: &Value) -> Done<u16> {
    let named = |name: &str| -> Option<u16> {
        let ports = pod.items_at("/spec/containers").iter().flat_map(|c| c.items_at("/ports"));
        let port = ports.filter(|p| p["name"] == name).find_map(|p| p.int_at("/containerPort"))?;
        u16::try_from(port).ok()
    };
    if of["kind"] == "Service" {
        let by_number = remote.parse::<i64>().ok();
        let port = of.items_at("/spec/ports").iter().find(|p| match by_number {
            Some(n) => p.int_at("/port") == Some(n),
            None => p["name"] == remote,
        });
        let Some(port) = port else {
            let name = of.str_at("/metadata/name").unwrap_or_default();
            if by_number.is_none() {
                fail!("Service '{name}' does not have a named port '{remote}'");
            }
            fail!("Service {name} does not have a service port {remote}")
        };
        let headless = of.str_at("/spec/clusterIP") == Some("None");
        let target = match &port["targetPort"] {
            Value::String(name) => named(name),
            Value::Number(n) if !headless => n.as_u64().and_then(|n| u16::try_from(n).ok()),
            _ => port.int_at("/port").and_then(|n| u16::try_from(n).ok()),
        };
        return target.ok_or_else(|| Failure::Plain(format!("no container port for service port {remote}")));
    }
    match remote.parse::<u16>() {
        Ok(0) => fail!("remote port must be > 0"),
        Ok(port) => Ok(port),
        Err(_) => named(remote).ok_or_else(|| {
            Failure::Plain(format!(
                "Pod '{}' does not have a named port '{remote}'",
                pod.str_at("/metadata/name").unwrap_or_default()
            ))
        }),
    }
}

/// Runs the verb.
pub async fn run(cx: &Cx, args: Args) -> Done {
    let of = pods::target(cx, &args.target).await?;
    let pod = pods::all_of(cx, &of, &args.running).await?.swap_remove(0);
    // What cannot be meant is told before the pod's state.
    let forwards: Vec<(Forward, u16)> = args
        .ports
        .iter()
        .map(|text| {
            let forward = parse(text)?;
            let remote = resolve(&forward.remote, &of.object, &pod.object)?;
            Ok((forward, remote))
        })
        .collect::<Done<_>>()?;
    if pod.object.str_at("/status/phase") != Some("Running") {
        let phase = pod.object.str_at("/status/phase").unwrap_or("unknown");
        fail!("unable to forward port because pod is not running. Current status={phase}");
    }
    let mut accepting = SelectAll::new();
    for (mut forward, remote) in forwards {
        for address in addresses(&args.address)? {
            let listener = TcpListener::bind((address, forward.local)).await;
            let listener = match listener {
                Ok(listener) => listener,
                // `localhost` is two addresses, and a machine may have one of them only.
                Err(_) if address.is_ipv6() && args.address.iter().any(|a| a == "localhost") => continue,
                Err(e) => fail!("unable to listen on port {}: {e}", forward.local),
            };
            let at: SocketAddr = listener.local_addr()?;
            forward.local = at.port();
            say(format!("Forwarding from {at} -> {remote}"))?;
            let incoming = futures::stream::unfold(listener, |listener| async move {
                let accepted = listener.accept().await;
                Some((accepted, listener))
            });
            accepting
                .push(incoming.map(move |accepted| accepted.map(|(stream, _)| (stream, at.port(), remote))).boxed());
        }
    }
    serve(cx, &pod, accepting).await
}

fn addresses(list: &[String]) -> Done<Vec<IpAddr>> {
    let mut all = Vec::new();
    for text in list {
        match text.as_str() {
            "localhost" => {
                all.extend([IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)]);
            }
            text => all.push(text.parse().map_err(|_| Failure::Plain(format!("{text:?} is no address")))?),
        }
    }
    Ok(all)
}

type Accepted = std::io::Result<(TcpStream, u16, u16)>;

async fn serve(cx: &Cx, pod: &Info, mut accepting: SelectAll<futures::stream::BoxStream<'static, Accepted>>) -> Done {
    let mut connections = FuturesUnordered::new();
    loop {
        tokio::select! {
            Some(accepted) = accepting.next(), if connections.len() < MAX_CONNECTIONS => {
                let (stream, local, remote) = accepted?;
                say(format!("Handling connection for {local}"))?;
                connections.push(async move { (local, remote, connection(cx, pod, stream, remote).await) });
            }
            Some((local, remote, outcome)) = connections.next(), if !connections.is_empty() => {
                if let Err(failure) = outcome {
                    eprintln!("error forwarding port {remote} to pod {} from port {local}: {failure}", pod.name);
                }
            }
        }
    }
}

async fn connection(cx: &Cx, pod: &Info, mut local: TcpStream, port: u16) -> Done {
    let mut path = pod.path(Some("portforward"));
    append_query(&mut path, "ports", &port.to_string());
    let request = Request::get(&path).body(Vec::new()).map_err(|e| Failure::Plain(e.to_string()))?;
    let connection = streams::kube(cx)?.connect(request).await.map_err(streams::refused)?;
    let can_close = connection.supports_stream_close();
    let (mut sink, mut stream) = connection.into_stream().split();
    let (mut from, mut to) = local.split();
    let mut buffer = vec![0; CHUNK];
    let mut reading = true;
    let mut begun = [false; 2];
    loop {
        tokio::select! {
            message = stream.next() => match message {
                None | Some(Ok(Message::Close(_))) => return Ok(()),
                Some(Err(e)) => return Err(streams::lost(&e)),
                Some(Ok(message)) => match message.into_data().split_first() {
                    // The first message of a channel repeats the port.
                    Some((&channel, _)) if (channel == DATA || channel == ERROR) && !begun[channel as usize] => begun[channel as usize] = true,
                    Some((&DATA, data)) => to.write_all(data).await?,
                    Some((&ERROR, data)) if !data.is_empty() => fail!("{}", String::from_utf8_lossy(data).trim()),
                    Some((&CLOSE, [DATA, ..])) => to.shutdown().await?,
                    _ => {}
                },
            },
            read = from.read(&mut buffer), if reading => match read? {
                0 if can_close => {
                    reading = false;
                    sink.send(Message::binary(vec![CLOSE, DATA])).await.map_err(|e| streams::lost(&e))?;
                }
                // v4 knows no half-closed streams: the end of one side is the end.
                0 => return sink.close().await.map_err(|e| streams::lost(&e)),
                n => {
                    let mut data = Vec::with_capacity(n + 1);
                    data.push(DATA);
                    data.extend_from_slice(&buffer[..n]);
                    sink.send(Message::binary(data)).await.map_err(|e| streams::lost(&e))?;
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    #[test_case("80", 80, "80")]
    #[test_case("8080:80", 8080, "80")]
    #[test_case(":80", 0, "80")]
    #[test_case("8080:http", 8080, "http")]
    fn ports(text: &str, local: u16, remote: &str) {
        assert_eq!(parse(text).unwrap(), Forward { local, remote: remote.into() });
    }

    #[test]
    fn services_lead_to_container_ports() {
        let service = json!({"kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [
            {"name": "web", "port": 80, "targetPort": "http"}, {"port": 81, "targetPort": 8081}]}});
        let pod = json!({"spec": {"containers": [{"ports": [{"name": "http", "containerPort": 8080}]}]}});
        assert_eq!(resolve("80", &service, &pod).unwrap(), 8080);
        assert_eq!(resolve("web", &service, &pod).unwrap(), 8080);
        assert_eq!(resolve("81", &service, &pod).unwrap(), 8081);
        assert!(resolve("82", &service, &pod).is_err());
        assert_eq!(resolve("http", &pod, &pod).unwrap(), 8080);
    }
}
