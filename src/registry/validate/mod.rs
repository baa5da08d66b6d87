//! Validators that kinds share, with upstream's field paths and reasons.
//!
//! In: a part of a canonical object as a [`Field`]. Out: what is wrong with it, collected in its [`FieldErrors`].
//! Rules: upstream `pkg/apis/core/validation` and `apimachinery/pkg/apis/meta/v1/validation`.
//!
//! **Invariant:** validators only look; who calls them decides which rules hold for a create, an update or a template.

pub mod affinity;
pub mod cel;
pub mod claims;
pub mod conditions;
pub mod containers;
pub mod env;
pub mod iscsi;
pub mod labels;
pub mod meta;
pub mod persistent;
pub mod pod_annotations;
pub mod pod_security;
pub mod pod_spec;
pub mod pod_status;
pub mod pod_update;
pub mod ports;
pub mod probes;
pub mod projections;
pub mod resources;
pub mod scheduling;
pub mod signer;
pub mod volume_sources;
pub mod volumes;
pub mod warnings;
pub mod windows;

use std::net::IpAddr;

use serde_json::Value;

use crate::api::meta::names;
use crate::api::schema;
use crate::api::value::ValueExt;

use super::errors::FieldErrors;

/// Largest user or group id.
const ID_MAX: i64 = i32::MAX as i64;
/// Longest key of a ConfigMap or Secret, bytes.
const CONFIG_KEY_MAX: usize = 253;

/// A part of an object and the place where its errors go.
#[derive(Clone)]
pub struct Field<'a> {
    /// The part; null when absent.
    pub value: &'a Value,
    /// Collects at this part's path.
    pub errs: FieldErrors,
}

impl<'a> Field<'a> {
    /// The object itself.
    pub fn root(value: &'a Value, errs: &FieldErrors) -> Self {
        Self { value, errs: errs.clone() }
    }

    /// A member; null when absent.
    pub fn at(&self, name: &str) -> Self {
        Self { value: self.value.get(name).unwrap_or(&Value::Null), errs: self.errs.at(name) }
    }

    /// The elements of a member list; none when it is absent.
    pub fn items(&self, name: &str) -> impl Iterator<Item = Self> + use<'a> {
        let errs = self.errs.at(name);
        let list = self.value.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        list.iter().enumerate().map(move |(i, value)| Self { value, errs: errs.index(i) })
    }

    /// How many elements a member list has.
    pub fn count(&self, name: &str) -> usize {
        self.value.get(name).and_then(Value::as_array).map_or(0, Vec::len)
    }

    /// The entries of a member map, in its order, each at `name[key]`.
    pub fn entries(&self, name: &str) -> impl Iterator<Item = (&'a str, Self)> + use<'a> {
        let errs = self.errs.at(name);
        let map = self.value.get(name).and_then(Value::as_object);
        map.into_iter().flatten().map(move |(k, value)| (k.as_str(), Self { value, errs: errs.key(k) }))
    }

    /// The entries of this map itself, each at its key.
    pub fn entries_here(&self) -> impl Iterator<Item = (&'a str, Self)> + use<'a> {
        let errs = self.errs.clone();
        let map = self.value.as_object();
        map.into_iter().flatten().map(move |(k, value)| (k.as_str(), Self { value, errs: errs.key(k) }))
    }

    /// A member text; empty when absent.
    pub fn text(&self, name: &str) -> &'a str {
        self.value.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    /// A member number.
    pub fn int(&self, name: &str) -> Option<i64> {
        self.value.get(name).and_then(Value::as_i64)
    }

    /// A member switch; off when absent.
    pub fn flag(&self, name: &str) -> bool {
        self.value.get(name).and_then(Value::as_bool).unwrap_or(false)
    }

    /// True when a member is there and not null.
    pub fn has(&self, name: &str) -> bool {
        self.value.get(name).is_some_and(|v| !v.is_null())
    }

    /// This part as a text.
    pub fn as_text(&self) -> &'a str {
        self.value.as_str().unwrap_or_default()
    }

    /// `Invalid value` with this part's value.
    pub fn invalid(&self, detail: impl std::fmt::Display) {
        self.errs.invalid(self.value.clone(), detail);
    }

    /// One `Invalid value` per reason.
    pub fn reasons(&self, reasons: Vec<String>) {
        for reason in reasons {
            self.invalid(reason);
        }
    }

    /// A member that must not be empty; true when it is not.
    pub fn needs(&self, name: &str) -> bool {
        let there = !self.text(name).is_empty();
        if !there {
            self.errs.at(name).required("");
        }
        there
    }

    /// A member text that must be one of `allowed`.
    pub fn one_of(&self, name: &str, allowed: &[&str]) {
        if !allowed.contains(&self.text(name)) {
            self.errs.at(name).not_supported(self.text(name), allowed);
        }
    }

    /// The same where an empty text is `Required`.
    pub fn needs_one_of(&self, name: &str, allowed: &[&str]) {
        if self.needs(name) {
            self.one_of(name, allowed);
        }
    }

    /// The same where the member may be absent (but not empty).
    pub fn optional_one_of(&self, name: &str, allowed: &[&str]) {
        if self.has(name) {
            self.one_of(name, allowed);
        }
    }

    /// A member number that must not be below zero, where it is there.
    pub fn not_negative(&self, name: &str) {
        if self.int(name).is_some_and(|n| n < 0) {
            self.at(name).invalid("must be greater than or equal to 0");
        }
    }

    /// A member number in a range, where it is there.
    pub fn in_range(&self, name: &str, min: i64, max: i64) {
        if self.int(name).is_some_and(|n| !(min..=max).contains(&n)) {
            self.at(name).invalid(format!("must be between {min} and {max}, inclusive"));
        }
    }

    /// A member user or group id, where it is there.
    pub fn id(&self, name: &str) {
        self.in_range(name, 0, ID_MAX);
    }

    /// The same where the member holds amounts, which may be written in another unit; `of` is the type of this part, as
    /// `core.v1.PodSpec`.
    pub fn immutable_amounts(&self, name: &str, old: &Value, of: &str) {
        let same = |def| schema::equal_member(def, name, self.value.get(name), old.get(name));
        if !schema::table().by_name(of).is_some_and(same) {
            self.at(name).invalid("field is immutable");
        }
    }

    /// A member that must not differ from the old object's.
    pub fn immutable(&self, name: &str, old: &Value) {
        let (new, old) = (self.value.get(name).unwrap_or(&Value::Null), old.get(name).unwrap_or(&Value::Null));
        if new != old {
            self.at(name).invalid("field is immutable");
        }
    }
}

