//! NetworkPolicy.
//!
//! Rules: upstream `pkg/apis/networking/validation`.

use serde_json::Value;

use crate::registry::strategy::HookCx;
use crate::registry::validate::labels::selector;
use crate::registry::validate::{Field, parse_cidr, port_name, port_number};

/// Create and update.
pub fn check(o: &Field<'_>, _old: Option<&Value>, _cx: &HookCx<'_>) {
    let spec = o.at("spec");
    selector(&spec.at("podSelector"));
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for rule in spec.items(direction) {
            rule.items("ports").for_each(|p| port(&p));
            rule.items(peers).for_each(|p| peer(&p));
        }
    }
    if spec.count("policyTypes") > 2 {
        spec.at("policyTypes").invalid("may not specify more than two policyTypes");
        return;
    }
    for kind in spec.items("policyTypes") {
        if !matches!(kind.as_text(), "Ingress" | "Egress") {
            kind.errs.not_supported(kind.as_text(), &["Egress", "Ingress"]);
        }
    }
}

fn port(p: &Field<'_>) {
    p.optional_one_of("protocol", &["SCTP", "TCP", "UDP"]);
    let (port, end) = (p.at("port"), p.at("endPort"));
    match port.value {
        Value::Null => {
            if !end.value.is_null() {
                end.invalid("may not be specified when `port` is not specified");
            }
        }
        Value::String(name) => {
            if !end.value.is_null() {
                end.invalid("may not be specified when `port` is non-numeric");
            }
            port.reasons(port_name(name));
        }
        number => {
            let number = number.as_i64().unwrap_or(0);
            if let Some(why) = port_number(number) {
                port.invalid(why);
            }
            if let Some(last) = end.value.as_i64() {
                if last < number {
                    end.invalid("must be greater than or equal to `port`");
                }
                if let Some(why) = port_number(last) {
                    end.invalid(why);
                }
            }
        }
    }
}

fn peer(p: &Field<'_>) {
    let given: Vec<&str> = ["podSelector", "namespaceSelector", "ipBlock"].into_iter().filter(|k| p.has(k)).collect();
    for key in &given {
        match *key {
            "ipBlock" => ip_block(&p.at(key)),
            key => selector(&p.at(key)),
        }
    }
    match given.len() {
        0 => p.errs.required("must specify a peer"),
        n if n > 1 && given.contains(&"ipBlock") => {
            p.errs.forbidden("may not specify both ipBlock and another peer");
        }
        _ => {}
    }
}

fn ip_block(block: &Field<'_>) {
    if !block.needs("cidr") {
        return;
    }
    let Some((outer, bits)) = parse_cidr(block.text("cidr")) else {
        block.at("cidr").invalid("must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
        return;
    };
    for except in block.items("except") {
        let Some((inner, inner_bits)) = parse_cidr(except.as_text()) else {
            except.invalid("must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
            continue;
        };
        let net = ipnet::IpNet::new(outer, bits).ok();
        let inside = net.is_some_and(|n| n.contains(&inner)) && inner_bits > bits;
        if !inside {
            except.invalid("must be a strict subset of `cidr`");
        }
    }
}
