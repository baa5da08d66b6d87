//! The node agent: makes the containers of its node what the bound pods ask for.

pub mod containerd;
pub mod cri;
pub mod images;
pub mod logs;
pub mod pause;
pub mod runtime;
pub mod stream;