/// Why a number is not a port.
pub fn port_number(n: i64) -> Option<&'static str> {
    (!(1..=65535).contains(&n)).then_some("must be between 1 and 65535, inclusive")
}

/// Why a text is not a port's name: at most 15 of `a-z0-9-`, a letter among them.
pub fn port_name(name: &str) -> Vec<String> {
    let mut out = Vec::new();
    if name.len() > 15 {
        out.push("must be no more than 15 bytes".to_owned());
    }
    if name.is_empty() || !name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-') {
        out.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !name.bytes().any(|c| c.is_ascii_lowercase()) {
        out.push("must contain at least one letter (a-z)".to_owned());
    }
    if name.contains("--") {
        out.push("must not contain consecutive hyphens".to_owned());
    }
    if name.starts_with('-') || name.ends_with('-') {
        out.push("must not begin or end with a hyphen".to_owned());
    }
    out
}

/// A port given by number or by name, at this field.
pub fn port_or_name(field: &Field<'_>) {
    match field.value {
        Value::String(name) => field.reasons(port_name(name)),
        other => {
            if let Some(why) = port_number(other.as_i64().unwrap_or(0)) {
                field.invalid(why);
            }
        }
    }
}

/// Why a text is not a key of a ConfigMap or Secret.
pub fn config_key(key: &str) -> Vec<String> {
    let mut out = Vec::new();
    if key.len() > CONFIG_KEY_MAX {
        out.push(format!("must be no more than {CONFIG_KEY_MAX} bytes"));
    }
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    if key.is_empty() || !key.bytes().all(plain) {
        out.push(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name', or 'KEY_NAME', or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
                .to_owned(),
        );
    }
    match key {
        "." => out.push("must not be '.'".to_owned()),
        ".." => out.push("must not be '..'".to_owned()),
        k if k.starts_with("..") => out.push("must not start with '..'".to_owned()),
        _ => {}
    }
    out
}

/// A text as an address, in the form upstream accepts of old: leading zeros count as decimal.
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        return text.parse().ok();
    }
    let parts: Vec<u8> = text
        .split('.')
        .map(
            |p| if (1..=3).contains(&p.len()) && p.bytes().all(|c| c.is_ascii_digit()) { p.parse().ok() } else { None },
        )
        .collect::<Option<_>>()?;
    <[u8; 4]>::try_from(parts).ok().map(IpAddr::from)
}

/// What is told of a text that is no address.
pub const NOT_AN_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";

/// An address; none (and an error) when it is not.
pub fn ip(field: &Field<'_>) -> Option<IpAddr> {
    let parsed = parse_ip(field.as_text());
    if parsed.is_none() {
        field.invalid(NOT_AN_IP);
    }
    parsed
}

