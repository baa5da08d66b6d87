//! Kinds of CustomResourceDefinitions in people's hands: the stock kubectl, and the controllers that follow all kinds.
//!
//! Conformance, [sig-api-machinery] CustomResourcePublishOpenAPI: "works for CRD with validation schema", "works for CRD
//! preserving unknown fields at the schema root", "works for CRD preserving unknown fields in an embedded object".

use nix::sys::signal::Signal;

use crate::harness::Cluster;

const DEFINITION: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: crontabs.stable.example.com}
spec:
  group: stable.example.com
  scope: Namespaced
  names: {plural: crontabs, singular: crontab, kind: CronTab, shortNames: [ct]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}, scale: {specReplicasPath: .spec.copies, statusReplicasPath: .status.copies}}
    additionalPrinterColumns: [{name: Cron, type: string, jsonPath: .spec.cron}]
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [cron]
            properties:
              cron: {type: string, description: When it runs.}
              copies: {type: integer, default: 1}
"#;

fn tab(name: &str, more: &str) -> String {
    format!(
        "apiVersion: stable.example.com/v1\nkind: CronTab\nmetadata: {{name: {name}{more}}}\nspec: {{cron: '* *'}}\n"
    )
}

#[test]
fn a_definition_makes_a_kind_like_any_other() {
    let mut cluster = Cluster::without_node();
    cluster.apply(DEFINITION);
    cluster.k(&["wait", "--for=condition=Established", "--timeout=60s", "crd/crontabs.stable.example.com"]);
    cluster.k(&["create", "namespace", "tabs"]);
    assert_eq!(cluster.apply(&tab("a", "")).trim(), "crontab.stable.example.com/a created");
    assert_eq!(cluster.apply(&tab("a", "")).trim(), "crontab.stable.example.com/a unchanged");
    let refused = cluster.kubectl_with(&["apply", "-f", "-"], &tab("b", "").replace("cron:", "when:"));
    assert!(refused.stderr.contains("unknown field \"spec.when\""), "{}", refused.stderr);
    let lines = cluster.k(&["get", "ct", "--no-headers", "-o", "wide"]);
    assert_eq!(lines.split_whitespace().collect::<Vec<_>>(), ["a", "*", "*"]);
    assert!(cluster.k(&["explain", "crontab.spec.cron"]).contains("When it runs."));
    cluster.k(&["scale", "crontab/a", "--replicas=3"]);
    assert_eq!(cluster.field("crontab", "a", "/spec/copies"), 3);
    assert!(cluster.ctl(&["get", "crontabs"]).stdout.contains("CRON"));

    // The collector and the namespace's end know the kind.
    let uid = cluster.field("crontab", "a", "/metadata/uid").as_str().unwrap().to_owned();
    let owner = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: of-a, ownerReferences: [{{apiVersion: stable.example.com/v1, kind: CronTab, name: a, uid: {uid}}}]}}\n"
    );
    cluster.apply(&owner);
    cluster.apply(&tab("c", ", namespace: tabs"));

    // The kind is there again with its objects when the server is.
    cluster.end_server(Signal::SIGTERM);
    cluster.restart_with(&[]);
    assert_eq!(cluster.k(&["get", "crontabs", "-o", "name"]), "crontab.stable.example.com/a");
    cluster.k(&["delete", "crontab", "a"]);
    cluster.eventually("what it owned goes too", || cluster.kubectl(&["get", "cm", "of-a"]).code != Some(0));
    cluster.k(&["delete", "namespace", "tabs", "--timeout=60s"]);
    assert_eq!(cluster.k(&["get", "crontabs", "-A", "-o", "name"]), "");
    cluster.apply(&tab("last", ""));
    cluster.k(&["delete", "crd", "crontabs.stable.example.com", "--timeout=60s"]);
    assert_ne!(cluster.kubectl(&["get", "crontabs"]).code, Some(0));
}

/// A definition whose kind and plural are made of `name`, with this schema.
fn described(name: &str, schema: &str) -> String {
    format!(
        "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {{name: {name}s.e2e.example.com}}\n\
         spec: {{group: e2e.example.com, scope: Namespaced, names: {{plural: {name}s, singular: {name}, kind: {name}}},\n  \
         versions: [{{name: v1, served: true, storage: true, schema: {{openAPIV3Schema: {schema}}}}}]}}\n"
    )
}

