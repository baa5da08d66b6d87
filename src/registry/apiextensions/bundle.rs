//! The authorities that a conversion webhook's certificate is believed from.
//!
//! Rules: upstream `apiserver/pkg/util/webhook` (`ValidateCABundle`), which believes in a bundle that holds a certificate.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::Value;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::api::value::ValueExt;

/// The bundle of a definition; empty when it has none.
pub fn of(crd: &Value) -> &str {
    crd.str_at("/spec/conversion/webhook/clientConfig/caBundle").unwrap_or_default()
}

/// True for a bundle (base64 of PEM) that holds a certificate, and where there is none: then the machine's own count.
pub fn is_usable(bundle: &str) -> bool {
    if bundle.is_empty() {
        return true;
    }
    let Ok(pem) = STANDARD.decode(bundle) else { return false };
    CertificateDer::pem_slice_iter(&pem).flatten().any(|der| X509Certificate::from_der(&der).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_holds_a_certificate() {
        let pem = rcgen::generate_simple_self_signed(vec!["a".to_owned()]).unwrap().cert.pem();
        let bundle = |text: &str| STANDARD.encode(text);
        assert!(is_usable("") && is_usable(&bundle(&pem)));
        assert!(is_usable(&bundle(&format!("words before\n{pem}"))));
        assert!(!is_usable(&bundle("bar")) && !is_usable("%%"));
        let empty = "-----BEGIN CERTIFICATE-----\nYmFy\n-----END CERTIFICATE-----\n";
        assert!(!is_usable(&bundle(empty)), "no certificate in its clothes");
    }
}
