//! The dependency policy: what may be linked into orch, by licence and by kind.

use std::process::Command;

/// Licences that a static binary under Apache-2.0 may contain without further conditions on its users.
const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "MIT",
    "MPL-2.0",
    "Unicode-3.0",
    "Zlib",
];

/// Two TLS providers in one process panic at the first handshake; aws-lc-rs is the one.
const BANNED: &[&str] =
    &["ring", "openssl", "openssl-sys", "native-tls", "boring", "boring-sys", "mbedtls", "rustls-rustcrypto"];

/// Whether an SPDX expression can be satisfied with the allowed licences. `/` is the older form of `OR`.
fn allowed(expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ").replace(" WITH ", "+WITH+");
    let words: Vec<String> = spaced.split_whitespace().map(|w| w.replace("+WITH+", " WITH ")).collect();
    let mut rest = words.as_slice();
    let satisfied = any(&mut rest);
    satisfied && rest.is_empty()
}

fn any(words: &mut &[String]) -> bool {
    let mut satisfied = all(words);
    while next_is(words, "OR") {
        satisfied |= all(words);
    }
    satisfied
}

fn all(words: &mut &[String]) -> bool {
    let mut satisfied = one(words);
    while next_is(words, "AND") {
        satisfied &= one(words);
    }
    satisfied
}

fn one(words: &mut &[String]) -> bool {
    if next_is(words, "(") {
        let satisfied = any(words);
        return next_is(words, ")") && satisfied;
    }
    match words.split_first() {
        Some((word, rest)) => {
            *words = rest;
            LICENCES.contains(&word.as_str())
        }
        None => false,
    }
}

fn next_is(words: &mut &[String], what: &str) -> bool {
    match words.split_first() {
        Some((word, rest)) if word == what => {
            *words = rest;
            true
        }
        _ => false,
    }
}

/// Name and licence of every package that is linked or that builds one which is.
fn packages() -> Vec<(String, String)> {
    let out = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "--edges", "normal,build", "--prefix", "none", "--format", "{p}\t{l}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(out.status.success(), "cargo tree: {}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout).unwrap();
    let line = |l: &str| {
        let (package, licence) = l.split_once('\t')?;
        let licence = licence.trim_end_matches(" (*)");
        Some((package.split(' ').next()?.to_owned(), licence.to_owned()))
    };
    text.lines().filter_map(line).collect()
}

#[test]
fn every_package_has_an_allowed_licence_and_none_is_a_second_tls_provider() {
    let packages = packages();
    assert!(packages.iter().any(|(name, _)| name == "aws-lc-rs") && packages.len() > 100, "the list is not complete");
    let mut breaches: Vec<String> = packages
        .iter()
        .filter_map(|(name, licence)| match (BANNED.contains(&name.as_str()), allowed(licence)) {
            (true, _) => Some(format!("{name} is a second TLS provider")),
            (false, false) => Some(format!("{name} has the licence {licence:?}")),
            (false, true) => None,
        })
        .collect();
    breaches.sort();
    breaches.dedup();
    assert!(breaches.is_empty(), "\n{}", breaches.join("\n"));
}

#[test]
fn expressions_are_read_as_spdx_means_them() {
    for good in [
        "MIT",
        "MIT/Apache-2.0",
        "GPL-3.0 OR MIT",
        "(MIT OR GPL-2.0) AND ISC",
        "Apache-2.0 WITH LLVM-exception OR GPL-2.0",
        "MIT AND GPL-2.0 OR ISC",
    ] {
        assert!(allowed(good), "{good}");
    }
    for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT", "MIT)", "MIT WITH some-exception", "(MIT OR ISC) AND GPL-2.0"]
    {
        assert!(!allowed(bad), "{bad}");
    }
}
