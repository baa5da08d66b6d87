//! Signed tokens, and the public keys that tell whether a signature is right. Pure.
//!
//! In: compact tokens and the members of a key set. Out: what a token says, once one of the keys has signed it.
//!
//! **Invariant:** algorithms are those of the table, all with a public key. A key verifies with the algorithm of the token's
//! head only where it is of its kind, on its curve, and does not say that it is for another.
//!
//! Rules: RFC 7515 and 7518; the algorithms are upstream's `AllowedSigningAlgorithms`.

use aws_lc_rs::signature::{self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::api::value::ValueExt;

/// Longest token that is looked at, bytes.
const TOKEN_MAX_BYTES: usize = 64 << 10;

/// An algorithm by its name in heads, and how it verifies.
pub struct Algorithm {
    /// As in `alg`.
    pub name: &'static str,
    verify: Verify,
}

enum Verify {
    Rsa(&'static RsaParameters),
    /// Curve, bytes of a coordinate.
    Ec(&'static str, usize, &'static dyn VerificationAlgorithm),
}

/// All that are taken.
static ALGORITHMS: [Algorithm; 9] = [
    Algorithm { name: "RS256", verify: Verify::Rsa(&signature::RSA_PKCS1_2048_8192_SHA256) },
    Algorithm { name: "RS384", verify: Verify::Rsa(&signature::RSA_PKCS1_2048_8192_SHA384) },
    Algorithm { name: "RS512", verify: Verify::Rsa(&signature::RSA_PKCS1_2048_8192_SHA512) },
    Algorithm { name: "PS256", verify: Verify::Rsa(&signature::RSA_PSS_2048_8192_SHA256) },
    Algorithm { name: "PS384", verify: Verify::Rsa(&signature::RSA_PSS_2048_8192_SHA384) },
    Algorithm { name: "PS512", verify: Verify::Rsa(&signature::RSA_PSS_2048_8192_SHA512) },
    Algorithm { name: "ES256", verify: Verify::Ec("P-256", 32, &signature::ECDSA_P256_SHA256_FIXED) },
    Algorithm { name: "ES384", verify: Verify::Ec("P-384", 48, &signature::ECDSA_P384_SHA384_FIXED) },
    Algorithm { name: "ES512", verify: Verify::Ec("P-521", 66, &signature::ECDSA_P521_SHA512_FIXED) },
];

/// A token, taken apart and not verified.
pub struct Token<'a> {
    /// The algorithm that its head names.
    pub algorithm: &'static Algorithm,
    /// The key that its head names.
    pub kid: Option<String>,
    signed: &'a str,
    signature: Vec<u8>,
    claims: Value,
}

/// What a token says of its issuer, unverified: only to find out whose keys have to be asked for. None when it is no token.
pub fn claimed_issuer(token: &str) -> Option<String> {
    let [_, payload, _] = parts(token)?;
    decoded(payload)?.str_at("/iss").map(str::to_owned)
}

fn parts(token: &str) -> Option<[&str; 3]> {
    let mut parts = token.split('.');
    let found = [parts.next()?, parts.next()?, parts.next()?];
    (token.len() <= TOKEN_MAX_BYTES && parts.next().is_none()).then_some(found)
}

fn decoded(part: &str) -> Option<Value> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

impl<'a> Token<'a> {
    /// Takes a compact token apart.
    ///
    /// # Errors
    /// Why it is none, or none of those that are taken.
    pub fn parse(token: &'a str) -> Result<Self, String> {
        let malformed = || "malformed jwt".to_owned();
        let [head, payload, signature] = parts(token).ok_or_else(malformed)?;
        let signed = &token[..head.len() + 1 + payload.len()];
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| malformed())?;
        let (head, claims) = decoded(head).zip(decoded(payload)).ok_or_else(malformed)?;
        let name = head.str_at("/alg").unwrap_or_default();
        let algorithm = ALGORITHMS.iter().find(|a| a.name == name);
        let algorithm = algorithm.ok_or_else(|| format!("signed with {name:?}, which is not taken"))?;
        // Extensions that the signer insists on; none is known here.
        if head.get("crit").is_some() {
            return Err("its head has extensions that are not known (crit)".into());
        }
        let kid = head.str_at("/kid").map(str::to_owned);
        Ok(Self { algorithm, kid, signed, signature, claims })
    }

    /// What it says, when one of the keys has signed it.
    pub fn signed_by(self, keys: &[Key]) -> Option<Value> {
        keys.iter().any(|key| self.is_signed_by(key)).then_some(self.claims)
    }

    fn is_signed_by(&self, key: &Key) -> bool {
        let (text, signature) = (self.signed.as_bytes(), &self.signature);
        match (&self.algorithm.verify, &key.material) {
            (Verify::Rsa(parameters), Material::Rsa { n, e }) => {
                RsaPublicKeyComponents { n, e }.verify(parameters, text, signature).is_ok()
            }
            (Verify::Ec(curve, _, algorithm), Material::Ec { curve: of, point }) if curve == of => {
                UnparsedPublicKey::new(*algorithm, point).verify(text, signature).is_ok()
            }
            _ => false,
        }
    }
}

/// A public key of a key set.
#[derive(Debug, Clone)]
pub struct Key {
    kid: Option<String>,
    /// The only algorithm that it is for.
    algorithm: Option<String>,
    material: Material,
}

#[derive(Debug, Clone)]
enum Material {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    Ec { curve: String, point: Vec<u8> },
}

