//! `grpc.health.v1.Health/Check`, by hand: two messages of one field each.

use super::ask::Answer;

#[derive(Clone, PartialEq, prost::Message)]
struct Request {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Response {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `SERVING` of the protocol.
const SERVING: i32 = 1;

/// Asks the server at a port of the pod for the health of a service; the empty one is the server itself.
pub async fn check(address: &str, port: u16, service: &str) -> Answer {
    let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    let endpoint = match tonic::transport::Endpoint::from_shared(format!("http://{host}:{port}")) {
        Ok(endpoint) => endpoint,
        Err(e) => return Answer::Unknown(e.to_string()),
    };
    let channel = match endpoint.connect().await {
        Ok(channel) => channel,
        Err(e) => return Answer::Failure(format!("failed to connect service \"{host}:{port}\": {e}")),
    };
    let mut client = tonic::client::Grpc::new(channel);
    if let Err(e) = client.ready().await {
        return Answer::Failure(format!("failed to connect service \"{host}:{port}\": {e}"));
    }
    let request = tonic::Request::new(Request { service: service.to_owned() });
    let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let codec = tonic_prost::ProstCodec::<Request, Response>::default();
    match client.unary(request, path, codec).await {
        Ok(answer) if answer.get_ref().status == SERVING => Answer::Success,
        Ok(answer) => Answer::Failure(format!("service unhealthy (responded with status {})", answer.get_ref().status)),
        Err(status) => Answer::Failure(format!("health rpc failed: {}: {}", status.code(), status.message())),
    }
}
