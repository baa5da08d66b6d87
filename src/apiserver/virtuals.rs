//! Kinds that are asked, not stored: reviews.

use serde_json::Value;

use crate::api::status::ApiResult;
use crate::registry::{RequestCx, Resource};

use super::{Api, Call, verbs};

impl Api {
    /// A create of a kind that nobody can get.
    pub(super) async fn virtual_create(
        &self,
        _res: &Resource,
        _call: &Call,
        _cx: &RequestCx,
        _new: Value,
    ) -> ApiResult<Value> {
        Err(verbs::method_not_allowed())
    }
}
