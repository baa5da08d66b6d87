//! Names, selectors, quantities, group-version-kinds.

pub mod fields;
pub mod gvk;
pub mod labels;
pub mod names;
pub mod quantity;

pub use gvk::{GroupResource, Gvk};
