//! `projected` volumes: several sources in one directory.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ProjectedVolumeSource;

use super::atomic::Payload;
use super::keyed::{self, Which};
use super::{Cx, VolumeError, downward, token};
use crate::kubelet::sources::Kind;

/// The files of all sources, later ones over earlier ones, and when a token among them has to be renewed.
pub async fn collect(
    cx: &mut Cx<'_>,
    volume: &str,
    source: &ProjectedVolumeSource,
) -> Result<(Payload, Option<Timestamp>), VolumeError> {
    let mode = source.default_mode;
    let mut out = Payload::new();
    let mut refresh: Option<Timestamp> = None;
    for s in source.sources.iter().flatten() {
        if let Some(c) = &s.config_map {
            let which = Which { kind: Kind::ConfigMap, name: &c.name, items: c.items.as_deref(), optional: c.optional };
            out.extend(keyed::collect(cx, which, mode)?);
        }
        if let Some(c) = &s.secret {
            let which = Which { kind: Kind::Secret, name: &c.name, items: c.items.as_deref(), optional: c.optional };
            out.extend(keyed::collect(cx, which, mode)?);
        }
        if let Some(d) = &s.downward_api {
            out.extend(downward::collect(cx, d.items.as_deref().unwrap_or_default(), mode)?);
        }
        if let Some(t) = &s.service_account_token {
            let (file, renew) = token::file(cx, volume, t, mode).await?;
            out.insert(t.path.clone(), file);
            refresh = Some(refresh.map_or(renew, |r| r.min(renew)));
        }
        if s.cluster_trust_bundle.is_some() {
            return Err(VolumeError::Unsupported("clusterTrustBundle"));
        }
        if s.pod_certificate.is_some() {
            return Err(VolumeError::Unsupported("podCertificate"));
        }
    }
    Ok((out, refresh))
}
