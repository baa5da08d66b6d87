//! The ciphers of encryption at rest. Pure but for the random numbers.
//!
//! A sealed value is `k8s:enc:<provider>:v1:<key name>:` and what the cipher makes, byte for byte as upstream has it, so
//! that a store of upstream's can be read, and the other way round.
//!
//! Rules: upstream `apiserver/pkg/storage/value/encrypt`.

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{
    self, DecryptionContext, EncryptionContext, PaddedBlockDecryptingKey, PaddedBlockEncryptingKey, UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use bytes::Bytes;
use crypto_secretbox::XSalsa20Poly1305;
use crypto_secretbox::aead::{Aead, KeyInit};
use rand::RngCore;

/// What every sealed value begins with.
pub const SEALED: &[u8] = b"k8s:enc:";

/// Bytes of AES-CBC's first block.
const IV_BYTES: usize = 16;
/// Bytes of XSalsa20's nonce.
const XSALSA_NONCE_BYTES: usize = 24;

/// A kind of cipher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// AES-GCM with a random nonce; the key of the record is authenticated with it.
    AesGcm,
    /// AES-CBC with PKCS#7 padding: not authenticated, for stores that have it.
    AesCbc,
    /// XSalsa20-Poly1305.
    SecretBox,
}

impl Provider {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::AesGcm, Self::AesCbc, Self::SecretBox];

    /// Its name in configurations and in what is stored.
    pub fn name(self) -> &'static str {
        match self {
            Self::AesGcm => "aesgcm",
            Self::AesCbc => "aescbc",
            Self::SecretBox => "secretbox",
        }
    }

    /// Bytes that a key may have.
    pub fn key_sizes(self) -> &'static [usize] {
        match self {
            Self::AesGcm | Self::AesCbc => &[16, 24, 32],
            Self::SecretBox => &[32],
        }
    }
}

enum Cipher {
    Gcm(Box<LessSafeKey>),
    Cbc(&'static cipher::Algorithm, Box<[u8]>),
    Box(Box<XSalsa20Poly1305>),
}

/// One key. It shows nothing of its secret.
pub struct Key {
    /// What it is for.
    pub provider: Provider,
    /// Its name.
    pub name: String,
    prefix: Vec<u8>,
    cipher: Cipher,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("provider", &self.provider).field("name", &self.name).finish_non_exhaustive()
    }
}

/// The cipher did not do it. Ciphers say no more, for good reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cipher failed")]
pub struct CipherError;

impl Key {
    /// A key of a secret; none when its length does not fit.
    pub fn new(provider: Provider, name: &str, secret: &[u8]) -> Option<Self> {
        let cipher = match (provider, secret.len()) {
            (Provider::AesGcm, size) => {
                let algorithm = match size {
                    16 => &aead::AES_128_GCM,
                    24 => &aead::AES_192_GCM,
                    32 => &aead::AES_256_GCM,
                    _ => return None,
                };
                Cipher::Gcm(Box::new(LessSafeKey::new(UnboundKey::new(algorithm, secret).ok()?)))
            }
            (Provider::AesCbc, size) => {
                let algorithm = match size {
                    16 => &cipher::AES_128,
                    24 => &cipher::AES_192,
                    32 => &cipher::AES_256,
                    _ => return None,
                };
                Cipher::Cbc(algorithm, secret.into())
            }
            (Provider::SecretBox, 32) => Cipher::Box(Box::new(XSalsa20Poly1305::new_from_slice(secret).ok()?)),
            (Provider::SecretBox, _) => return None,
        };
        let prefix = format!("k8s:enc:{}:v1:{name}:", provider.name()).into_bytes();
        Some(Self { provider, name: name.to_owned(), prefix, cipher })
    }

    /// True for a value that this key's name stands on.
    pub fn is_of(&self, value: &[u8]) -> bool {
        value.starts_with(&self.prefix)
    }

