//! "A module imports only from lower layers": reads every `crate::` path in `src` and fails on a breach.

use std::path::Path;

const LAYERS: &[(&str, u8)] = &[
    ("util", 0),
    ("api", 1),
    ("pki", 1),
    ("store", 2),
    ("client", 2),
    ("runtime", 3),
    ("registry", 4),
    ("admission", 4),
    ("apiserver", 5),
    ("controllers", 6),
    ("scheduler", 6),
    ("kubelet", 6),
    ("cni", 6),
    ("proxy", 6),
    ("dns", 6),
    ("ctl", 6),
    ("cmd", 7),
];

/// Modules that only the apiserver and cmd may see.
const SERVER_ONLY: &[&str] = &["store", "registry", "admission", "apiserver"];

fn layer(module: &str) -> Option<u8> {
    LAYERS.iter().find(|(m, _)| *m == module).map(|(_, l)| *l)
}

/// Why `from` may not use `to`; none when it may.
fn breach(from: &str, to: &str) -> Option<String> {
    let (a, b) = (layer(from)?, layer(to)?);
    if from == to {
        return None;
    }
    if b > a {
        return Some(format!("layer {a} uses layer {b}"));
    }
    if (a == 6 || matches!(from, "client" | "runtime")) && SERVER_ONLY.contains(&to) {
        return Some("this side sees the cluster through client and runtime only".into());
    }
    if a == 6 && b == 6 {
        return Some("modules of layer 6 share through api, runtime and util".into());
    }
    None
}

fn visit(dir: &Path, root: &Path, breaches: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            visit(&path, root, breaches);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let relative = path.strip_prefix(root).unwrap();
            let from = relative.iter().next().unwrap().to_string_lossy().trim_end_matches(".rs").to_owned();
            for (number, line) in std::fs::read_to_string(&path).unwrap().lines().enumerate() {
                for part in line.split("crate::").skip(1) {
                    let names: Vec<&str> = match part.strip_prefix('{') {
                        Some(group) => group.split(['}', ',']).map(str::trim).collect(),
                        None => vec![part],
                    };
                    for name in names {
                        let to: String = name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                        if let Some(why) = breach(&from, &to) {
                            breaches.push(format!("src/{}:{}: crate::{to}: {why}", relative.display(), number + 1));
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn modules_use_only_lower_layers() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut breaches = Vec::new();
    visit(&root, &root, &mut breaches);
    assert!(breaches.is_empty(), "\n{}", breaches.join("\n"));
}

#[test]
fn every_module_has_a_layer() {
    let lib = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    for line in lib.lines().filter_map(|l| l.strip_prefix("pub mod ")) {
        assert!(layer(line.trim_end_matches(';')).is_some(), "{line} has no layer");
    }
}

#[test]
fn the_rules_refuse_what_they_should() {
    assert!(breach("api", "store").is_some());
    assert!(breach("kubelet", "store").is_some());
    assert!(breach("kubelet", "proxy").is_some());
    assert!(breach("apiserver", "store").is_none());
    assert!(breach("cmd", "kubelet").is_none());
}
