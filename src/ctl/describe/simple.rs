//! Config maps, secrets, namespaces, service accounts.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::{Out, annotations, policy, text};
use crate::api::value::ValueExt;
use crate::client::res::{LIMIT_RANGES, RESOURCE_QUOTAS, SECRETS};
use crate::ctl::cx::{Cx, Done};
use crate::util::order::Arrange;

fn head(out: &mut Out, object: &Value, namespaced: bool) {
    out.field(0, "Name", text(&object["metadata"]["name"]));
    if namespaced {
        out.field(0, "Namespace", text(&object["metadata"]["namespace"]));
    }
    out.map(0, "Labels", &object["metadata"]["labels"], "=");
    annotations(out, 0, object);
}

fn sorted(map: &Value) -> Vec<(&String, &Value)> {
    let mut pairs: Vec<_> = map.as_object().into_iter().flatten().collect();
    pairs.arrange_by(|a, b| a.0.cmp(b.0));
    pairs
}

/// Bytes behind base64.
fn size(value: &Value) -> usize {
    STANDARD.decode(value.as_str().unwrap_or_default()).map_or(0, |b| b.len())
}

/// Describes a config map.
pub fn config_map(out: &mut Out, map: &Value) {
    head(out, map, true);
    out.line(0, "\nData\n====");
    for (key, value) in sorted(&map["data"]) {
        out.line(0, format!("{key}:\n----\n{}\n", text(value)));
    }
    out.line(0, "\nBinaryData\n====");
    for (key, value) in sorted(&map["binaryData"]) {
        out.line(0, format!("{key}: {} bytes", size(value)));
    }
    out.line(0, "");
}

/// Describes a secret, without what it keeps.
pub fn secret(out: &mut Out, secret: &Value) {
    head(out, secret, true);
    out.line(0, format!("\nType:\t{}\n\nData\n====", text(&secret["type"])));
    for (key, value) in sorted(&secret["data"]) {
        out.line(0, format!("{key}:\t{} bytes", size(value)));
    }
}

/// Describes a namespace.
pub async fn namespace(cx: &Cx, out: &mut Out, namespace: &Value) -> Done {
    head(out, namespace, false);
    out.field(0, "Status", text(&namespace["status"]["phase"]));
    if !namespace.items_at("/status/conditions").is_empty() {
        out.line(0, "Conditions:\n  Type\tStatus\tLastTransitionTime\tReason\tMessage");
        out.line(1, "----\t------\t------------------\t------\t-------");
        for c in namespace.items_at("/status/conditions") {
            let when = super::time(&text(&c["lastTransitionTime"]));
            out.line(
                1,
                format!(
                    "{}\t{}\t{when}\t{}\t{}",
                    text(&c["type"]),
                    text(&c["status"]),
                    text(&c["reason"]),
                    text(&c["message"])
                ),
            );
        }
    }
    let ns = namespace.str_at("/metadata/name").unwrap_or_default();
    let quotas = cx.items(&RESOURCE_QUOTAS, ns, "", "").await?;
    if quotas.is_empty() {
        out.line(0, "\nNo resource quota.");
    } else {
        out.line(0, "\nResource Quotas");
        for quota in &quotas {
            out.field(1, "Name", text(&quota["metadata"]["name"]));
            out.line(1, "Resource\tUsed\tHard");
            out.line(1, "--------\t---\t---");
            policy::used(out, 1, quota);
        }
    }
    let limits = cx.items(&LIMIT_RANGES, ns, "", "").await?;
    if limits.is_empty() {
        out.line(0, "\nNo LimitRange resource.");
    } else {
        out.line(0, "\nResource Limits");
        policy::table_of_limits(out, " ", &limits);
    }
    Ok(())
}

/// Describes a service account.
pub async fn service_account(cx: &Cx, out: &mut Out, account: &Value) -> Done {
    head(out, account, true);
    let ns = account.str_at("/metadata/namespace").unwrap_or_default();
    let there: Vec<String> =
        cx.items(&SECRETS, ns, "", "").await?.iter().map(|s| text(&s["metadata"]["name"])).collect();
    for (title, path) in
        [("Image pull secrets", "/imagePullSecrets"), ("Mountable secrets", "/secrets"), ("Tokens", "/none")]
    {
        let names: Vec<String> = account
            .items_at(path)
            .iter()
            .map(|s| text(&s["name"]))
            .map(|n| if there.contains(&n) { n } else { format!("{n} (not found)") })
            .collect();
        out.field(0, title, names.first().map_or("<none>", String::as_str));
        names.iter().skip(1).for_each(|n| out.line(0, format!("\t{n}")));
    }
    Ok(())
}
