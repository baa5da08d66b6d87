//! The node agent: makes the containers of its node what the bound pods ask for.

pub mod cri;
pub mod runtime;
