//! Ingresses and their classes, network policies, endpoints.

use serde_json::Value;

use super::service::endpoints;
use super::{Out, annotations, head, text, time};
use crate::api::services::SERVICE_NAME_LABEL;
use crate::api::value::ValueExt;
use crate::client::res::{ENDPOINT_SLICES, SERVICES};
use crate::ctl::cx::{Cx, Done};
use crate::ctl::pods::selector_query;

/// Describes an ingress class.
pub fn ingress_class(out: &mut Out, class: &Value) {
    out.field(0, "Name", text(&class["metadata"]["name"]));
    out.map(0, "Labels", &class["metadata"]["labels"], "=");
    annotations(out, 0, class);
    out.field(0, "Controller", text(&class["spec"]["controller"]));
    if class["spec"]["parameters"].is_object() {
        out.line(0, "Parameters:");
        out.some(1, "APIGroup", class.str_at("/spec/parameters/apiGroup"));
        out.field(1, "Kind", text(&class["spec"]["parameters"]["kind"]));
        out.field(1, "Name", text(&class["spec"]["parameters"]["name"]));
    }
}

/// Describes an ingress, with the addresses behind its backends.
pub async fn ingress(cx: &Cx, out: &mut Out, ingress: &Value) -> Done {
    let at = |path: &str| ingress.str_at(path).unwrap_or_default();
    let ns = at("/metadata/namespace");
    out.field(0, "Name", at("/metadata/name"));
    out.map(0, "Labels", &ingress["metadata"]["labels"], "=");
    out.field(0, "Namespace", ns);
    let addresses: Vec<&str> = ingress
        .items_at("/status/loadBalancer/ingress")
        .iter()
        .filter_map(|i| i.str_at("/ip").or(i.str_at("/hostname")))
        .collect();
    out.field(0, "Address", addresses.join(","));
    out.field(0, "Ingress Class", ingress.str_at("/spec/ingressClassName").unwrap_or("<none>"));
    let default = &ingress["spec"]["defaultBackend"];
    let shown = if default.is_object() { backend(cx, ns, default).await? } else { "<default>".to_owned() };
    out.field(0, "Default backend", &shown);
    if !ingress.items_at("/spec/tls").is_empty() {
        out.line(0, "TLS:");
        for tls in ingress.items_at("/spec/tls") {
            let hosts: Vec<String> = tls.items_at("/hosts").iter().map(text).collect();
            match tls.str_at("/secretName").unwrap_or_default() {
                "" => out.line(1, format!("SNI routes {}", hosts.join(","))),
                secret => out.line(1, format!("{secret} terminates {}", hosts.join(","))),
            }
        }
    }
    out.line(0, "Rules:\n  Host\tPath\tBackends");
    out.line(1, "----\t----\t--------");
    let rules: Vec<&Value> = ingress.items_at("/spec/rules").iter().filter(|r| r["http"].is_object()).collect();
    for rule in &rules {
        out.line(1, format!("{}\t", rule.str_at("/host").filter(|h| !h.is_empty()).unwrap_or("*")));
        for path in rule.items_at("/http/paths") {
            let shown = backend(cx, ns, &path["backend"]).await?;
            out.line(2, format!("\t{} \t{shown}", text(&path["path"])));
        }
    }
    if rules.is_empty() {
        out.line(1, format!("*\t*\t{shown}"));
    }
    annotations(out, 0, ingress);
    Ok(())
}

/// `web:80 (10.0.0.1:8080)`.
async fn backend(cx: &Cx, ns: &str, backend: &Value) -> Done<String> {
    let Some(name) = backend.str_at("/service/name") else {
        let of = &backend["resource"];
        return Ok(format!(
            "APIGroup: {}, Kind: {}, Name: {}",
            text(&of["apiGroup"]),
            text(&of["kind"]),
            text(&of["name"])
        ));
    };
    let port = backend.get_at("/service/port/number").or(backend.get_at("/service/port/name"));
    let port = port.map(text).unwrap_or_default();
    let Some(service) = cx.find(&SERVICES, ns, name).await? else {
        return Ok(format!("{name}:{port} (<error: services {name:?} not found>)"));
    };
    let slices = cx.items(&ENDPOINT_SLICES, ns, &format!("{SERVICE_NAME_LABEL}={name}"), "").await?;
    let found = service.items_at("/spec/ports").iter().find(|p| text(&p["port"]) == port || p["name"] == port.as_str());
    let of = found.and_then(|p| p.str_at("/name")).unwrap_or_default();
    Ok(format!("{name}:{port} ({})", endpoints(&slices, of)))
}

/// Describes endpoints.
pub fn old_endpoints(out: &mut Out, of: &Value) {
    head(out, of);
    out.line(0, "Subsets:");
    for subset in of.items_at("/subsets") {
        for (title, path) in [("Addresses", "/addresses"), ("NotReadyAddresses", "/notReadyAddresses")] {
            let ips: Vec<String> = subset.items_at(path).iter().map(|a| text(&a["ip"])).collect();
            out.field(1, title, if ips.is_empty() { "<none>".into() } else { ips.join(",") });
        }
        if !subset.items_at("/ports").is_empty() {
            out.line(1, "Ports:");
            ports(out, 2, subset.items_at("/ports"));
        }
        out.line(0, "");
    }
}

