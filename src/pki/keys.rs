//! Keys that sign service accounts' tokens: orch's own, and those that a cluster brings with it.
//!
//! In: a PEM file with one private key or several. Out: what signing and verifying need. The first key signs, all of them
//! verify: so a new one is put in front of an old one, whose tokens live on.
//!
//! **Invariant:** a file with a key that cannot be used is an error that says so, never a key that is left out.

use std::path::Path;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    KeyPair as _, RsaKeyPair,
};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::der_parser::der::parse_der;

use super::{PkiError, read, write_secret};

/// Bytes of an RSA modulus, at least: 2048 bits.
const RSA_MIN_BYTES: usize = 256;

/// How a key signs, by JOSE's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenAlgorithm {
    /// ECDSA on P-256 with SHA-256: what orch makes.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// RSA, PKCS #1 1.5 with SHA-256: what kubeadm and k3s make.
    Rs256,
}

/// A key for tokens.
pub struct TokenKey {
    /// How it signs.
    pub algorithm: TokenAlgorithm,
    /// PKCS #8 of an EC key, PKCS #1 of an RSA key. Secret.
    pub private: Vec<u8>,
    /// The point of an EC key, the PKCS #1 form of an RSA key.
    pub public: Vec<u8>,
    /// The public key as SubjectPublicKeyInfo, DER.
    pub spki: Vec<u8>,
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenKey").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

/// Opens a file of keys, or makes one with a fresh ECDSA P-256 key.
pub(super) fn open(path: &Path) -> Result<Vec<TokenKey>, PkiError> {
    let pem = match read(path)? {
        Some(pem) => pem,
        None => {
            let key = rcgen::KeyPair::generate().map_err(|e| super::ca::issue(&path.display().to_string(), e))?;
            let pem = key.serialize_pem();
            write_secret(path, &pem)?;
            pem
        }
    };
    parse(&pem).map_err(|why| PkiError::Damaged { path: path.to_owned(), why })
}

/// All private keys of a text, at least one. The error says what is wrong.
pub fn parse(pem: &str) -> Result<Vec<TokenKey>, String> {
    let mut keys = Vec::new();
    for key in PrivateKeyDer::pem_slice_iter(pem.as_bytes()) {
        let key = key.map_err(|e| format!("it is no PEM ({e})"))?;
        let number = keys.len() + 1;
        keys.push(read_key(&key).map_err(|why| format!("private key {number} in it cannot sign tokens: {why}"))?);
    }
    if keys.is_empty() { Err("no private key in it".into()) } else { Ok(keys) }
}

fn read_key(key: &PrivateKeyDer<'_>) -> Result<TokenKey, String> {
    let curves = [
        (TokenAlgorithm::Es256, &ECDSA_P256_SHA256_FIXED_SIGNING),
        (TokenAlgorithm::Es384, &ECDSA_P384_SHA384_FIXED_SIGNING),
    ];
    if let Some(found) = curves.into_iter().find_map(|(algorithm, curve)| ec(key, algorithm, curve)) {
        return Ok(found);
    }
    let private = match key {
        PrivateKeyDer::Pkcs1(der) => Some(der.secret_pkcs1_der().to_vec()),
        PrivateKeyDer::Pkcs8(der) => inner(der.secret_pkcs8_der()),
        _ => None,
    };
    let rsa = private.and_then(|der| Some((RsaKeyPair::from_der(&der).ok()?, der)));
    let Some((pair, private)) = rsa else {
        return Err("it is neither RSA nor ECDSA on P-256 or P-384".into());
    };
    if pair.public_modulus_len() < RSA_MIN_BYTES {
        return Err(format!("RSA of {} bits; 2048 are needed", pair.public_modulus_len() * 8));
    }
    let public = pair.public_key();
    let spki: PublicKeyX509Der<'_> = public.as_der().map_err(|_| "its public part cannot be written")?;
    let (public, spki) = (public.as_ref().to_vec(), spki.as_ref().to_vec());
    Ok(TokenKey { algorithm: TokenAlgorithm::Rs256, private, public, spki })
}

fn ec(key: &PrivateKeyDer<'_>, algorithm: TokenAlgorithm, curve: &'static EcdsaSigningAlgorithm) -> Option<TokenKey> {
    let pair = EcdsaKeyPair::from_private_key_der(curve, key.secret_der()).ok()?;
    let private = pair.to_pkcs8v1().ok()?.as_ref().to_vec();
    let spki: PublicKeyX509Der<'_> = pair.public_key().as_der().ok()?;
    Some(TokenKey { algorithm, private, public: pair.public_key().as_ref().to_vec(), spki: spki.as_ref().to_vec() })
}

/// The key that a PKCS #8 wrapping holds.
fn inner(pkcs8: &[u8]) -> Option<Vec<u8>> {
    let (_, wrapping) = parse_der(pkcs8).ok()?;
    Some(wrapping.as_sequence().ok()?.get(2)?.as_slice().ok()?.to_vec())
}