    /// The sealed form of a value that is stored under `place`.
    ///
    /// # Errors
    /// Never, as far as the ciphers say; there is no random number.
    pub fn seal(&self, place: &[u8], plain: &[u8]) -> Result<Bytes, CipherError> {
        let mut out = Vec::with_capacity(self.prefix.len() + plain.len() + 48);
        out.extend_from_slice(&self.prefix);
        match &self.cipher {
            Cipher::Gcm(key) => gcm_seal(key, place, plain, &mut out)?,
            Cipher::Cbc(algorithm, secret) => {
                let iv = random::<IV_BYTES>();
                out.extend_from_slice(&iv);
                let key = UnboundCipherKey::new(algorithm, secret).map_err(|_| CipherError)?;
                let key = PaddedBlockEncryptingKey::cbc_pkcs7(key).map_err(|_| CipherError)?;
                let mut body = plain.to_vec();
                let context = EncryptionContext::Iv128(FixedLength::from(iv));
                key.less_safe_encrypt(&mut body, context).map_err(|_| CipherError)?;
                out.extend_from_slice(&body);
            }
            Cipher::Box(key) => {
                let nonce = random::<XSALSA_NONCE_BYTES>();
                out.extend_from_slice(&nonce);
                out.extend(key.encrypt(&nonce.into(), plain).map_err(|_| CipherError)?);
            }
        }
        Ok(out.into())
    }

    /// What was sealed under `place`.
    ///
    /// # Errors
    /// Another key made it, it was stored elsewhere, or it is damaged.
    pub fn open(&self, place: &[u8], sealed: &[u8]) -> Result<Bytes, CipherError> {
        let body = sealed.strip_prefix(&*self.prefix).ok_or(CipherError)?;
        match &self.cipher {
            Cipher::Gcm(key) => gcm_open(key, place, body),
            Cipher::Cbc(algorithm, secret) => {
                let (iv, body) = body.split_first_chunk::<IV_BYTES>().ok_or(CipherError)?;
                let mut body = body.to_vec();
                let key = UnboundCipherKey::new(algorithm, secret).map_err(|_| CipherError)?;
                let key = PaddedBlockDecryptingKey::cbc_pkcs7(key).map_err(|_| CipherError)?;
                let context = DecryptionContext::Iv128(FixedLength::from(*iv));
                let plain = key.decrypt(&mut body, context).map_err(|_| CipherError)?.len();
                body.truncate(plain);
                Ok(body.into())
            }
            Cipher::Box(key) => {
                let (nonce, body) = body.split_first_chunk::<XSALSA_NONCE_BYTES>().ok_or(CipherError)?;
                Ok(key.decrypt(&(*nonce).into(), body).map_err(|_| CipherError)?.into())
            }
        }
    }
}

/// Appends a random nonce and the sealed form of a value that is stored under `place`.
pub(super) fn gcm_seal(key: &LessSafeKey, place: &[u8], plain: &[u8], out: &mut Vec<u8>) -> Result<(), CipherError> {
    let nonce = random::<{ aead::NONCE_LEN }>();
    let start = out.len() + nonce.len();
    out.extend_from_slice(&nonce);
    out.extend_from_slice(plain);
    let nonce = Nonce::assume_unique_for_key(nonce);
    let tag = key.seal_in_place_separate_tag(nonce, Aad::from(place), &mut out[start..]);
    out.extend_from_slice(tag.map_err(|_| CipherError)?.as_ref());
    Ok(())
}

/// The reverse.
pub(super) fn gcm_open(key: &LessSafeKey, place: &[u8], body: &[u8]) -> Result<Bytes, CipherError> {
    let (nonce, body) = body.split_first_chunk::<{ aead::NONCE_LEN }>().ok_or(CipherError)?;
    let mut body = body.to_vec();
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let plain = key.open_in_place(nonce, Aad::from(place), &mut body).map_err(|_| CipherError)?.len();
    body.truncate(plain);
    Ok(body.into())
}