fn ports(out: &mut Out, level: usize, ports: &[Value]) {
    out.line(level, "Name\tPort\tProtocol");
    out.line(level, "----\t----\t--------");
    for port in ports {
        let name = port.str_at("/name").filter(|n| !n.is_empty()).unwrap_or("<unset>");
        let number = port.int_at("/port").map_or("<unset>".into(), |p| p.to_string());
        out.line(level, format!("{name}\t{number}\t{}", text(&port["protocol"])));
    }
}

/// Describes an endpoint slice.
pub fn slice(out: &mut Out, slice: &Value) {
    head(out, slice);
    out.field(0, "AddressType", text(&slice["addressType"]));
    if slice.items_at("/ports").is_empty() {
        out.line(0, "Ports: <unset>");
    } else {
        out.line(0, "Ports:");
        ports(out, 1, slice.items_at("/ports"));
    }
    if slice.items_at("/endpoints").is_empty() {
        return out.line(0, "Endpoints: <none>");
    }
    out.line(0, "Endpoints:");
    for endpoint in slice.items_at("/endpoints") {
        let addresses: Vec<String> = endpoint.items_at("/addresses").iter().map(text).collect();
        out.field(1, "- Addresses", addresses.join(","));
        out.line(2, "Conditions:");
        let ready = endpoint.bool_at("/conditions/ready").map_or("<unset>".into(), |r| r.to_string());
        out.field(3, "Ready", ready);
        let or_unset = |path: &str| endpoint.str_at(path).unwrap_or("<unset>");
        out.field(2, "Hostname", or_unset("/hostname"));
        if endpoint["targetRef"].is_object() {
            let target = &endpoint["targetRef"];
            out.field(2, "TargetRef", format!("{}/{}", text(&target["kind"]), text(&target["name"])));
        }
        out.field(2, "NodeName", or_unset("/nodeName"));
        out.field(2, "Zone", or_unset("/zone"));
    }
}

/// Describes a network policy.
pub fn policy(out: &mut Out, policy: &Value) {
    out.field(0, "Name", text(&policy["metadata"]["name"]));
    out.field(0, "Namespace", text(&policy["metadata"]["namespace"]));
    out.field(0, "Created on", created(policy));
    out.map(0, "Labels", &policy["metadata"]["labels"], "=");
    annotations(out, 0, policy);
    out.line(0, "Spec:");
    let selector = selector_query(&policy["spec"]["podSelector"]);
    let all = "<none> (Allowing the specific traffic to all pods in this namespace)";
    out.line(1, format!("PodSelector:     {}", if selector.is_empty() { all } else { &selector }));
    let types: Vec<String> = policy.items_at("/spec/policyTypes").iter().map(text).collect();
    for (name, title, list, peers, word) in [
        ("Ingress", "Allowing ingress traffic:", "/spec/ingress", "/from", "From"),
        ("Egress", "Allowing egress traffic:", "/spec/egress", "/to", "To"),
    ] {
        if types.iter().any(|t| t == name) {
            out.line(1, title);
            rules(out, policy.items_at(list), peers, word, &name.to_lowercase());
        } else {
            out.line(1, format!("Not affecting {} traffic", name.to_lowercase()));
        }
    }
    out.line(1, format!("Policy Types: {}", types.join(", ")));
}

/// Go's form of a time in a sentence.
fn created(object: &Value) -> String {
    let when = object.str_at("/metadata/creationTimestamp").unwrap_or_default();
    when.parse::<jiff::Timestamp>().map_or_else(
        |_| time(when),
        |t| t.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string(),
    )
}

fn rules(out: &mut Out, rules: &[Value], peers: &str, word: &str, direction: &str) {
    if rules.is_empty() {
        let what = if direction == "ingress" { "ingress connectivity" } else { "egress connectivity" };
        return out.line(2, format!("<none> (Selected pods are isolated for {what})"));
    }
    for (i, rule) in rules.iter().enumerate() {
        if rule.items_at("/ports").is_empty() {
            out.line(2, "To Port: <any> (traffic allowed to all ports)");
        }
        for port in rule.items_at("/ports") {
            let range = port.int_at("/endPort").map_or(String::new(), |end| format!("-{end}"));
            let number = if port["port"].is_null() { "<any>".into() } else { text(&port["port"]) };
            out.line(2, format!("To Port: {number}{range}/{}", port.str_at("/protocol").unwrap_or("TCP")));
        }
        let from = rule.items_at(peers);
        if from.is_empty() {
            let how = if word == "From" { "not restricted by source" } else { "not restricted by destination" };
            out.line(2, format!("{word}: <any> (traffic {how})"));
        }
        for peer in from {
            out.line(2, format!("{word}:"));
            self::peer(out, peer);
        }
        if i + 1 < rules.len() {
            out.line(2, "----------");
        }
    }
}

fn peer(out: &mut Out, peer: &Value) {
    let query = |value: &Value| match selector_query(value) {
        empty if empty.is_empty() => "<none>".to_owned(),
        text => text,
    };
    if peer["ipBlock"].is_object() {
        out.line(3, "IPBlock:");
        out.line(4, format!("CIDR: {}", text(&peer["ipBlock"]["cidr"])));
        let except: Vec<String> = peer.items_at("/ipBlock/except").iter().map(text).collect();
        out.line(4, format!("Except: {}", except.join(", ")));
        return;
    }
    for (title, field) in [("NamespaceSelector", "namespaceSelector"), ("PodSelector", "podSelector")] {
        if peer[field].is_object() {
            out.line(3, format!("{title}: {}", query(&peer[field])));
        }
    }
}
