//! What a value that was sealed with a plugin's help is made of, and the cipher over it. Pure but for random numbers.
//!
//! ```text
//! k8s:enc:kms:v2:<plugin>: EncryptedObject { key_id, encrypted_dek_source, annotations, encrypted_data }
//! encrypted_data = info (32 random bytes) ‖ nonce ‖ AES-256-GCM(HKDF-Expand(seed, info), value)
//! ```
//!
//! The plugin sees the seed, never a value. Byte for byte as upstream has it.
//!
//! Rules: upstream `apiserver/pkg/storage/value/encrypt/envelope/kmsv2` and `encrypt/aes/aes_extended_nonce.go`.

use aws_lc_rs::aead::{AES_128_GCM, AES_192_GCM, AES_256_GCM, LessSafeKey, UnboundKey};
use aws_lc_rs::digest;
use aws_lc_rs::hkdf::{HKDF_SHA256, Prk};
use bytes::Bytes;

use super::proto::{EncryptResponse, EncryptedDekSourceType as Source, EncryptedObject};
use crate::api::meta::names::dns1123_subdomain;
use crate::store::sealed::cipher::{CipherError, gcm_open, gcm_seal, random};

/// Bytes of a seed, and of the random part that makes a key of it for one value.
pub const SEED_BYTES: usize = 32;
const INFO_BYTES: usize = 32;
/// Bytes of a sealed seed, and of a key's id.
const SOURCE_MAX: usize = 1024;
const KEY_ID_MAX: usize = 1024;
/// Bytes of all annotations, names included.
const ANNOTATIONS_MAX: usize = 32 * 1024;

/// What opens the values of one source. It shows nothing of its secret.
pub enum Dek {
    /// Each value has a key of its own.
    Seed(Prk),
    /// All values have this key: read, never written.
    Key(LessSafeKey),
}

impl Dek {
    /// A new seed.
    pub fn generate() -> (Self, [u8; SEED_BYTES]) {
        let seed = random::<SEED_BYTES>();
        (Self::Seed(Prk::new_less_safe(HKDF_SHA256, &seed)), seed)
    }

    /// Of what a plugin opened.
    ///
    /// # Errors
    /// The secret's length fits no cipher.
    pub fn new(source: Source, secret: &[u8]) -> Result<Self, CipherError> {
        match (source, secret.len()) {
            (Source::HkdfSha256XnonceAesGcmSeed, SEED_BYTES..) => {
                Ok(Self::Seed(Prk::new_less_safe(HKDF_SHA256, secret)))
            }
            (Source::AesGcmKey, size) => {
                let algorithm = match size {
                    16 => &AES_128_GCM,
                    24 => &AES_192_GCM,
                    32 => &AES_256_GCM,
                    _ => return Err(CipherError),
                };
                let key = UnboundKey::new(algorithm, secret).map_err(|_| CipherError)?;
                Ok(Self::Key(LessSafeKey::new(key)))
            }
            _ => Err(CipherError),
        }
    }

    /// The encrypted data of a value that is stored under `place`.
    ///
    /// # Errors
    /// This is no seed; ciphers of seeds do not fail.
    pub fn seal(&self, place: &[u8], plain: &[u8]) -> Result<Vec<u8>, CipherError> {
        let Self::Seed(seed) = self else { return Err(CipherError) };
        let info = random::<INFO_BYTES>();
        let mut out = Vec::with_capacity(INFO_BYTES + plain.len() + 28);
        out.extend_from_slice(&info);
        gcm_seal(&derived(seed, &info)?, place, plain, &mut out)?;
        Ok(out)
    }

    /// The reverse.
    ///
    /// # Errors
    /// Another source made it, it was stored elsewhere, or it is damaged.
    pub fn open(&self, place: &[u8], data: &[u8]) -> Result<Bytes, CipherError> {
        match self {
            Self::Key(key) => gcm_open(key, place, data),
            Self::Seed(seed) => {
                let (info, body) = data.split_first_chunk::<INFO_BYTES>().ok_or(CipherError)?;
                gcm_open(&derived(seed, info)?, place, body)
            }
        }
    }
}

