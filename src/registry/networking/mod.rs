//! Kinds of the API group `networking.k8s.io`.

use crate::api::scheme::{KindInfo, STATUS_ONLY};
use crate::registry::Resource;
use crate::registry::strategy::{Common, Generation};

/// The rows of this group.
pub fn kinds() -> Vec<Resource> {
    vec![
        Resource::new(
            KindInfo::cluster("networking.k8s.io", "v1", "IngressClass", "ingressclasses", "ingressclass"),
            Box::new(Common::NONE.generation(Generation::Spec)),
        ),
        Resource::new(
            KindInfo::namespaced("networking.k8s.io", "v1", "Ingress", "ingresses", "ingress")
                .short(&["ing"])
                .subresources(STATUS_ONLY),
            Box::new(Common::NONE.generation(Generation::Spec)),
        ),
        Resource::new(
            KindInfo::cluster("networking.k8s.io", "v1", "IPAddress", "ipaddresses", "ipaddress").short(&["ip"]),
            Box::new(Common::NONE),
        ),
        Resource::new(
            KindInfo::namespaced("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", "networkpolicy")
                .short(&["netpol"]),
            Box::new(Common::NONE.generation(Generation::Spec)),
        ),
        Resource::new(
            KindInfo::cluster("networking.k8s.io", "v1", "ServiceCIDR", "servicecidrs", "servicecidr")
                .subresources(STATUS_ONLY),
            Box::new(Common::NONE),
        ),
    ]
}
