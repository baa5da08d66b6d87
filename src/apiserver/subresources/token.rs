//! `POST serviceaccounts/NAME/token`: a token for the account.

use std::sync::Arc;

use crate::api::meta::Gvk;
use crate::api::status::{ApiResult, Status};
use crate::api::value::ValueExt;
use crate::apiserver::body::{self, FieldValidation};
use crate::apiserver::respond::{self, Answer};
use crate::apiserver::{Api, Call, verbs};
use crate::registry::{Admission, Resource, View};

impl Api {
    /// Issues a token; nothing is stored.
    pub(in crate::apiserver) async fn issue_token(&self, accounts: &Arc<Resource>, call: Call) -> ApiResult<Answer> {
        let gvk = Gvk::new("authentication.k8s.io", "v1", "TokenRequest");
        let cx = self.write_cx(accounts, &call, "CreateOptions")?;
        let strictness = FieldValidation::parse(&call.info.query, "CreateOptions")?;
        let def = crate::api::schema::table().kind(&gvk.group, &gvk.version, &gvk.kind);
        let raw = body::decode(&call.body, &call.headers, &gvk)?;
        let mut request = body::canonical(raw, &gvk, def, strictness, &cx)?;
        if let Some(def) = def {
            crate::api::schema::defaults::apply(&mut request, def);
        }
        let at = call.target(accounts);
        if request.str_at("/metadata/name").is_some_and(|n| !n.is_empty() && n != at.name) {
            let errs = crate::registry::errors::FieldErrors::new();
            let name = request["metadata"]["name"].clone();
            errs.at("metadata").at("name").invalid(name, "must match the service account name if specified");
            return Err(Status::invalid(&gvk.group, &gvk.kind, &at.name, errs.take()));
        }
        let account = View::get(&*self.registry, "", "serviceaccounts", &at.namespace, &at.name)
            .ok_or_else(|| Status::not_found("", "serviceaccounts", &at.name))?;
        self.registry.admit(&Admission::posted(accounts, &cx, &at, "token"), &mut request).await?;
        let made = self.access.tokens.request(&account, &request)?;
        Ok(verbs::finish(respond::encoded(201, &made, verbs::error_encoding(&call.headers)), &cx))
    }
}