/// The key that a seed gives to one value.
fn derived(seed: &Prk, info: &[u8; INFO_BYTES]) -> Result<LessSafeKey, CipherError> {
    let info = [&info[..]];
    let key = seed.expand(&info, &AES_256_GCM).map_err(|_| CipherError)?;
    Ok(LessSafeKey::new(UnboundKey::from(key)))
}

/// A source as it stands in a value: what a plugin made of a seed.
pub fn of_answer(answer: EncryptResponse) -> EncryptedObject {
    EncryptedObject {
        encrypted_data: Vec::new(),
        key_id: answer.key_id,
        encrypted_dek_source: answer.ciphertext,
        annotations: answer.annotations,
        encrypted_dek_source_type: Source::HkdfSha256XnonceAesGcmSeed.into(),
    }
}

/// What is wrong with a source, as a plugin made it or as it is stored; none when it may be used.
pub fn wrong(source: &EncryptedObject) -> Option<String> {
    if Source::try_from(source.encrypted_dek_source_type).is_err() {
        return Some(format!("its source has the unknown type {}", source.encrypted_dek_source_type));
    }
    match source.encrypted_dek_source.len() {
        0 => return Some("the encrypted seed is empty".into()),
        n if n > SOURCE_MAX => return Some(format!("the encrypted seed has {n} bytes, more than {SOURCE_MAX}")),
        _ => {}
    }
    if let Some(why) = wrong_key_id(&source.key_id) {
        return Some(why);
    }
    if let Some(name) = source.annotations.keys().find(|name| !is_qualified(name)) {
        return Some(format!("the annotation {name:?} is no fully qualified domain name"));
    }
    let size: usize = source.annotations.iter().map(|(name, value)| name.len() + value.len()).sum();
    (size > ANNOTATIONS_MAX).then(|| format!("the annotations have {size} bytes, more than {ANNOTATIONS_MAX}"))
}

/// What is wrong with the id of a key.
pub fn wrong_key_id(id: &str) -> Option<String> {
    match id.len() {
        0 => Some("the key's id is empty".into()),
        n if n > KEY_ID_MAX => Some(format!("the key's id has {n} bytes, more than {KEY_ID_MAX}")),
        _ => None,
    }
}

fn is_qualified(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name.contains('.') && dns1123_subdomain(name).is_empty()
}

