//! Wire types and pure rules of the Kubernetes API: no IO.
//!
//! **Invariant:** the truth is JSON; nothing here goes through a generated type and back.

pub mod audit;
pub mod cel;
pub mod codec;
pub mod cron;
pub mod edit;
pub mod go_json;
pub mod jsonpath;
pub mod legacy_token;
pub mod meta;
pub mod node_identity;
pub mod object;
pub mod patch;
pub mod quota;
pub mod scan;
pub mod schema;
pub mod scheme;
pub mod services;
pub mod status;
pub mod table;
pub mod usage;
pub mod user;
pub mod value;
pub mod websocket;
