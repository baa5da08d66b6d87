//! `/orch/encryption`: encryption at rest, seen and changed by who may (administrators; RBAC's `nonResourceURLs`).
//!
//! GET gives the status, POST `{"action": …}` does one thing and says how many objects it wrote again.

use std::sync::Arc;

use http::Method;
use serde_json::{Value, json};

use super::respond::{self, Answer};
use super::verbs::method_not_allowed;
use super::{Api, Call};
use crate::api::status::{ApiResult, Status};
use crate::api::value::ValueExt;
use crate::store::sealed::{Encryption, EncryptionError};

/// The path.
pub const PATH: &str = "/orch/encryption";

impl Api {
    /// Says what seals the store; once.
    pub fn attach_encryption(&self, encryption: Arc<Encryption>) {
        // A second one would be another store's.
        let _ = self.encryption.set(encryption);
    }

    /// A request for [`PATH`].
    pub(super) async fn encryption(&self, call: Call) -> ApiResult<Answer> {
        let Some(encryption) = self.encryption.get() else { return Ok(respond::text(404, "404 page not found\n")) };
        match call.method {
            Method::GET => Ok(respond::json(200, &encryption.status().await.map_err(refused)?.to_value())),
            Method::POST => {
                let asked: Value = serde_json::from_slice(&call.body).unwrap_or_default();
                let count = act(encryption, asked.str_at("/action").unwrap_or_default()).await?;
                Ok(respond::json(200, &json!({"rewritten": count})))
            }
            _ => Err(method_not_allowed()),
        }
    }
}

async fn act(encryption: &Encryption, action: &str) -> ApiResult<usize> {
    let done = match action {
        "reencrypt" => encryption.reencrypt().await,
        "rotate-keys" => encryption.rotate().await,
        "enable" => encryption.switch(true).await,
        "disable" => encryption.switch(false).await,
        other => {
            let why = format!("action {other:?} is none of reencrypt, rotate-keys, enable, disable");
            return Err(Status::bad_request(why));
        }
    };
    done.map_err(refused)
}

fn refused(error: EncryptionError) -> Box<Status> {
    match error {
        EncryptionError::Off | EncryptionError::NotManaged(_) => Status::bad_request(error.to_string()),
        _ => {
            tracing::error!("encryption at rest: {error}");
            Status::internal(error)
        }
    }
}
