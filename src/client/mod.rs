//! The API client of everything in orch: `kube`'s client over any transport, in process or TLS.
//!
//! It takes and gives `serde_json::Value`s; errors are the server's [`Status`].
