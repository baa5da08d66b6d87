//! What workload controllers share: pods as plans see them, claiming by selector and owner, templates, conditions, batches.

pub mod batch;
pub mod claim;
pub mod conditions;
pub mod discovery;
pub mod hash;
pub mod numbers;
pub mod pods;
pub mod revisions;
pub mod status;
pub mod taints;
