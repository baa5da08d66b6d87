//! Probes and lifecycle hooks.

use super::{Field, port_or_name};

const HANDLERS: &[&str] = &["exec", "httpGet", "tcpSocket", "grpc", "sleep"];

/// Which probe of a container it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// Restarts the container.
    Liveness,
    /// Takes it out of services.
    Readiness,
    /// Holds the others back.
    Startup,
}

/// A probe; an absent one is valid. `grace` is the pod's, seconds.
pub fn probe(field: &Field<'_>, kind: Probe, grace: i64) {
    if field.value.is_null() {
        return;
    }
    handler(field, grace);
    for number in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        field.not_negative(number);
    }
    match kind {
        Probe::Readiness => {
            if field.has("terminationGracePeriodSeconds") {
                field.at("terminationGracePeriodSeconds").invalid("must not be set for readinessProbes");
            }
        }
        Probe::Liveness | Probe::Startup => {
            if field.int("terminationGracePeriodSeconds").is_some_and(|n| n <= 0) {
                field.at("terminationGracePeriodSeconds").invalid("must be greater than 0");
            }
            if field.int("successThreshold").unwrap_or(0) != 1 {
                field.at("successThreshold").invalid("must be 1");
            }
        }
    }
}

/// `lifecycle` of a container.
pub fn lifecycle(field: &Field<'_>, grace: i64, os: &str) {
    for hook in ["postStart", "preStop"] {
        if field.has(hook) {
            handler(&field.at(hook), grace);
        }
    }
    if field.has("stopSignal") && os.is_empty() {
        field.errs.at("stopSignal").forbidden("may not be set for containers with empty `spec.os.name`");
    }
}

/// Exactly one handler, and a valid one.
fn handler(field: &Field<'_>, grace: i64) {
    let mut found = 0;
    for name in HANDLERS.iter().filter(|h| field.has(h)) {
        let one = field.at(name);
        found += 1;
        if found > 1 {
            one.errs.forbidden("may not specify more than 1 handler type");
            continue;
        }
        match *name {
            "exec" if one.count("command") == 0 => one.errs.at("command").required(""),
            "httpGet" => http_get(&one),
            "tcpSocket" => port_or_name(&one.at("port")),
            "grpc" => {
                if let Some(why) = super::port_number(one.int("port").unwrap_or(0)) {
                    one.at("port").invalid(why);
                }
            }
            "sleep" => {
                let seconds = one.int("seconds").unwrap_or(0);
                if seconds < 0 || seconds > grace {
                    let why = format!(
                        "must be non-negative and less than terminationGracePeriodSeconds ({grace}). Additional details: sleep action"
                    );
                    one.errs.invalid(seconds, why);
                }
            }
            _ => {}
        }
    }
    if found == 0 {
        field.errs.required("must specify a handler type");
    }
}

fn http_get(field: &Field<'_>) {
    if field.text("path").is_empty() {
        field.errs.at("path").required("");
    }
    port_or_name(&field.at("port"));
    field.one_of("scheme", &["HTTP", "HTTPS"]);
    for header in field.items("httpHeaders") {
        let name = header.text("name");
        if name.is_empty() || !name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-') {
            field.errs.at("httpHeaders").invalid(
                name,
                "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')",
            );
        }
    }
}
