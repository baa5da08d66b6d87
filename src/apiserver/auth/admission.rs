//! Admission plugins that ask who may: they stand here because they need the authorizer and the roles.
//!
//! Rules: upstream `plugin/pkg/admission/{noderestriction,certificates}` and the policy-based storage of RBAC.

use std::sync::Arc;

use serde_json::Value;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use crate::admission::policy::Ask;
use crate::admission::{Plugin, name_of, refuse};
use crate::api::cel::authorizer::{Answer, Question};
use crate::api::status::{ApiResult, Status};
use crate::api::user::{Attributes, Decision, UserInfo};
use crate::api::value::ValueExt;
use crate::apiserver::access::Access;
use crate::registry::{Admission, Resources, View};
use crate::runtime::Listers;

use super::lookup::CacheLookup;
use super::node;
use super::owners::OwnerReferences;
use super::rbac::{self, escalation};
use super::restriction::{self, NodeWrite, Operation};

/// Group of certificate signing requests.
const CERTIFICATES: &str = "certificates.k8s.io";
/// Signer of the API's clients.
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

/// Who may do what, for the expressions of policies and webhooks.
pub fn questions(access: Arc<Access>) -> Arc<dyn Ask> {
    Arc::new(Questions(access))
}

/// All of them, for the chain.
pub fn plugins(access: Arc<Access>, resources: Arc<Resources>, listers: Arc<dyn Listers>) -> Vec<Box<dyn Plugin>> {
    vec![
        Box::new(OwnerReferences::new(access.clone(), resources)),
        Box::new(NodeRestriction(CacheLookup(listers))),
        Box::new(CertificateApproval(access.clone())),
        Box::new(CertificateSigning(access.clone())),
        Box::new(CertificateSubjectRestriction),
        Box::new(RoleEscalation(access)),
    ]
}

/// Who may do what, for the expressions of policies.
struct Questions(Arc<Access>);

impl Ask for Questions {
    fn ask(&self, user: &UserInfo, q: &Question) -> Answer {
        let service_account = q.service_account.as_ref().map(|(namespace, name)| UserInfo {
            name: format!("system:serviceaccount:{namespace}:{name}"),
            groups: super::impersonate::service_account_groups(namespace),
            ..UserInfo::default()
        });
        let attributes = Attributes {
            verb: q.verb.clone(),
            group: q.group.clone(),
            version: if q.path.is_some() { String::new() } else { "*".into() },
            resource: q.resource.clone(),
            subresource: q.subresource.clone(),
            namespace: q.namespace.clone(),
            name: q.name.clone(),
            path: q.path.clone().unwrap_or_default(),
            field_selector: q.field_selector.clone(),
            label_selector: q.label_selector.clone(),
        };
        let (decision, reason) = self.0.authorizer().explain(&attributes, service_account.as_ref().unwrap_or(user));
        Answer { allowed: decision == Decision::Allow, reason }
    }
}

/// What a kubelet may write.
struct NodeRestriction(CacheLookup);

impl NodeRestriction {
    fn check(&self, a: &Admission<'_>, new: Option<&Value>, old: Option<&Value>) -> ApiResult<()> {
        let Some(node) = node::identity(&a.cx.user) else { return Ok(()) };
        let operation = match a.operation {
            "CREATE" => Operation::Create,
            "UPDATE" => Operation::Update,
            "DELETE" => Operation::Delete,
            _ => return Ok(()),
        };
        let info = &a.resource.info;
        let name = if a.target.name.is_empty() { new.map(name_of).unwrap_or_default() } else { &a.target.name };
        let write = NodeWrite {
            node,
            group: &info.gvk.group,
            resource: &info.plural,
            subresource: a.subresource,
            namespace: &a.target.namespace,
            name,
            operation,
            new: new.unwrap_or(&Value::Null),
            old: old.unwrap_or(&Value::Null),
        };
        restriction::check(&write, &self.0)
    }
}

impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn mutate(&self, a: &Admission<'_>, new: &mut Value, old: Option<&Value>, _view: &dyn View) -> ApiResult<()> {
        self.check(a, Some(new), old)
    }

    fn validate(&self, a: &Admission<'_>, new: Option<&Value>, old: Option<&Value>, _view: &dyn View) -> ApiResult<()> {
        if a.operation == "DELETE" { self.check(a, new, old) } else { Ok(()) }
    }
}

/// Nobody grants more than he has. Upstream does it in the storage of roles and bindings, after mutating admission.
struct RoleEscalation(Arc<Access>);

impl Plugin for RoleEscalation {
    fn name(&self) -> &'static str {
        "RoleEscalation"
    }

    fn mutate(&self, a: &Admission<'_>, new: &mut Value, old: Option<&Value>, _view: &dyn View) -> ApiResult<()> {
        let info = &a.resource.info;
        if info.gvk.group != rbac::GROUP {
            return Ok(());
        }
        let (access, user) = (&self.0, &a.cx.user);
        match &*info.plural {
            "roles" | "clusterroles" => {
                let unchanged = |old: &Value| ["rules", "aggregationRule"].iter().all(|k| old.get(k) == new.get(k));
                if old.is_some_and(unchanged) {
                    return Ok(());
                }
                escalation::check_role(&access.rbac, access.authorizer(), user, &info.plural, new)
            }
            "rolebindings" | "clusterrolebindings" => {
                if old.is_some_and(|old| only_collection_fields_differ(old, new)) {
                    return Ok(());
                }
                escalation::check_binding(&access.rbac, access.authorizer(), user, &info.plural, new)
            }
            _ => Ok(()),
        }
    }
}

