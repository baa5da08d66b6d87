//! Generated clients; `tests/it/protos.rs` keeps them equal to `proto/*.proto`.
//! Included, not declared as modules, so that formatting leaves them as generated.

#![allow(missing_docs, clippy::all, clippy::too_many_lines, clippy::unwrap_used)]

/// CRI v1.
pub(crate) mod runtime {
    include!("generated/runtime.v1.rs");
}

/// containerd's content store.
pub(crate) mod content {
    include!("generated/containerd.services.content.v1.rs");
}

/// containerd's image names.
pub(crate) mod images {
    include!("generated/containerd.services.images.v1.rs");
}

/// CSI's node service.
pub(crate) mod csi {
    include!("generated/csi.v1.rs");
}

/// Registration of plugins.
pub(crate) mod registration {
    include!("generated/pluginregistration.rs");
}

/// containerd's leases.
pub(crate) mod leases {
    include!("generated/containerd.services.leases.v1.rs");
}
