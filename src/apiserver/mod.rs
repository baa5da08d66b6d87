//! Work in progress: see ARCHITECTURE.md.
pub mod auth;
