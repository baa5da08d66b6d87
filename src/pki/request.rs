//! Certificate signing requests: made by who wants a certificate, read by who decides over it.
//!
//! **Invariant:** the private key stays with who asks; a request proves that he has it.

use std::net::IpAddr;

use aws_lc_rs::digest;
use rcgen::{KeyPair, PublicKeyData};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

use super::ca::{issue, request_params};
use super::{PkiError, Profile, hex};

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Request {
    /// Common name of the subject.
    pub common_name: String,
    /// Its organizations.
    pub organizations: Vec<String>,
    /// DNS names.
    pub dns: Vec<String>,
    /// Addresses.
    pub ips: Vec<IpAddr>,
    /// It has mail addresses.
    pub emails: bool,
    /// It has URIs.
    pub uris: bool,
    /// [`key_hash`] of the key.
    pub key_hash: String,
}

/// A fresh private key, PKCS#8 PEM.
pub fn new_key() -> Result<String, PkiError> {
    Ok(KeyPair::generate().map_err(|e| issue("a new key", e))?.serialize_pem())
}

/// A request (PEM) for a certificate of `key_pem` that says what `profile` does.
pub fn make(key_pem: &str, profile: &Profile) -> Result<String, PkiError> {
    let failed = |e: rcgen::Error| issue(&profile.common_name, e);
    let key = KeyPair::from_pem(key_pem).map_err(failed)?;
    request_params(profile)?.serialize_request(&key).and_then(|r| r.pem()).map_err(failed)
}

/// SHA-256 of the public key (SubjectPublicKeyInfo, DER) of a private key, hexadecimal: names a key without showing it.
pub fn key_hash(key_pem: &str) -> Result<String, PkiError> {
    let key = KeyPair::from_pem(key_pem).map_err(|e| issue("a key", e))?;
    Ok(hash(&key.subject_public_key_info()))
}

/// SHA-256 of a SubjectPublicKeyInfo (DER), hexadecimal.
pub fn hash(spki: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, spki).as_ref())
}

/// Reads a request (PEM) whose signature its own key made. The error says what is wrong with it.
pub fn read(pem: &[u8]) -> Result<Request, String> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem).map_err(|e| format!("it is no PEM ({e})"))?;
    let (_, csr) =
        X509CertificationRequest::from_der(&pem.contents).map_err(|e| format!("it is no certificate request ({e})"))?;
    csr.verify_signature().map_err(|_| "its signature is not its key's".to_owned())?;
    let info = &csr.certification_request_info;
    let (common_name, organizations) = super::profile::names(&info.subject);
    let key_hash = hash(info.subject_pki.raw);
    let mut out = Request { common_name, organizations, key_hash, ..Request::default() };
    for extension in csr.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
        for name in &names.general_names {
            match name {
                GeneralName::DNSName(name) => out.dns.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => match super::profile::address(bytes) {
                    Some(ip) => out.ips.push(ip),
                    None => return Err(format!("it has an address of {} bytes", bytes.len())),
                },
                GeneralName::RFC822Name(_) => out.emails = true,
                GeneralName::URI(_) => out.uris = true,
                // Nobody reads them, and no certificate gets them.
                _ => {}
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_what_is_read() {
        let key = new_key().unwrap();
        let profile = Profile::kubelet_server("n1", &["192.0.2.7".parse().unwrap()]);
        let request = read(make(&key, &profile).unwrap().as_bytes()).unwrap();
        assert_eq!(request.common_name, "system:node:n1");
        assert_eq!(request.organizations, ["system:nodes"]);
        assert_eq!(request.dns, ["n1"]);
        assert_eq!(request.ips, ["192.0.2.7".parse::<IpAddr>().unwrap()]);
        assert_eq!((request.key_hash, request.emails, request.uris), (key_hash(&key).unwrap(), false, false));
        assert!(read(b"nothing").unwrap_err().contains("no PEM"));
    }
}
