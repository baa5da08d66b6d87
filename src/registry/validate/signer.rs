//! Names of signers of certificates.
//!
//! Rules: upstream `ValidateSignerName`.

use crate::api::meta::names;

use super::Field;

/// Longest name, bytes: a domain and a path.
const MAX: usize = 571;

/// `example.com/signer-name`, at this field.
pub fn name(field: &Field<'_>) {
    let text = field.as_text();
    if text.is_empty() {
        field.errs.required("");
        return;
    }
    let Some((domain, path)) = text.split_once('/').filter(|(_, path)| !path.contains('/')) else {
        field.invalid("must be a fully qualified domain and path of the form 'example.com/signer-name'");
        return;
    };
    if domain.len() > names::SUBDOMAIN_MAX {
        field.errs.too_long(names::SUBDOMAIN_MAX);
    }
    if let Some(label) = domain.split('.').find(|l| !names::dns1123_label(l).is_empty()) {
        field.reasons(names::dns1123_label(label));
    }
    if !domain.contains('.') {
        field.invalid("should be a domain with at least two segments separated by dots");
    }
    if let Some(label) = path.split('.').find(|l| !names::dns1123_subdomain(l).is_empty()) {
        field.reasons(names::dns1123_subdomain(label));
    }
    if text.len() > MAX {
        field.errs.too_long(MAX);
    }
}