/// A key's id as it may be told: ids may be secrets, their hashes are not.
pub fn hashed(key_id: &str) -> String {
    let digest = digest::digest(&digest::SHA256, key_id.as_bytes());
    let hex: String = digest.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

/// What tells one source from another.
pub fn fingerprint(source: &EncryptedObject) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    let mut part = |bytes: &[u8]| {
        context.update(&(bytes.len() as u64).to_be_bytes());
        context.update(bytes);
    };
    part(&source.encrypted_dek_source_type.to_be_bytes());
    part(&source.encrypted_dek_source);
    part(source.key_id.as_bytes());
    source.annotations.iter().for_each(|(name, value)| {
        part(name.as_bytes());
        part(value);
    });
    let digest = context.finish();
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use test_case::test_case;

    use super::*;

    fn source() -> EncryptedObject {
        let annotations = [("version.example.com".to_owned(), vec![1])].into();
        of_answer(EncryptResponse { ciphertext: vec![9; 60], key_id: "1".into(), annotations })
    }

    #[test]
    fn what_a_seed_sealed_opens_with_it_and_nothing_else() {
        let (dek, seed) = Dek::generate();
        for plain in [&b""[..], b"hunter2 hunter2 hunter2", &[0; 70_000]] {
            let data = dek.seal(b"/a", plain).unwrap();
            assert!(plain.is_empty() || !data.windows(plain.len()).any(|w| w == plain));
            assert_ne!(data, dek.seal(b"/a", plain).unwrap(), "no key twice");
            let again = Dek::new(Source::HkdfSha256XnonceAesGcmSeed, &seed).unwrap();
            assert_eq!(again.open(b"/a", &data).unwrap(), plain);
            assert!(again.open(b"/b", &data).is_err(), "moved");
            assert!(Dek::generate().0.open(b"/a", &data).is_err(), "another seed");
            let mut torn = data.clone();
            *torn.last_mut().unwrap() ^= 1;
            assert!(again.open(b"/a", &torn).is_err() && again.open(b"/a", &data[..40]).is_err());
        }
    }

    /// HKDF-Expand of RFC 5869 (appendix A.1: PRK, info, the first 32 bytes of OKM) gives the key of a value.
    #[test]
    fn keys_are_derived_as_the_rfc_says() {
        let hex = |t: &str| -> Vec<u8> {
            (0..t.len() / 2).map(|i| u8::from_str_radix(&t[2 * i..2 * i + 2], 16).unwrap()).collect()
        };
        let prk = hex("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5");
        let okm = hex("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf");
        let prk = Prk::new_less_safe(HKDF_SHA256, &prk);
        let info = hex("f0f1f2f3f4f5f6f7f8f9");
        let info = [&info[..]];
        let key = prk.expand(&info, &AES_256_GCM).unwrap();
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        gcm_seal(&LessSafeKey::new(UnboundKey::from(key)), b"", b"text", &mut ours).unwrap();
        let known = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &okm).unwrap());
        assert_eq!(gcm_open(&known, b"", &ours).unwrap(), &b"text"[..]);
        gcm_seal(&known, b"", b"text", &mut theirs).unwrap();
        assert_eq!(ours.len(), theirs.len());
    }

    #[test]
    fn a_key_of_older_servers_reads_and_does_not_write() {
        let secret = [7; 32];
        let mut data = Vec::new();
        gcm_seal(&LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &secret).unwrap()), b"/a", b"text", &mut data)
            .unwrap();
        let dek = Dek::new(Source::AesGcmKey, &secret).unwrap();
        assert_eq!(dek.open(b"/a", &data).unwrap(), &b"text"[..]);
        assert!(dek.seal(b"/a", b"text").is_err() && Dek::new(Source::AesGcmKey, &[7; 31]).is_err());
        assert!(Dek::new(Source::HkdfSha256XnonceAesGcmSeed, &[7; 31]).is_err());
    }

    #[test_case(|_| {}, None)]
    #[test_case(|s| s.encrypted_dek_source_type = 7, Some("unknown type 7"))]
    #[test_case(|s| s.encrypted_dek_source.clear(), Some("seed is empty"))]
    #[test_case(|s| s.encrypted_dek_source = vec![0; 1025], Some("1025 bytes"))]
    #[test_case(|s| s.key_id.clear(), Some("id is empty"))]
    #[test_case(|s| s.key_id = "k".repeat(1025), Some("1025 bytes"))]
    #[test_case(|s| drop(s.annotations.insert("plain".into(), vec![])), Some("\"plain\""))]
    #[test_case(|s| drop(s.annotations.insert("a.b".into(), vec![0; 32 * 1024])), Some("annotations have"))]
    fn sources_are_looked_at(change: fn(&mut EncryptedObject), want: Option<&str>) {
        let mut source = source();
        change(&mut source);
        match (wrong(&source), want) {
            (None, None) => {}
            (Some(why), Some(want)) if why.contains(want) => {}
            (other, _) => panic!("{other:?}, not {want:?}"),
        }
    }

    #[test]
    fn sources_that_differ_are_told_apart() {
        let base = fingerprint(&source());
        let changes: [fn(&mut EncryptedObject); 4] = [
            |s| s.key_id = "2".into(),
            |s| s.encrypted_dek_source[0] = 0,
            |s| s.encrypted_dek_source_type = 0,
            |s| s.annotations.clear(),
        ];
        for change in changes {
            let mut other = source();
            change(&mut other);
            assert_ne!(fingerprint(&other), base);
        }
        let mut same = source();
        same.encrypted_data = vec![1];
        assert_eq!(fingerprint(&same), base, "what is sealed is no part of its source");
    }
}
