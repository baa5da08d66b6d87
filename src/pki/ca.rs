//! A certificate authority on disk, and what it signs.
//!
//! **Invariant:** the key is written before the certificate, so a key alone is a first start that was cut short, and
//! the certificate is made from it. A certificate alone lost its key: an error.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::signature::{self, VerificationAlgorithm};
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::profile::{self, BACKDATE_SECONDS, LEAF_SECONDS, Profile, Usage};
use super::{PkiError, hex, read, write, write_secret};

/// Seconds a CA is valid: ten years, as k3s.
pub const CA_SECONDS: i64 = 3_650 * 86_400;
/// 2026-01-01: no orch was built before. A clock that is behind (no battery, no network yet) must not make a CA that has
/// ended, or not begun, once the clock is set.
pub const CLOCK_FLOOR_SECONDS: i64 = 1_767_225_600;
/// Seconds that the start of a certificate with a life of its own lies in the past. Upstream: five minutes; here no more
/// than a quarter of its life, which the time of its renewal is counted from.
const SHORT_BACKDATE_SECONDS: i64 = 300;
/// Mode of a certificate file: not secret.
const CERT_MODE: u32 = 0o644;

/// A certificate with its key.
#[derive(Clone)]
pub struct Pair {
    /// The certificate, PEM.
    pub cert_pem: String,
    /// The private key, PKCS#8 PEM. Secret.
    pub key_pem: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("cert_pem", &self.cert_pem).finish_non_exhaustive()
    }
}

impl Pair {
    /// The chain, DER.
    pub fn chain(&self) -> Result<Vec<CertificateDer<'static>>, PkiError> {
        CertificateDer::pem_slice_iter(self.cert_pem.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|e| PkiError::Tls(format!("certificate: {e}")))
    }

    /// The private key, DER.
    pub fn key(&self) -> Result<PrivateKeyDer<'static>, PkiError> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).map_err(|e| PkiError::Tls(format!("private key: {e}")))
    }

    /// As rustls wants it.
    pub fn certified(&self) -> Result<Arc<CertifiedKey>, PkiError> {
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&self.key()?)
            .map_err(|e| PkiError::Tls(e.to_string()))?;
        Ok(Arc::new(CertifiedKey::new(self.chain()?, key)))
    }
}

impl Pair {
    /// When it has to be issued again, seconds since the epoch: some time before its end.
    pub fn due(&self) -> i64 {
        self.leaf(profile::due).unwrap_or(i64::MIN)
    }

    /// True when it has to be issued again at `now`: it is near its end, or its start is still to come.
    pub fn is_due(&self, now: Timestamp) -> bool {
        let Ok(chain) = self.chain() else { return true };
        let parsed = chain.first().and_then(|leaf| X509Certificate::from_der(leaf).ok());
        parsed.is_none_or(|(_, leaf)| profile::out_of_time(&leaf, now).is_some())
    }
}

/// What the certificate says.
impl Pair {
    fn leaf<T>(&self, read: impl FnOnce(&X509Certificate<'_>) -> T) -> Option<T> {
        let chain = self.chain().ok()?;
        let (_, leaf) = X509Certificate::from_der(chain.first()?).ok()?;
        Some(read(&leaf))
    }

    /// True when it is of the user with this name, and belongs to its key.
    pub fn is_of(&self, user: &str) -> bool {
        let Ok(key) = KeyPair::from_pem(&self.key_pem) else { return false };
        let key = key.subject_public_key_info();
        self.leaf(|c| profile::subject(c).0 == user && c.public_key().raw == key).unwrap_or(false)
    }

    /// Its start, seconds since the epoch.
    pub fn begins(&self) -> i64 {
        self.leaf(|c| c.validity().not_before.timestamp()).unwrap_or(i64::MAX)
    }

    /// Its end, seconds since the epoch.
    pub fn ends(&self) -> i64 {
        self.leaf(|c| c.validity().not_after.timestamp()).unwrap_or(i64::MIN)
    }

    /// Why it cannot be used as `profile`; `None` when it can.
    pub fn mismatch(&self, profile: &Profile, now: Timestamp) -> Option<String> {
        self.leaf(|c| profile.mismatch(c, now)).unwrap_or_else(|| Some("a file is damaged".into()))
    }
}

/// A certificate authority.
pub struct Ca {
    /// Its certificate, PEM. Public.
    pub cert_pem: String,
    /// Its certificate, DER.
    pub cert: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    /// Seconds that what it signs lives at most.
    life: i64,
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ca").field("sha256", &self.sha256()).finish_non_exhaustive()
    }
}

