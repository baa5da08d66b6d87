//! What a certificate says: for whom, for what use, under which names; and when one on disk has to be issued again.

use std::net::IpAddr;

use jiff::Timestamp;
use x509_parser::prelude::{GeneralName, X509Certificate};
use x509_parser::x509::X509Name;

/// Seconds a certificate below a CA is valid.
pub const LEAF_SECONDS: i64 = 365 * 86_400;
/// Seconds before its end at which a certificate is issued again, if it lives long enough.
pub const RENEW_BEFORE_SECONDS: i64 = 90 * 86_400;
/// One that lives shorter is issued again when this part of its life is left.
const RENEW_BEFORE_PART: i64 = 4;
/// Seconds a certificate's start lies in the past, for clocks that go behind.
pub const BACKDATE_SECONDS: i64 = 3_600;

/// What a certificate is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// TLS servers.
    Server,
    /// TLS clients.
    Client,
}

/// What the key of a certificate may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyUse {
    /// Signatures.
    pub signing: bool,
    /// Keys of other things, as old TLS does with RSA.
    pub enciphering: bool,
}

impl KeyUse {
    /// Both.
    pub const BOTH: Self = Self { signing: true, enciphering: true };
}

/// The contents of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Common name: the user's name, for clients.
    pub common_name: String,
    /// Organizations: the user's groups, for clients.
    pub organizations: Vec<String>,
    /// DNS names and addresses.
    pub sans: Vec<String>,
    /// What for.
    pub usage: Usage,
    /// How.
    pub key_use: KeyUse,
}

impl Profile {
    /// A serving certificate.
    pub fn server(common_name: &str, sans: Vec<String>) -> Self {
        Self {
            common_name: common_name.into(),
            organizations: vec![],
            sans,
            usage: Usage::Server,
            key_use: KeyUse::BOTH,
        }
    }

    /// A client certificate of a user in groups.
    pub fn client(common_name: &str, groups: &[&str]) -> Self {
        let organizations = groups.iter().map(|g| (*g).to_owned()).collect();
        Self {
            common_name: common_name.into(),
            organizations,
            sans: vec![],
            usage: Usage::Client,
            key_use: KeyUse::BOTH,
        }
    }

    /// The client certificate of a node, as the node authorizer wants it.
    pub fn kubelet_client(node: &str) -> Self {
        Self::client(&format!("system:node:{node}"), &["system:nodes"])
    }

    /// The serving certificate of a node's kubelet, as upstream's `kubelet-serving` signer wants it. It does not name
    /// loopback: the API may be there, and has the same CA.
    pub fn kubelet_server(node: &str, ips: &[IpAddr]) -> Self {
        let sans = std::iter::once(node.to_owned()).chain(ips.iter().map(IpAddr::to_string)).collect();
        Self {
            common_name: format!("system:node:{node}"),
            organizations: vec!["system:nodes".into()],
            sans,
            usage: Usage::Server,
            key_use: KeyUse::BOTH,
        }
    }

    /// Why `cert` cannot stand for this profile at `now`; `None` when it can. The issuer and the key are the caller's
    /// to check.
    pub fn mismatch(&self, cert: &X509Certificate<'_>, now: Timestamp) -> Option<String> {
        if let Some(why) = out_of_time(cert, now) {
            return Some(why.into());
        }
        if text(cert.subject().iter_common_name()).first() != Some(&self.common_name)
            || text(cert.subject().iter_organization()) != self.organizations
        {
            return Some("it is for another subject".into());
        }
        let have = sans(cert);
        let missing = self.sans.iter().find(|s| !have.contains(s))?;
        Some(format!("it lacks the name {missing}"))
    }
}

/// The end of a certificate (PEM), seconds since the epoch; none when it cannot be read.
pub fn end(pem: &[u8]) -> Option<i64> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem).ok()?;
    Some(pem.parse_x509().ok()?.validity().not_after.timestamp())
}

/// Why a certificate's time is not now, or not for long; `None` while it is.
pub(super) fn out_of_time(cert: &X509Certificate<'_>, now: Timestamp) -> Option<&'static str> {
    let validity = cert.validity();
    if validity.not_before.timestamp() > now.as_second() {
        return Some("it begins in the future");
    }
    (due(cert) < now.as_second()).then_some("it is near its end")
}

/// When a certificate has to be issued again, seconds since the epoch.
pub(super) fn due(cert: &X509Certificate<'_>) -> i64 {
    let (from, until) = (cert.validity().not_before.timestamp(), cert.validity().not_after.timestamp());
    until - RENEW_BEFORE_SECONDS.min(until.saturating_sub(from) / RENEW_BEFORE_PART)
}

fn text<'a>(attributes: impl Iterator<Item = &'a x509_parser::x509::AttributeTypeAndValue<'a>>) -> Vec<String> {
    attributes.filter_map(|a| a.as_str().ok().map(str::to_owned)).collect()
}

/// Common name and organizations of a certificate: the name and the groups of its user.
pub fn subject(cert: &X509Certificate<'_>) -> (String, Vec<String>) {
    names(cert.subject())
}

/// Common name and organizations of a subject.
pub(super) fn names(subject: &X509Name<'_>) -> (String, Vec<String>) {
    let name = text(subject.iter_common_name()).into_iter().next().unwrap_or_default();
    (name, text(subject.iter_organization()))
}

/// An address as certificates carry it.
pub(super) fn address(bytes: &[u8]) -> Option<IpAddr> {
    match <[u8; 4]>::try_from(bytes) {
        Ok(v4) => Some(v4.into()),
        Err(_) => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
    }
}

/// DNS names and addresses of a certificate.
pub fn sans(cert: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = cert.subject_alternative_name() else { return vec![] };
    let name = |n: &GeneralName<'_>| match n {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => address(bytes).map(|ip| ip.to_string()),
        _ => None,
    };
    extension.value.general_names.iter().filter_map(name).collect()
}