/// Random bytes.
pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::rng().fill_bytes(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use test_case::test_case;

    use super::*;

    #[test_case(Provider::AesGcm, 16)]
    #[test_case(Provider::AesGcm, 24)]
    #[test_case(Provider::AesGcm, 32)]
    #[test_case(Provider::AesCbc, 16)]
    #[test_case(Provider::AesCbc, 24)]
    #[test_case(Provider::AesCbc, 32)]
    #[test_case(Provider::SecretBox, 32)]
    fn what_is_sealed_opens_and_nothing_shows(provider: Provider, size: usize) {
        let key = Key::new(provider, "k", &vec![7; size]).unwrap();
        for plain in [&b""[..], b"hunter2 hunter2 hunter2", &[0; 70_000]] {
            let sealed = key.seal(b"/a", plain).unwrap();
            assert!(sealed.starts_with(format!("k8s:enc:{}:v1:k:", provider.name()).as_bytes()) && key.is_of(&sealed));
            assert!(plain.is_empty() || !sealed.windows(plain.len()).any(|w| w == plain));
            assert_ne!(sealed, key.seal(b"/a", plain).unwrap(), "no nonce twice");
            assert_eq!(key.open(b"/a", &sealed).unwrap(), plain);
        }
        assert!(Key::new(provider, "k", &[7; 31]).is_none());
    }

    #[test_case(Provider::AesGcm, true)]
    #[test_case(Provider::SecretBox, false)]
    fn what_was_touched_or_moved_does_not_open(provider: Provider, bound_to_place: bool) {
        let key = Key::new(provider, "k", &[7; 32]).unwrap();
        let sealed = key.seal(b"/a", b"text").unwrap();
        assert_eq!(key.open(b"/b", &sealed).is_err(), bound_to_place);
        let other = Key::new(provider, "k", &[8; 32]).unwrap();
        assert_eq!(other.open(b"/a", &sealed), Err(CipherError));
        for at in key.prefix.len()..sealed.len() {
            let mut torn = sealed.to_vec();
            torn[at] ^= 1;
            assert_eq!(key.open(b"/a", &torn), Err(CipherError));
            assert_eq!(key.open(b"/a", &sealed[..at]), Err(CipherError));
        }
    }

    /// What NaCl makes of a known key, nonce and text: the form is that of others, not only our own.
    #[test]
    fn the_forms_are_those_of_others() {
        // SP 800-38A, F.2.5: CBC-AES256, first block; with PKCS#7 a second block follows.
        let hex = |t: &str| -> Vec<u8> {
            (0..t.len() / 2).map(|i| u8::from_str_radix(&t[2 * i..2 * i + 2], 16).unwrap()).collect()
        };
        let secret = hex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4");
        let key = Key::new(Provider::AesCbc, "k", &secret).unwrap();
        let plain = hex("6bc1bee22e409f96e93d7e117393172a");
        let sealed = key.seal(b"", &plain).unwrap();
        assert_eq!(sealed.len(), key.prefix.len() + IV_BYTES + 32);
        // NaCl's own example of crypto_secretbox (tests/secretbox.c): key, nonce, the first bytes of text and box.
        let secret = hex("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389");
        let nonce = hex("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37");
        let text = hex(concat!(
            "be075fc53c81f2d5cf141316ebeb0c7b5228c52a4c62cbd44b66849b64244ffc",
            "e5ecbaaf33bd751a1ac728d45e6c61296cdc3c01233561f41db66cce314adb31",
            "0e3be8250c46f06dceea3a7fa1348057e2f6556ad6b1318a024a838f21af1fde",
            "048977eb48f59ffd4924ca1c60902e52f0a089bc76897040e082f93776384864",
            "5e0705"
        ));
        let boxed = hex(concat!(
            "f3ffc7703f9400e52a7dfb4b3d3305d98e993b9f48681273c29650ba32fc76ce",
            "48332ea7164d96a4476fb8c531a1186ac0dfc17c98dce87b4da7f011ec48c972",
            "71d2c20f9b928fe2270d6fb863d51738b48eeee314a7cc8ab932164548e526ae",
            "90224368517acfeabd6bb3732bc0e9da99832b61ca01b6de56244a9e88d5f9b3",
            "7973f622a43d14a6599b1f654cb45a74e355a5"
        ));
        let key = Key::new(Provider::SecretBox, "k", &secret).unwrap();
        let sealed = [&key.prefix[..], &nonce, &boxed].concat();
        assert_eq!(key.open(b"", &sealed).unwrap(), text);
        // GCM test case 14 (256-bit key of zeros, one block of zeros) of the submission to NIST.
        let key = Key::new(Provider::AesGcm, "k", &[0; 32]).unwrap();
        let sealed =
            [&key.prefix[..], &[0; 12], &hex("cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919")]
                .concat();
        assert_eq!(key.open(b"", &sealed).unwrap(), &[0; 16][..]);
    }
}