impl Ca {
    /// Opens `<file>.crt` and `<file>.key`, or makes them.
    pub fn open(dir: &Path, file: &str, name: &str, now: Timestamp) -> Result<Self, PkiError> {
        let cert_path = dir.join(format!("{file}.crt"));
        let key_path = dir.join(format!("{file}.key"));
        let damaged = |path: &Path, why: String| PkiError::Damaged { path: path.to_owned(), why };
        let (cert_pem, key_pem) = (read(&cert_path)?, read(&key_path)?);
        if cert_pem.is_some() && key_pem.is_none() {
            return Err(damaged(&key_path, format!("it is missing, while {} is there", cert_path.display())));
        }
        let key = open_key(&key_path)?;
        let Some(cert_pem) = cert_pem else {
            let ca = Self::new(name, key, now)?;
            write(&cert_path, &ca.cert_pem, CERT_MODE)?;
            tracing::info!(path = %cert_path.display(), "made a certificate authority");
            return Ok(ca);
        };
        let cert = CertificateDer::from_pem_slice(cert_pem.as_bytes())
            .map_err(|e| damaged(&cert_path, format!("no certificate in it ({e})")))?;
        let (_, parsed) =
            X509Certificate::from_der(&cert).map_err(|e| damaged(&cert_path, format!("not a certificate ({e})")))?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(damaged(&cert_path, format!("it does not belong to the key {}", key_path.display())));
        }
        if parsed.validity().not_after.timestamp() < now.as_second() {
            tracing::error!(path = %cert_path.display(), "the certificate authority has ended; check the clock");
        }
        let issuer =
            Issuer::from_ca_cert_der(&cert, key).map_err(|e| damaged(&cert_path, format!("not a CA ({e})")))?;
        Ok(Self { cert_pem, cert: cert.into_owned(), issuer, life: LEAF_SECONDS })
    }

    /// What it signs from now on lives so many seconds, and no longer than others' does.
    #[must_use]
    pub fn with_life(self, seconds: Option<i64>) -> Self {
        Self { life: seconds.map_or(self.life, |s| s.min(LEAF_SECONDS)), ..self }
    }

    /// A new CA over `key`, in memory. Its name carries the time, so that two of them can be told apart.
    pub fn new(name: &str, key: KeyPair, now: Timestamp) -> Result<Self, PkiError> {
        let name = format!("{name}@{}", now.as_second());
        let mut params = base_params(&name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::KeyCertSign];
        let from = CLOCK_FLOOR_SECONDS.min(now.as_second() - BACKDATE_SECONDS);
        valid(&mut params, from, CLOCK_FLOOR_SECONDS.max(now.as_second()) + CA_SECONDS);
        let cert = params.self_signed(&key).map_err(|e| issue(&name, e))?;
        Ok(Self {
            cert_pem: cert.pem(),
            cert: cert.der().clone(),
            issuer: Issuer::new(params, key),
            life: LEAF_SECONDS,
        })
    }

    /// SHA-256 of the certificate (DER), hexadecimal: what a join token carries.
    pub fn sha256(&self) -> String {
        fingerprint(&self.cert)
    }

    /// Signs a certificate over a fresh key.
    pub fn issue(&self, profile: &Profile, now: Timestamp) -> Result<Pair, PkiError> {
        let key = KeyPair::generate().map_err(|e| issue(&profile.common_name, e))?;
        let cert = leaf_params(profile, self.life, now)?
            .signed_by(&key, &self.issuer)
            .map_err(|e| issue(&profile.common_name, e))?;
        Ok(Pair { cert_pem: cert.pem(), key_pem: key.serialize_pem() })
    }

    /// Signs the key of a certificate signing request (PEM); what the certificate says is `profile`'s, nothing of the
    /// request's but its key. The request's own signature is checked: the sender has the key. The certificate lives for
    /// `seconds`, where given and shorter than others' lives.
    pub fn sign_request(
        &self,
        request_pem: &str,
        profile: &Profile,
        seconds: Option<i64>,
        now: Timestamp,
    ) -> Result<String, PkiError> {
        let mut request =
            CertificateSigningRequestParams::from_pem(request_pem).map_err(|e| issue(&profile.common_name, e))?;
        request.params = leaf_params(profile, seconds.map_or(self.life, |s| s.min(self.life)), now)?;
        let cert = request.signed_by(&self.issuer).map_err(|e| issue(&profile.common_name, e))?;
        Ok(cert.pem())
    }

    /// Opens `<file>.crt` and `<file>.key`, or issues them: again when they are damaged, of another CA, near their end,
    /// or do not say what `profile` does.
    pub fn pair(&self, dir: &Path, file: &str, profile: &Profile, now: Timestamp) -> Result<Pair, PkiError> {
        let cert_path = dir.join(format!("{file}.crt"));
        let key_path = dir.join(format!("{file}.key"));
        // Neither is worth an error: both can be made again.
        let on_disk = match (read(&cert_path), read(&key_path)) {
            (Ok(cert), Ok(key)) => cert.zip(key),
            (Err(PkiError::Damaged { .. }), _) | (_, Err(PkiError::Damaged { .. })) => None,
            (Err(e), _) | (_, Err(e)) => return Err(e),
        };
        if let Some((cert_pem, key_pem)) = on_disk {
            let pair = Pair { cert_pem, key_pem };
            match self.mismatch(&pair, profile, now) {
                None => return Ok(pair),
                Some(why) => tracing::info!(path = %cert_path.display(), "issuing a certificate again: {why}"),
            }
        }
        let pair = self.issue(profile, now)?;
        write_secret(&key_path, &pair.key_pem)?;
        write(&cert_path, &pair.cert_pem, CERT_MODE)?;
        Ok(pair)
    }

    /// Why a pair cannot be used as `profile` under this CA; `None` when it can.
    fn mismatch(&self, pair: &Pair, profile: &Profile, now: Timestamp) -> Option<String> {
        let (Ok(cert), Ok(key)) =
            (CertificateDer::from_pem_slice(pair.cert_pem.as_bytes()), KeyPair::from_pem(&pair.key_pem))
        else {
            return Some("a file is damaged".into());
        };
        let Ok((_, parsed)) = X509Certificate::from_der(&cert) else { return Some("a file is damaged".into()) };
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Some("it does not belong to its key".into());
        }
        let (_, own) = X509Certificate::from_der(&self.cert).ok()?;
        if parsed.issuer().as_raw() != own.subject().as_raw() || !signed_by(&parsed, &own) {
            return Some("another CA signed it".into());
        }
        profile.mismatch(&parsed, now)
    }
}

