//! Addresses and prefixes.
//!
//! Rules: upstream `apiserver/pkg/cel/library/{ip,cidr}.go`.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

use super::funcs::{Error, Res, Row, fail, no_overload};
use super::value::Val;

/// FUNCTIONS of this library.
pub const ROWS: &[Row] = &[
    Row { name: "ip", decls: &["(string) net.IP", "net.CIDR.() net.IP"], run: ip },
    Row { name: "isIP", decls: &["(string) bool"], run: is_ip },
    Row { name: "ip.isCanonical", decls: &["(string) bool"], run: is_canonical },
    Row { name: "family", decls: &["net.IP.() int"], run: family },
    Row { name: "isUnspecified", decls: &["net.IP.() bool"], run: |a| is(a, IpAddr::is_unspecified) },
    Row { name: "isLoopback", decls: &["net.IP.() bool"], run: |a| is(a, IpAddr::is_loopback) },
    Row { name: "isGlobalUnicast", decls: &["net.IP.() bool"], run: |a| is(a, is_global_unicast) },
    Row { name: "isLinkLocalMulticast", decls: &["net.IP.() bool"], run: |a| is(a, is_link_local_multicast) },
    Row { name: "isLinkLocalUnicast", decls: &["net.IP.() bool"], run: |a| is(a, is_link_local_unicast) },
    Row { name: "cidr", decls: &["(string) net.CIDR"], run: cidr },
    Row { name: "isCIDR", decls: &["(string) bool"], run: is_cidr },
    Row { name: "containsIP", decls: &["net.CIDR.(string) bool", "net.CIDR.(net.IP) bool"], run: contains_ip },
    Row { name: "containsCIDR", decls: &["net.CIDR.(string) bool", "net.CIDR.(net.CIDR) bool"], run: contains_cidr },
    Row { name: "masked", decls: &["net.CIDR.() net.CIDR"], run: masked },
    Row { name: "prefixLength", decls: &["net.CIDR.() int"], run: prefix_length },
];

fn parse_ip(s: &str) -> Result<IpAddr, Error> {
    if s.contains('%') {
        return fail(format!("IP address {s:?} with zone value is not allowed"));
    }
    match s.parse::<IpAddr>() {
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => {
            fail(format!("IPv4-mapped IPv6 address {s:?} is not allowed"))
        }
        Ok(ip) => Ok(ip),
        Err(_) => fail(format!("IP Address {s:?} parse error during conversion from string: unable to parse IP")),
    }
}

fn parse_cidr(s: &str) -> Result<IpNet, Error> {
    let why = match s.split_once('/') {
        None => "no '/'",
        Some((address, bits)) => {
            let plain = bits.bytes().all(|c| c.is_ascii_digit()) && (bits == "0" || !bits.starts_with('0'));
            match s.parse::<IpNet>() {
                Ok(net) if plain && parse_ip(address).is_ok() => return Ok(net),
                _ => "invalid prefix",
            }
        }
    };
    fail(format!("network address parse error during conversion from string: netip.ParsePrefix({s:?}): {why}"))
}

fn ip(a: &[Val]) -> Res {
    match a {
        [Val::Str(s)] => parse_ip(s).map(Val::Ip),
        [Val::Cidr(net)] => Ok(Val::Ip(net.addr())),
        _ => no_overload(),
    }
}

fn is_ip(a: &[Val]) -> Res {
    match a {
        [Val::Str(s)] => Ok(Val::Bool(parse_ip(s).is_ok())),
        _ => no_overload(),
    }
}

fn is_canonical(a: &[Val]) -> Res {
    match a {
        [Val::Str(s)] => Ok(Val::Bool(parse_ip(s)?.to_string() == **s)),
        _ => no_overload(),
    }
}

fn family(a: &[Val]) -> Res {
    match a {
        [Val::Ip(ip)] => Ok(Val::Int(if ip.is_ipv4() { 4 } else { 6 })),
        _ => no_overload(),
    }
}

fn is(a: &[Val], what: fn(&IpAddr) -> bool) -> Res {
    match a {
        [Val::Ip(ip)] => Ok(Val::Bool(what(ip))),
        _ => no_overload(),
    }
}

fn is_global_unicast(ip: &IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    !(broadcast || ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || is_link_local_unicast(ip))
}

fn is_link_local_unicast(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
    }
}

fn is_link_local_multicast(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    }
}

fn cidr(a: &[Val]) -> Res {
    match a {
        [Val::Str(s)] => match parse_cidr(s) {
            Ok(net) => Ok(Val::Cidr(net)),
            Err(why) => fail(format!("network address parse error during conversion from string: {why}")),
        },
        _ => no_overload(),
    }
}

fn is_cidr(a: &[Val]) -> Res {
    match a {
        [Val::Str(s)] => Ok(Val::Bool(parse_cidr(s).is_ok())),
        _ => no_overload(),
    }
}

fn contains_ip(a: &[Val]) -> Res {
    match a {
        [Val::Cidr(net), Val::Ip(ip)] => Ok(Val::Bool(net.contains(ip))),
        [Val::Cidr(net), Val::Str(s)] => Ok(Val::Bool(net.contains(&parse_ip(s)?))),
        _ => no_overload(),
    }
}

fn contains_cidr(a: &[Val]) -> Res {
    match a {
        [Val::Cidr(net), Val::Cidr(other)] => Ok(Val::Bool(net.trunc().contains(&other.trunc()))),
        [Val::Cidr(net), Val::Str(s)] => Ok(Val::Bool(net.trunc().contains(&parse_cidr(s)?.trunc()))),
        _ => no_overload(),
    }
}

fn masked(a: &[Val]) -> Res {
    match a {
        [Val::Cidr(net)] => Ok(Val::Cidr(net.trunc())),
        _ => no_overload(),
    }
}

fn prefix_length(a: &[Val]) -> Res {
    match a {
        [Val::Cidr(net)] => Ok(Val::Int(net.prefix_len().into())),
        _ => no_overload(),
    }
}

/// True for what a host in a URL may be between brackets.
pub fn is_v6(s: &str) -> bool {
    s.split_once('%').map_or(s, |(ip, _)| ip).parse::<Ipv6Addr>().is_ok()
}
