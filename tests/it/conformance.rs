//! Which of upstream's conformance behaviours our tests name, and that each name is one of upstream's.
//!
//! A test says what it covers in a comment: `"[sig-x] a name"`, or `Conformance, [sig-x]: "a name", "another"`, with a prefix
//! between the group and the colon that all its names share. In: every source of `src` and `tests`, and `conformance.json` of the directory that
//! `ORCH_FACTS` names; without it only the form is looked at. `--nocapture` prints what no test names yet.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use regex::Regex;

/// Every claim: the group, and what a behaviour's name has to hold.
fn claims(root: &Path) -> BTreeSet<(String, String)> {
    let claim = Regex::new(r#"Conformance, (\[sig-[a-z-]+\])([^":]*):((?:\s*"[^"]+"\s*(?:,|and|;)?)+)"#).unwrap();
    let name = Regex::new(r#""([^"]+)""#).unwrap();
    let whole = Regex::new(r#""(\[sig-[a-z-]+\]) ([^"]+)""#).unwrap();
    let mut found = BTreeSet::new();
    let mut folders = vec![root.join("src"), root.join("tests")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("it/conformance.rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let lines = text.lines().map(|l| l.trim_start().trim_start_matches(['/', '!']).trim());
                let text = lines.collect::<Vec<_>>().join(" ");
                found.extend(whole.captures_iter(&text).map(|c| (c[1].to_owned(), c[2].to_owned())));
                for claim in claim.captures_iter(&text) {
                    let names = name.captures_iter(&claim[3]).map(|n| format!("{} {}", claim[2].trim(), &n[1]));
                    found.extend(names.map(|n| (claim[1].to_owned(), n.trim().to_owned())));
                }
            }
        }
    }
    found
}

#[test]
fn tests_name_behaviours_that_upstream_has() {
    let claims = claims(Path::new(env!("CARGO_MANIFEST_DIR")));
    assert!(claims.len() > 20, "the comments are not found any more");
    let Ok(facts) = std::env::var("ORCH_FACTS") else { return };
    let text = std::fs::read_to_string(Path::new(&facts).join("conformance.json")).unwrap();
    let all: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    let names: Vec<&str> = all.iter().map(|b| b["name"].as_str().unwrap()).collect();
    // Upstream's tags and notes in brackets may be left out.
    let tags = Regex::new(r"\s*(\[[^\]]*\]|\([^)]*\))").unwrap();
    let plain = |name: &str| tags.replace_all(name, "").trim().to_owned();
    let plain_names: BTreeSet<String> = names.iter().map(|n| plain(n)).collect();
    let meets = |(group, claim): &(String, String), name: &str| {
        let (claim, plain_name) = (plain(claim), plain(name));
        // A whole name is that behaviour's alone, although others may begin with the same words.
        let is_it = if plain_names.contains(&claim) { plain_name == claim } else { plain_name.contains(&claim) };
        name.starts_with(group.as_str()) && is_it
    };
    let unknown: Vec<_> = claims.iter().filter(|c| !names.iter().any(|n| meets(c, n))).collect();
    assert!(unknown.is_empty(), "not upstream's: {unknown:#?}");
    let mut groups: BTreeMap<&str, (usize, Vec<&str>)> = BTreeMap::new();
    for name in &names {
        let (covered, missing) = groups.entry(name.split(' ').next().unwrap()).or_default();
        match claims.iter().any(|c| meets(c, name)) {
            true => *covered += 1,
            false => missing.push(name),
        }
    }
    for (group, (covered, missing)) in groups {
        println!("{group} {covered}/{} named by a test", covered + missing.len());
        missing.iter().for_each(|name| println!("    {name}"));
    }
}