const FOO: &str = "{description: Foo CRD for Testing, type: object, properties: {spec: {type: object, description: \
    Specification of Foo, properties: {bars: {description: List of Bars and their specs., type: array, items: {type: object, \
    required: [name], properties: {name: {description: Name of Bar., type: string}, age: {description: Age of Bar., type: string}, \
    feeling: {description: Whether Bar is feeling great., type: string, enum: [Great, Down]}, \
    bazs: {description: List of Bazs., type: array, items: {type: string}}}}}}}}}";
const AT_ROOT: &str = "{description: preserve-unknown-properties at root for Testing, type: object, \
    x-kubernetes-preserve-unknown-fields: true, properties: {spec: {description: Specification of Waldo, type: object}}}";
const NESTED: &str = "{description: preserve-unknown-properties in nested field for Testing, type: object, properties: {spec: \
    {description: Specification of Waldo, type: object, x-kubernetes-preserve-unknown-fields: true, properties: {dummy: \
    {description: Dummy property., type: object}}}}}";

/// True when all of the texts are there, one after another.
fn in_order(text: &str, parts: &[&str]) -> bool {
    let mut rest = text;
    parts.iter().all(|part| rest.split_once(part).map(|(_, after)| rest = after).is_some())
}

#[test]
fn kubectl_knows_what_definitions_say() {
    let cluster = Cluster::without_node();
    for (name, schema) in [("foo", FOO), ("root", AT_ROOT), ("nested", NESTED)] {
        cluster.apply(&described(name, schema));
    }
    cluster.k(&["wait", "crd", "--all", "--for=condition=Established", "--timeout=60s"]);
    let object = |kind: &str, rest: &str| {
        format!("apiVersion: e2e.example.com/v1\nkind: {kind}\nmetadata: {{name: test}}\n{rest}\n")
    };
    let good = [
        ("foo", "spec: {bars: [{name: test-bar}]}"),
        ("root", "a: {b: [{c: d}]}"),
        ("nested", "spec: {a: null, b: [{c: d}]}"),
    ];
    for (kind, rest) in good {
        for verb in ["create", "apply"] {
            let made = cluster.kubectl_with(&[verb, "-f", "-"], &object(kind, rest));
            assert_eq!(made.code, Some(0), "{}", made.stderr);
            cluster.k(&["delete", kind, "test"]);
        }
    }
    let bad = [
        ("spec: {bars: [{name: b, feeling: NonExistentValue}]}", "Unsupported value: \"NonExistentValue\""),
        ("spec: {foo: true}", "unknown field \"spec.foo\""),
        ("spec: {bars: [{age: \"10\"}]}", "spec.bars[0].name: Required value"),
    ];
    for (rest, why) in bad {
        for verb in ["create", "apply"] {
            let refused = cluster.kubectl_with(&[verb, "-f", "-"], &object("foo", rest));
            assert!(refused.code == Some(1) && refused.stderr.contains(why), "{}", refused.stderr);
        }
    }
    let explained: [(&str, &[&str]); 7] = [
        (
            "foos",
            &[
                "DESCRIPTION:",
                "Foo CRD for Testing",
                "FIELDS:",
                "apiVersion",
                "<string>",
                "APIVersion defines",
                "spec",
                "<Object>",
                "Specification of Foo",
            ],
        ),
        (
            "foos.metadata",
            &[
                "DESCRIPTION:",
                "Standard object's metadata",
                "FIELDS:",
                "creationTimestamp",
                "<string>",
                "CreationTimestamp is a timestamp",
            ],
        ),
        (
            "foos.spec",
            &["DESCRIPTION:", "Specification of Foo", "FIELDS:", "bars", "<[]Object>", "List of Bars and their specs"],
        ),
        (
            "foos.spec.bars",
            &[
                "bars",
                "<[]Object>",
                "DESCRIPTION:",
                "List of Bars and their specs",
                "FIELDS:",
                "bazs",
                "<[]string>",
                "List of Bazs",
                "name",
                "<string>",
                "Name of Bar",
            ],
        ),
        ("roots", &["KIND:", "root"]),
        ("nesteds", &["DESCRIPTION:", "preserve-unknown-properties in nested field for Testing"]),
        ("nesteds.spec", &["DESCRIPTION:", "Specification of Waldo", "FIELDS:", "dummy"]),
    ];
    for (what, parts) in explained {
        let said = cluster.k(&["explain", what]);
        assert!(in_order(&said, parts), "{what}: {said}");
    }
    let unknown = cluster.kubectl(&["explain", "foos.spec.bars2"]);
    assert!(unknown.stderr.contains("field \"bars2\" does not exist"), "{}", unknown.stderr);
}
