//! Writing a status when, and only when, it changed.

use std::sync::Arc;

use serde_json::Value;

use crate::api::object::Object;
use crate::client::Res;
use crate::runtime::{Cx, Error};

/// Replaces the status of `object` where `status` differs from it. True when something was written.
pub async fn write(cx: &Cx, res: &Res, object: &Arc<Object>, status: Value) -> Result<bool, Error> {
    let mut value = object.value();
    if value.get("status").unwrap_or(&Value::Null) == &status {
        return Ok(false);
    }
    value["status"] = status;
    cx.client.update(res, &object.meta.namespace, &object.meta.name, Some("status"), &value).await?;
    Ok(true)
}
