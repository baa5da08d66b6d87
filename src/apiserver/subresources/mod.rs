//! Subresources that do something else than storing into their object: one file each.

mod binding;
mod eviction;
mod scale;
mod streams;
mod token;
