//! Kinds of the API group `certificates.k8s.io`.

use crate::api::scheme::{KindInfo, STATUS, Selectable, Subresource, Verbs};
use crate::registry::Resource;
use crate::registry::strategy::Common;

const CERTIFICATESIGNINGREQUEST_SUBRESOURCES: &[Subresource] = &[Subresource::own("approval", Verbs::STATUS), STATUS];

const CERTIFICATESIGNINGREQUEST_FIELDS: &[Selectable] = &[Selectable::new("spec.signerName", "/spec/signerName")];

/// The rows of this group.
pub fn kinds() -> Vec<Resource> {
    vec![Resource::new(
        KindInfo::cluster(
            "certificates.k8s.io",
            "v1",
            "CertificateSigningRequest",
            "certificatesigningrequests",
            "certificatesigningrequest",
        )
        .short(&["csr"])
        .subresources(CERTIFICATESIGNINGREQUEST_SUBRESOURCES)
        .selectable(CERTIFICATESIGNINGREQUEST_FIELDS),
        Box::new(Common::NONE),
    )]
}