impl Key {
    /// A member of a key set; none when it is for something else than signatures, or of an unknown kind.
    pub fn of(jwk: &Value) -> Option<Self> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?).ok();
        if text("use").is_some_and(|u| u != "sig") {
            return None;
        }
        let material = match text("kty")? {
            "RSA" => {
                // Leading zeros say nothing, and are not taken.
                let short = |n: Vec<u8>| n.into_iter().skip_while(|b| *b == 0).collect::<Vec<u8>>();
                Material::Rsa { n: short(bytes("n")?), e: short(bytes("e")?) }
            }
            "EC" => {
                let curve = text("crv")?;
                let size = ALGORITHMS.iter().find_map(|a| match a.verify {
                    Verify::Ec(of, size, _) if of == curve => Some(size),
                    _ => None,
                })?;
                let (x, y) = (bytes("x")?, bytes("y")?);
                if x.len() != size || y.len() != size {
                    return None;
                }
                // An uncompressed point of SEC 1.
                Material::Ec { curve: curve.to_owned(), point: [&[4][..], &x, &y].concat() }
            }
            _ => return None,
        };
        Some(Self { kid: text("kid").map(str::to_owned), algorithm: text("alg").map(str::to_owned), material })
    }

    /// True when it may have signed a token with this head. A key that says what it is for is for nothing else.
    pub fn fits(&self, kid: Option<&str>, algorithm: &Algorithm) -> bool {
        self.algorithm.as_ref().is_none_or(|a| a == algorithm.name)
            && kid.is_none_or(|kid| self.kid.as_deref() == Some(kid))
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
    use serde_json::json;
    use test_case::test_case;

    use super::*;

    fn algorithm(name: &str) -> &'static Algorithm {
        ALGORITHMS.iter().find(|a| a.name == name).unwrap()
    }

    #[test_case(Some("a"), "RS256", 1)]
    #[test_case(Some("a"), "ES256", 0; "of another algorithm")]
    #[test_case(Some("b"), "RS384", 1; "a key that does not say its algorithm")]
    #[test_case(Some("c"), "RS256", 0; "a key for encryption")]
    #[test_case(Some("d"), "RS256", 0; "unknown")]
    #[test_case(None, "RS256", 2; "all that fit a token without an id")]
    fn keys_fit(kid: Option<&str>, name: &str, want: usize) {
        let key = |more: Value| {
            let mut key = json!({"kty": "RSA", "n": "AQAB", "e": "AQAB"});
            key.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            Key::of(&key)
        };
        let keys = [
            key(json!({"kid": "a", "alg": "RS256", "use": "sig"})),
            key(json!({"kid": "b"})),
            key(json!({"kid": "c", "use": "enc"})),
        ];
        assert_eq!(keys.iter().flatten().filter(|k| k.fits(kid, algorithm(name))).count(), want);
    }

    #[test_case(json!({"kty": "EC", "crv": "P-256", "x": "AQAB", "y": "AQAB"}); "coordinates that are too short")]
    #[test_case(json!({"kty": "EC", "crv": "P-257", "x": "AQAB", "y": "AQAB"}); "a curve that nobody knows")]
    #[test_case(json!({"kty": "oct", "k": "AQAB"}); "a shared secret")]
    #[test_case(json!({"kty": "RSA", "n": "!", "e": "AQAB"}); "no base64")]
    #[test_case(json!({"kty": "RSA", "e": "AQAB"}); "half a key")]
    #[test_case(json!(7); "no map")]
    fn what_is_no_key(jwk: Value) {
        assert!(Key::of(&jwk).is_none());
    }

    /// A key on P-521, and what it signs.
    fn signed(head: &Value, claims: &Value) -> (Key, String) {
        let pair = EcdsaKeyPair::generate(&ECDSA_P521_SHA512_FIXED_SIGNING).unwrap();
        let point: Vec<u8> = pair.public_key().as_ref().to_vec();
        let (x, y) = point[1..].split_at(66);
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let jwk = json!({"kty": "EC", "crv": "P-521", "x": encode(x), "y": encode(y)});
        let text = format!("{}.{}", encode(head.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
        let signature = pair.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
        (Key::of(&jwk).unwrap(), format!("{text}.{}", encode(signature.as_ref())))
    }

    #[test]
    fn p_521_signs() {
        let claims = json!({"sub": "jane"});
        let (key, token) = signed(&json!({"alg": "ES512"}), &claims);
        let (other, _) = signed(&json!({"alg": "ES512"}), &claims);
        let by = |keys: &[Key]| Token::parse(&token).unwrap().signed_by(keys);
        assert_eq!(by(&[other.clone(), key.clone()]), Some(claims));
        assert_eq!(by(&[other]), None);
        let parts: Vec<&str> = token.split('.').collect();
        let changed = format!("{}.{}.{}", parts[0], URL_SAFE_NO_PAD.encode(r#"{"sub":"joe"}"#), parts[2]);
        assert_eq!(Token::parse(&changed).unwrap().signed_by(&[key]), None);
    }

    #[test_case(json!({"alg": "none"}), "which is not taken")]
    #[test_case(json!({"alg": "HS256"}), "which is not taken"; "a shared secret")]
    #[test_case(json!({}), "which is not taken"; "no algorithm")]
    #[test_case(json!({"alg": "ES512", "crit": ["exp"]}), "crit")]
    fn heads_that_are_refused(head: Value, why: &str) {
        let (_, token) = signed(&head, &json!({}));
        let told = Token::parse(&token).err().unwrap();
        assert!(told.contains(why), "{told}");
    }

    #[test_case("a.b"; "two parts")]
    #[test_case("e30.e30.e30.e30"; "four parts")]
    #[test_case("e30.e30.!"; "no base64")]
    #[test_case("AQAB.e30.e30"; "a head that is no JSON")]
    fn what_is_no_token(token: &str) {
        assert!(Token::parse(token).is_err());
    }
}
