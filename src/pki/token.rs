//! Join tokens: `K10<sha256 of the server CA>::<id>:<secret>`, k3s's form. The hash lets an agent trust the CA it is
//! given before it sends the secret.
//!
//! **Invariant:** what the server compares with is a salted hash; the only plain copy is the operator's file, mode 0600.

use std::path::Path;

use aws_lc_rs::{constant_time, digest};
use rand::RngCore;

use super::{PkiError, hex, read, write_secret};

const PREFIX: &str = "K10";
/// The id of the token that is made on first start.
pub const DEFAULT_ID: &str = "server";
/// Bytes of a generated secret.
const SECRET_BYTES: usize = 16;
/// Bytes of a hash's salt.
const SALT_BYTES: usize = 16;
/// Characters of an id or a secret, at most.
const MAX_PART_CHARS: usize = 256;

/// Why a text is no join token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not of the form.
    #[error("the join token is not of the form K10<hash>::<id>:<secret>; copy the whole of the server's token file")]
    Malformed,
    /// The server shows another CA than the token names.
    #[error("the server's CA has the hash {actual}, the join token wants {wanted}: not the cluster the token is for")]
    OtherCa {
        /// Of the token.
        wanted: String,
        /// Of the server.
        actual: String,
    },
}

/// A join token in parts.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// SHA-256 of the server CA (DER), hexadecimal; empty for a token that is only a secret.
    pub ca_hash: String,
    /// Names the token.
    pub id: String,
    /// Proves the right to join.
    pub secret: String,
}

impl std::fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinToken").field("ca_hash", &self.ca_hash).field("id", &self.id).finish_non_exhaustive()
    }
}

impl std::fmt::Display for JoinToken {
    /// The whole token, secret included: for the operator's file, never for a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{PREFIX}{}::{}:{}", self.ca_hash, self.id, self.secret)
    }
}

impl JoinToken {
    /// Refuses a CA that is not the one the token was made for.
    pub fn check_ca(&self, actual: &str) -> Result<(), TokenError> {
        if self.ca_hash == actual {
            return Ok(());
        }
        Err(TokenError::OtherCa { wanted: self.ca_hash.clone(), actual: actual.to_owned() })
    }
}

fn random<const N: usize>() -> String {
    let mut bytes = [0; N];
    rand::rng().fill_bytes(&mut bytes);
    hex(&bytes)
}

/// A fresh token for the CA with this hash.
pub fn generate(ca_hash: &str, id: &str) -> JoinToken {
    JoinToken { ca_hash: ca_hash.to_owned(), id: id.to_owned(), secret: random::<SECRET_BYTES>() }
}

/// Parses a whole token.
pub fn parse(text: &str) -> Result<JoinToken, TokenError> {
    let (ca_hash, rest) =
        text.trim().strip_prefix(PREFIX).and_then(|t| t.split_once("::")).ok_or(TokenError::Malformed)?;
    let (id, secret) = rest.split_once(':').ok_or(TokenError::Malformed)?;
    let hash_ok = ca_hash.len() == 64 && ca_hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if !hash_ok || !is_part(id) || !is_part(secret) {
        return Err(TokenError::Malformed);
    }
    Ok(JoinToken { ca_hash: ca_hash.into(), id: id.into(), secret: secret.into() })
}

fn is_part(text: &str) -> bool {
    (1..=MAX_PART_CHARS).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() && b != b':')
}

/// The hash under which a secret is stored: `sha256$<salt>$<digest>`, hexadecimal.
pub fn hash(secret: &str) -> String {
    let salt = random::<SALT_BYTES>();
    let sum = digest_of(&salt, secret);
    format!("sha256${salt}${sum}")
}

fn digest_of(salt: &str, secret: &str) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(salt.as_bytes());
    context.update(b"$");
    context.update(secret.as_bytes());
    hex(context.finish().as_ref())
}

/// True when `secret` is the one behind `stored`, in time that does not depend on where they differ.
pub fn verify(secret: &str, stored: &str) -> bool {
    let mut parts = stored.split('$');
    let (Some("sha256"), Some(salt), Some(sum), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    constant_time::verify_slices_are_equal(digest_of(salt, secret).as_bytes(), sum.as_bytes()).is_ok()
}

/// Opens the operator's token file (`<data-dir>/server/token`), or makes it: with `given` (`--token`: a whole token or
/// only a secret), else with a fresh secret. A given token replaces what the file held.
pub fn open(path: &Path, ca_hash: &str, given: Option<&str>) -> Result<JoinToken, PkiError> {
    if let Some(given) = given {
        let token = match given.starts_with(PREFIX) {
            true => parse(given)?,
            false if is_part(given) => {
                JoinToken { ca_hash: ca_hash.into(), id: DEFAULT_ID.into(), secret: given.into() }
            }
            false => return Err(TokenError::Malformed.into()),
        };
        token.check_ca(ca_hash)?;
        store_if_changed(path, &token)?;
        return Ok(token);
    }
    let Some(text) = read(path)? else {
        let token = generate(ca_hash, DEFAULT_ID);
        store_if_changed(path, &token)?;
        return Ok(token);
    };
    let token = parse(&text).map_err(|e| PkiError::Damaged { path: path.to_owned(), why: e.to_string() })?;
    token.check_ca(ca_hash)?;
    Ok(token)
}

/// The operator's token file, in `<data-dir>/server`.
pub const FILE: &str = "token";
/// Beside it the hash of a token that was written to the cluster: one that is not there any more was revoked.
const REGISTERED: &str = "token.registered";

/// True when this token was written to the cluster before.
pub fn is_registered(server_dir: &Path, secret: &str) -> bool {
    matches!(read(&server_dir.join(REGISTERED)), Ok(Some(hash)) if verify(secret, hash.trim()))
}

/// Remembers that the token with this [`hash`] was written to the cluster.
pub fn set_registered(server_dir: &Path, hash: &str) -> Result<(), PkiError> {
    write_secret(&server_dir.join(REGISTERED), hash)
}

/// Puts a rotated token where its predecessor stands, if that is here.
pub fn replace(server_dir: &Path, token: &JoinToken, hash: &str) -> Result<(), PkiError> {
    let path = server_dir.join(FILE);
    let known = read(&path)?.and_then(|text| parse(&text).ok());
    if known.is_some_and(|k| k.id == token.id && k.ca_hash == token.ca_hash) {
        set_registered(server_dir, hash)?;
        store_if_changed(&path, token)?;
    }
    Ok(())
}

fn store_if_changed(path: &Path, token: &JoinToken) -> Result<(), PkiError> {
    let text = format!("{token}\n");
    if read(path)?.as_deref() == Some(&text) {
        return Ok(());
    }
    write_secret(path, &text)
}
