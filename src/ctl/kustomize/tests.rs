//! What kustomize 5.5 makes of the same directories.

use super::*;

/// Writes `name: text` files below a directory.
fn files(list: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in list {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    dir
}

fn built(dir: &tempfile::TempDir, below: &str) -> String {
    let objects = build(&dir.path().join(below), false).unwrap();
    objects.iter().map(yaml::to_string).collect::<Vec<_>>().join("---\n")
}

const DEPLOYMENT: &str = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec:\n  selector: {matchLabels: {app: web}}\n  \
     template:\n    metadata: {labels: {app: web}}\n    spec:\n      containers:\n      - {name: c, image: 'nginx:1', \
     envFrom: [{configMapRef: {name: cfg}}]}\n";

#[test]
fn generated_names_are_followed() {
    let dir = files(&[
        ("d.yaml", DEPLOYMENT),
        (
            "kustomization.yaml",
            "resources: [d.yaml]\nnamePrefix: p-\nnamespace: ns\ncommonLabels: {t: u}\nimages: [{name: nginx, newTag: '2'}]\n\
             replicas: [{name: web, count: 3}]\nconfigMapGenerator: [{name: cfg, literals: [a=b]}]\n",
        ),
    ]);
    let want = "apiVersion: v1\ndata:\n  a: b\nkind: ConfigMap\nmetadata:\n  labels:\n    t: u\n  name: p-cfg-4h2mbtbbt6\n  namespace: ns\n---\n\
                apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  labels:\n    t: u\n  name: p-web\n  namespace: ns\nspec:\n  replicas: 3\n  \
                selector:\n    matchLabels:\n      app: web\n      t: u\n  template:\n    metadata:\n      labels:\n        app: web\n        \
                t: u\n    spec:\n      containers:\n      - envFrom:\n        - configMapRef:\n            name: p-cfg-4h2mbtbbt6\n        \
                image: nginx:2\n        name: c\n";
    assert_eq!(built(&dir, ""), want);
}

#[test]
fn overlays_patch_their_bases_and_a_base_used_twice_stays_two() {
    let dir = files(&[
        ("base/d.yaml", DEPLOYMENT),
        ("base/kustomization.yaml", "resources: [d.yaml]\nconfigMapGenerator: [{name: cfg, literals: [a=b]}]\n"),
        (
            "a/kustomization.yaml",
            "resources: [../base]\nnamePrefix: a-\nconfigMapGenerator: [{name: cfg, behavior: merge, literals: [c=d]}]\n\
             patches:\n- target: {kind: Deploy.*}\n  patch: '[{op: add, path: /spec/replicas, value: 2}]'\n\
             - patch: |\n    apiVersion: apps/v1\n    kind: Deployment\n    metadata: {name: web}\n    spec: {template: {spec: {containers: [{name: side, image: s}]}}}\n",
        ),
        ("b/kustomization.yaml", "resources: [../base]\nnamePrefix: b-\n"),
        ("both/kustomization.yaml", "resources: [../a, ../b]\nnameSuffix: -z\n"),
    ]);
    let objects = build(&dir.path().join("both"), false).unwrap();
    let names: Vec<&str> = objects.iter().map(|o| o.str_at("/metadata/name").unwrap()).collect();
    assert!(
        names[0].starts_with("a-cfg-z-") && names[1].starts_with("b-cfg-z-") && names[2..] == ["a-web-z", "b-web-z"],
        "{names:?}"
    );
    assert_ne!(names[0][8..], names[1][8..]);
    assert_eq!(objects[0]["data"], serde_json::json!({"a": "b", "c": "d"}));
    let containers = objects[2]["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    assert_eq!((&containers[0]["name"], &containers[1]["name"]), (&"side".into(), &"c".into()));
    assert_eq!(containers[1]["envFrom"][0]["configMapRef"]["name"], names[0]);
    assert_eq!(objects[2]["spec"]["replicas"], 2);
    let other = &objects[3]["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(other["envFrom"][0]["configMapRef"]["name"], names[1]);
}

#[test]
fn what_is_wrong_is_told() {
    let refused = |list: &[(&str, &str)]| build(files(list).path(), false).unwrap_err().to_string();
    assert!(refused(&[("x", "")]).contains("unable to find one of 'kustomization.yaml'"));
    assert!(refused(&[("kustomization.yaml", "helmCharts: [{name: x}]\n")]).contains("\"helmCharts\""));
    assert!(refused(&[("kustomization.yaml", "resources: [.]\n")]).contains("nested more than"));
    assert!(
        refused(&[("kustomization.yaml", "configMapGenerator: [{name: x, files: [/etc/hosts]}]\n")])
            .contains("security")
    );
    assert!(
        refused(&[("kustomization.yaml", "patches: [{patch: '{kind: A, metadata: {name: b}}'}]\n")])
            .contains("no matches for Id")
    );
}