/// Signature algorithms by their object identifiers: those that a CA's key may sign with here.
const SIGNATURES: &[(&str, &dyn VerificationAlgorithm)] = &[
    ("1.2.840.10045.4.3.2", &signature::ECDSA_P256_SHA256_ASN1),
    ("1.2.840.10045.4.3.3", &signature::ECDSA_P384_SHA384_ASN1),
    ("1.2.840.10045.4.3.4", &signature::ECDSA_P521_SHA512_ASN1),
    ("1.2.840.113549.1.1.11", &signature::RSA_PKCS1_2048_8192_SHA256),
    ("1.3.101.112", &signature::ED25519),
];

/// True when `ca`'s key signed `cert`.
fn signed_by(cert: &X509Certificate<'_>, ca: &X509Certificate<'_>) -> bool {
    let oid = cert.signature_algorithm.algorithm.to_id_string();
    let Some((_, algorithm)) = SIGNATURES.iter().find(|(known, _)| *known == oid) else { return false };
    let key = signature::UnparsedPublicKey::new(*algorithm, &ca.public_key().subject_public_key.data);
    key.verify(cert.tbs_certificate.as_ref(), &cert.signature_value.data).is_ok()
}

/// SHA-256 of a certificate (DER), hexadecimal.
pub fn fingerprint(cert: &CertificateDer<'_>) -> String {
    hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, cert).as_ref())
}