/// True when an update changes nothing but what the garbage collector changes.
fn only_collection_fields_differ(old: &Value, new: &Value) -> bool {
    let bare = |v: &Value| {
        let mut v = v.clone();
        for field in ["ownerReferences", "finalizers", "managedFields", "resourceVersion"] {
            v.remove_at(&format!("/metadata/{field}"));
        }
        v
    };
    bare(old) == bare(new)
}

fn is_request(a: &Admission<'_>, operation: &str, subresource: &str) -> bool {
    a.is(CERTIFICATES, "certificatesigningrequests") && a.operation == operation && a.subresource == subresource
}

fn may_sign(access: &Access, user: &UserInfo, verb: &str, signer: &str) -> bool {
    let domain = signer.split_once('/').map_or(signer, |(domain, _)| domain);
    [signer.to_owned(), format!("{domain}/*")].into_iter().any(|name| {
        let attributes = Attributes {
            verb: verb.into(),
            group: CERTIFICATES.into(),
            version: "*".into(),
            resource: "signers".into(),
            name,
            ..Attributes::default()
        };
        access.authorizer().authorize(&attributes, user) == Decision::Allow
    })
}

/// Who approves needs the verb `approve` for the signer.
struct CertificateApproval(Arc<Access>);

impl Plugin for CertificateApproval {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }

    fn validate(
        &self,
        a: &Admission<'_>,
        _new: Option<&Value>,
        old: Option<&Value>,
        _view: &dyn View,
    ) -> ApiResult<()> {
        let Some(old) = old.filter(|_| is_request(a, "UPDATE", "approval")) else { return Ok(()) };
        let signer = old.str_at("/spec/signerName").unwrap_or_default();
        match may_sign(&self.0, &a.cx.user, "approve", signer) {
            true => Ok(()),
            false => {
                let why = format!("user not permitted to approve requests with signerName {signer:?}");
                Err(refuse(a, &a.target.name, why))
            }
        }
    }
}

/// Who issues a certificate needs the verb `sign` for the signer.
struct CertificateSigning(Arc<Access>);

impl Plugin for CertificateSigning {
    fn name(&self) -> &'static str {
        "CertificateSigning"
    }

    fn validate(&self, a: &Admission<'_>, new: Option<&Value>, old: Option<&Value>, _view: &dyn View) -> ApiResult<()> {
        let (Some(new), Some(old)) = (new, old) else { return Ok(()) };
        if !is_request(a, "UPDATE", "status") {
            return Ok(());
        }
        let same = |path| new.get_at(path) == old.get_at(path);
        if same("/status/certificate") && same("/status/conditions") {
            return Ok(());
        }
        let signer = old.str_at("/spec/signerName").unwrap_or_default();
        match may_sign(&self.0, &a.cx.user, "sign", signer) {
            true => Ok(()),
            false => {
                let why = format!("user not permitted to sign requests with signerName {signer:?}");
                Err(refuse(a, &a.target.name, why))
            }
        }
    }
}

/// Nobody gets into `system:masters` by a request.
struct CertificateSubjectRestriction;

impl Plugin for CertificateSubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    fn validate(
        &self,
        a: &Admission<'_>,
        new: Option<&Value>,
        _old: Option<&Value>,
        _view: &dyn View,
    ) -> ApiResult<()> {
        let Some(new) = new.filter(|_| is_request(a, "CREATE", "")) else { return Ok(()) };
        if new.str_at("/spec/signerName") != Some(CLIENT_SIGNER) {
            return Ok(());
        }
        let organizations = organizations(new.str_at("/spec/request").unwrap_or_default())
            .map_err(|why| Status::bad_request(format!("{}: {why}", a.target.name)))?;
        if organizations.iter().any(|o| o == UserInfo::MASTERS) {
            let why = format!("use of {CLIENT_SIGNER} signer with {} group is not allowed", UserInfo::MASTERS);
            return Err(refuse(a, name_of(new), why));
        }
        Ok(())
    }
}

/// The organizations of a request's subject. `request` is base64 of PEM.
fn organizations(request: &str) -> Result<Vec<String>, String> {
    use base64::Engine;
    let pem = base64::engine::general_purpose::STANDARD.decode(request).map_err(|e| e.to_string())?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).map_err(|e| e.to_string())?;
    let (_, csr) = X509CertificationRequest::from_der(&pem.contents).map_err(|e| e.to_string())?;
    let names = csr.certification_request_info.subject.iter_organization();
    Ok(names.filter_map(|o| o.as_str().ok().map(str::to_owned)).collect())
}
