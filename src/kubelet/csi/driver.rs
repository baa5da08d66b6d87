//! A CSI driver's node service, as the kubelet calls it.
//!
//! In: requests of the protocol. Out: gRPC calls to the driver's socket, each with a deadline.
//!
//! **Invariant:** nothing is repeated here; the pod's worker comes again.
//! **Invariant:** secrets are in requests only, never in an error or a log.

use std::path::Path;
use std::time::Duration;

use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use crate::kubelet::cri::proto::csi as pb;
use crate::kubelet::cri::proto::csi::node_client::NodeClient;
use crate::kubelet::cri::proto::csi::node_service_capability::{Type as Capability, rpc::Type as Can};

/// Deadline of a call. Upstream: `csiTimeout`.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);

/// Why a volume of a driver is not there.
#[derive(Debug, thiserror::Error)]
pub enum CsiError {
    /// No driver of this name is on the node.
    #[error("driver name {0} not found in the list of registered CSI drivers")]
    NotRegistered(String),
    /// The driver said no; in the words of upstream's client.
    #[error("rpc error: code = {} desc = {}", code_name(.0.code()), .0.message())]
    Refused(Box<Status>),
    /// The driver did not answer.
    #[error("rpc error: code = DeadlineExceeded desc = context deadline exceeded")]
    TimedOut,
}

/// As Go spells it.
fn code_name(code: Code) -> String {
    match code {
        Code::Ok => "OK".into(),
        Code::Cancelled => "Canceled".into(),
        other => format!("{other:?}"),
    }
}

/// What a driver's node service can do beside publishing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Abilities {
    /// It stages volumes before it publishes them.
    pub stage: bool,
    /// It tells how full a volume is.
    pub stats: bool,
    /// It makes a volume's file system larger.
    pub expand: bool,
    /// It knows access modes of a single node.
    pub single_node: bool,
    /// It gives volumes to a group by itself.
    pub mount_group: bool,
}

impl Abilities {
    fn of(answer: &pb::NodeGetCapabilitiesResponse) -> Self {
        let mut out = Self::default();
        for capability in &answer.capabilities {
            let Some(Capability::Rpc(rpc)) = &capability.r#type else { continue };
            match rpc.r#type() {
                Can::StageUnstageVolume => out.stage = true,
                Can::GetVolumeStats => out.stats = true,
                Can::ExpandVolume => out.expand = true,
                Can::SingleNodeMultiWriter => out.single_node = true,
                Can::VolumeMountGroup => out.mount_group = true,
                Can::Unknown | Can::VolumeCondition => {}
            }
        }
        out
    }
}

/// A driver that is on the node.
#[derive(Debug, Clone)]
pub struct Driver {
    node: NodeClient<Channel>,
}

/// Waits for an answer until the deadline.
async fn call<T>(answer: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, CsiError> {
    match tokio::time::timeout(CALL_TIMEOUT, answer).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(CsiError::Refused(Box::new(status))),
        Err(_) => Err(CsiError::TimedOut),
    }
}

impl Driver {
    /// The driver behind a socket. Nothing is dialled before the first call.
    pub fn at(socket: &Path) -> Self {
        Self { node: NodeClient::new(crate::kubelet::cri::channel(socket)) }
    }

    /// The node, as the driver calls it.
    pub async fn info(&self) -> Result<pb::NodeGetInfoResponse, CsiError> {
        call(self.node.clone().node_get_info(pb::NodeGetInfoRequest {})).await
    }

    /// What it can do. Asked anew each time: another version may have taken the socket over.
    pub async fn abilities(&self) -> Result<Abilities, CsiError> {
        let answer = call(self.node.clone().node_get_capabilities(pb::NodeGetCapabilitiesRequest {})).await?;
        Ok(Abilities::of(&answer))
    }

    /// Makes a volume ready for pods of this node.
    pub async fn stage(&self, asked: pb::NodeStageVolumeRequest) -> Result<(), CsiError> {
        call(self.node.clone().node_stage_volume(asked)).await.map(drop)
    }

    /// The reverse.
    pub async fn unstage(&self, volume_id: &str, path: String) -> Result<(), CsiError> {
        let asked = pb::NodeUnstageVolumeRequest { volume_id: volume_id.into(), staging_target_path: path };
        gone_is_done(call(self.node.clone().node_unstage_volume(asked)).await.map(drop))
    }

    /// Shows a volume to a pod.
    pub async fn publish(&self, asked: pb::NodePublishVolumeRequest) -> Result<(), CsiError> {
        call(self.node.clone().node_publish_volume(asked)).await.map(drop)
    }

    /// The reverse.
    pub async fn unpublish(&self, volume_id: &str, path: String) -> Result<(), CsiError> {
        let asked = pb::NodeUnpublishVolumeRequest { volume_id: volume_id.into(), target_path: path };
        gone_is_done(call(self.node.clone().node_unpublish_volume(asked)).await.map(drop))
    }

    /// How full a volume is that a pod has at `path`.
    pub async fn stats(
        &self,
        volume_id: &str,
        path: String,
        staging: String,
    ) -> Result<pb::NodeGetVolumeStatsResponse, CsiError> {
        let asked = pb::NodeGetVolumeStatsRequest {
            volume_id: volume_id.into(),
            volume_path: path,
            staging_target_path: staging,
        };
        call(self.node.clone().node_get_volume_stats(asked)).await
    }

    /// Makes a volume's file system as large as the volume has become.
    pub async fn expand(&self, asked: pb::NodeExpandVolumeRequest) -> Result<i64, CsiError> {
        Ok(call(self.node.clone().node_expand_volume(asked)).await?.capacity_bytes)
    }
}

/// What the driver does not know is not there.
fn gone_is_done(result: Result<(), CsiError>) -> Result<(), CsiError> {
    match result {
        Err(CsiError::Refused(status)) if status.code() == Code::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case(Code::Internal, "rpc error: code = Internal desc = why")]
    #[test_case(Code::Cancelled, "rpc error: code = Canceled desc = why")]
    #[test_case(Code::FailedPrecondition, "rpc error: code = FailedPrecondition desc = why")]
    fn refusals_read_as_upstreams(code: Code, want: &str) {
        assert_eq!(CsiError::Refused(Box::new(Status::new(code, "why"))).to_string(), want);
    }

    #[test]
    fn a_volume_that_the_driver_does_not_know_is_gone() {
        let refused = |code| Err(CsiError::Refused(Box::new(Status::new(code, "x"))));
        assert!(gone_is_done(refused(Code::NotFound)).is_ok());
        assert!(gone_is_done(refused(Code::Internal)).is_err());
    }

    #[test]
    fn abilities_are_read() {
        let rpc = |t: Can| pb::NodeServiceCapability {
            r#type: Some(Capability::Rpc(pb::node_service_capability::Rpc { r#type: t.into() })),
        };
        let answer = pb::NodeGetCapabilitiesResponse {
            capabilities: vec![rpc(Can::StageUnstageVolume), rpc(Can::VolumeMountGroup), rpc(Can::Unknown)],
        };
        let want = Abilities { stage: true, mount_group: true, ..Abilities::default() };
        assert_eq!(Abilities::of(&answer), want);
    }
}
