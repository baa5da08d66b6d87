//! Kinds of CustomResourceDefinitions in people's hands: the stock kubectl, and the controllers that follow all kinds.

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
    cluster.restart_with(&[]);
    assert_eq!(cluster.k(&["get", "crontabs", "-o", "name"]), "crontab.stable.example.com/a");
    cluster.k(&["delete", "crontab", "a"]);
    cluster.eventually("what it owned goes too", || cluster.kubectl(&["get", "cm", "of-a"]).code != Some(0));
    cluster.k(&["delete", "namespace", "tabs", "--timeout=60s"]);
    assert_eq!(cluster.k(&["get", "crontabs", "-A", "-o", "name"]), "");
    cluster.apply(&tab("last", ""));
    cluster.k(&["delete", "crd", "crontabs.stable.example.com", "--timeout=60s"]);
    let gone = cluster.kubectl(&["get", "crontabs"]);
    assert!(gone.stderr.contains("the server doesn't have a resource type"), "{}", gone.stderr);
}