/// Opens a CA's private key (PEM), or makes an ECDSA P-256 one.
fn open_key(path: &Path) -> Result<KeyPair, PkiError> {
    if let Some(pem) = read(path)? {
        let damaged = |why: String| PkiError::Damaged { path: path.to_owned(), why };
        // What stands before the key (its curve, as openssl writes it) is passed over.
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|e| damaged(format!("no private key in it ({e}); one with a password cannot be used")))?;
        return KeyPair::try_from(&key)
            .map_err(|e| damaged(format!("its private key is neither RSA, ECDSA nor Ed25519 ({e})")));
    }
    let key = KeyPair::generate().map_err(|e| issue(&path.display().to_string(), e))?;
    write_secret(path, &key.serialize_pem())?;
    Ok(key)
}

pub(super) fn issue(what: &str, why: impl std::fmt::Display) -> PkiError {
    PkiError::Issue { what: what.to_owned(), why: why.to_string() }
}

fn base_params(common_name: &str, organizations: &[String]) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut dn = DistinguishedName::new();
    // rcgen keeps one value per type; several organizations need types of their own with the same OID.
    for (i, organization) in organizations.iter().enumerate() {
        dn.push(organization_type(i), organization.as_str());
    }
    dn.push(DnType::CommonName, common_name);
    params.distinguished_name = dn;
    params
}

/// The first organization under its name, the next as a custom type with the same OID (2.5.4.10).
fn organization_type(index: usize) -> DnType {
    match index {
        0 => DnType::OrganizationName,
        _ => DnType::CustomDnType(vec![2, 5, 4, 10]),
    }
}

/// Subject and names: what a request asks for.
pub(super) fn request_params(profile: &Profile) -> Result<CertificateParams, PkiError> {
    if profile.organizations.len() > 2 {
        return Err(issue(&profile.common_name, "a certificate carries at most two organizations"));
    }
    let mut params = base_params(&profile.common_name, &profile.organizations);
    for san in &profile.sans {
        let bad = || PkiError::BadName(san.clone());
        params.subject_alt_names.push(match san.parse() {
            Ok(ip) => SanType::IpAddress(ip),
            Err(_) if is_dns_name(san) => SanType::DnsName(san.as_str().try_into().map_err(|_| bad())?),
            Err(_) => return Err(bad()),
        });
    }
    Ok(params)
}

/// A certificate below a CA that lives so many seconds.
fn leaf_params(profile: &Profile, seconds: i64, now: Timestamp) -> Result<CertificateParams, PkiError> {
    let mut params = request_params(profile)?;
    params.is_ca = IsCa::ExplicitNoCa;
    let uses = [
        (profile.key_use.signing, KeyUsagePurpose::DigitalSignature),
        (profile.key_use.enciphering, KeyUsagePurpose::KeyEncipherment),
    ];
    params.key_usages = uses.into_iter().filter(|(wanted, _)| *wanted).map(|(_, what)| what).collect();
    params.extended_key_usages = vec![match profile.usage {
        Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
        Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
    }];
    params.use_authority_key_identifier_extension = true;
    let now = now.as_second();
    match seconds < LEAF_SECONDS {
        true => valid(&mut params, now - SHORT_BACKDATE_SECONDS.min(seconds / 4), now + seconds),
        // Made under a clock that is behind, it holds when the clock is set, until it is issued again.
        false => valid(&mut params, now - BACKDATE_SECONDS, now.max(CLOCK_FLOOR_SECONDS) + LEAF_SECONDS),
    }
    Ok(params)
}

/// True for a DNS name, also one with a wildcard in front.
fn is_dns_name(name: &str) -> bool {
    let name = name.strip_prefix("*.").unwrap_or(name);
    name.len() <= 253
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

/// Sets a certificate's time, in seconds since the epoch; before 1970 is 1970.
fn valid(params: &mut CertificateParams, from: i64, until: i64) {
    let date = |seconds: i64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds.max(0).unsigned_abs());
    params.not_before = date(from);
    params.not_after = date(until);
}