/// Why an address is not one that endpoints and external addresses may have.
pub fn endpoint_ip(ip: IpAddr) -> Option<&'static str> {
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local() || v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.segments()[0] & 0xff0f == 0xff02,
    };
    if ip.is_unspecified() {
        Some("may not be unspecified (0.0.0.0 or ::)")
    } else if ip.is_loopback() {
        Some("may not be in the loopback range (127.0.0.0/8, ::1/128)")
    } else if link_local {
        Some("may not be in the link-local range (169.254.0.0/16, fe80::/10, 224.0.0.0/24, ff02::/10)")
    } else {
        None
    }
}

/// A network in prefix notation.
pub fn parse_cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = text.split_once('/')?;
    let address = parse_ip(address)?;
    let bits: u8 = bits.parse().ok()?;
    (bits <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, bits))
}

/// A path below a volume: relative, without a step upwards.
pub fn local_descending_path(field: &Field<'_>) {
    let path = field.as_text();
    if path.starts_with('/') {
        field.invalid("must be a relative path");
    }
    no_backsteps(field);
}

/// A path without `..`.
pub fn no_backsteps(field: &Field<'_>) {
    if field.as_text().split('/').any(|part| part == "..") {
        field.invalid("must not contain '..'");
    }
}

/// A name of another object, `Required` when empty.
pub fn object_name(parent: &Field<'_>, member: &str) {
    if parent.needs(member) {
        parent.at(member).reasons(names::dns1123_subdomain(parent.text(member)));
    }
}

/// `example.com/something`, at this field.
pub fn domain_prefixed_path(field: &Field<'_>) {
    let text = field.as_text();
    if text.is_empty() {
        field.errs.required("");
        return;
    }
    match text.split_once('/') {
        Some((domain, path)) if !domain.is_empty() && !path.is_empty() => {
            field.errs.all_invalid(domain, names::dns1123_subdomain(domain));
            let ok = |c: u8| c.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&c);
            if !path.bytes().all(ok) {
                field.errs.invalid(path, "invalid path");
            }
        }
        _ => field.invalid("must be a domain-prefixed path (such as \"acme.io/foo\")"),
    }
}

/// A network as new APIs want it: in prefix notation, in its one canonical form, no bits set beyond the prefix.
pub fn strict_cidr(field: &Field<'_>) -> Option<ipnet::IpNet> {
    let text = field.as_text();
    let net: Option<ipnet::IpNet> = text.parse().ok();
    match net {
        None => field.invalid(NOT_A_CIDR),
        Some(net) if net.trunc().to_string() != text => {
            field.invalid(format!("must be in canonical form ({:?})", net.trunc().to_string()));
        }
        Some(_) => {}
    }
    net
}

/// What is told of a text that is no network.
pub const NOT_A_CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// Why a text cannot be an environment variable's name: printable ASCII without `=`.
pub fn env_name(name: &str) -> Vec<String> {
    let mut out = Vec::new();
    if name.is_empty() {
        out.push("environment variable name must be non-empty".to_owned());
    }
    if !name.bytes().all(|c| (0x20..0x7f).contains(&c) && c != b'=') {
        out.push(
            "a valid environment variable name must consist only of printable ASCII characters other than '='"
                .to_owned(),
        );
    }
    out
}

/// A number or a percentage: not negative, and no other text.
pub fn int_or_percent(field: &Field<'_>) {
    match field.value {
        Value::Number(n) if n.as_i64().unwrap_or(0) < 0 => field.invalid("must be greater than or equal to 0"),
        Value::String(text) if percent(text).is_none() => field.invalid(
            "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
        ),
        _ => {}
    }
}

/// The number of a percentage.
pub fn percent(text: &str) -> Option<i64> {
    let digits = text.strip_suffix('%')?;
    if digits.is_empty() || !digits.bytes().all(|c| c.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// The same for a percentage above 100.
pub fn at_most_all(field: &Field<'_>) {
    if field.value.as_str().and_then(percent).is_some_and(|p| p > 100) {
        field.invalid("must not be greater than 100%");
    }
}

/// True where a number or percentage is zero.
pub fn is_zero(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => percent(text).unwrap_or(0) == 0,
        Some(other) => other.as_i64() == Some(0),
    }
}

/// The texts of a list.
pub fn texts<'a>(value: &'a Value, pointer: &str) -> Vec<&'a str> {
    value.items_at(pointer).iter().filter_map(Value::as_str).collect()
}

#[cfg(test)]
mod tests;
