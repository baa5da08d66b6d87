//! Whether a range of Service addresses may go. No IO.
//!
//! Rules: upstream `pkg/controller/servicecidrs` (`canDeleteCIDR`) and `pkg/api/servicecidr`.

use std::net::IpAddr;

use ipnet::IpNet;

/// A ServiceCIDR: its name, and its ranges, one of a family.
pub type Range = (String, Vec<IpNet>);

/// Whether a Service may have an address of a range: its first and, of IPv4, its last belong to nobody.
pub fn gives(range: &IpNet, ip: IpAddr) -> bool {
    let last = ip.is_ipv4() && ip == range.broadcast();
    range.contains(&ip) && ip != range.network() && !last
}

/// The ServiceCIDRs that some address may come from.
pub fn sources(all: &[Range], ip: IpAddr) -> impl Iterator<Item = &str> {
    all.iter().filter(move |(_, nets)| nets.iter().any(|n| gives(n, ip))).map(|(name, _)| name.as_str())
}

/// True when each address that is in use is another range's, too, or all of this one's ranges lie in others'.
pub fn may_go((name, nets): &Range, all: &[Range], used: &[IpAddr]) -> bool {
    let others = || all.iter().filter(|(other, _)| other != name).flat_map(|(_, nets)| nets);
    nets.iter().all(|net| others().any(|other| other.contains(net)))
        || used.iter().filter(|ip| nets.iter().any(|n| gives(n, **ip))).all(|ip| sources(all, *ip).any(|s| s != name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    fn range(name: &str, nets: &[&str]) -> Range {
        (name.to_owned(), nets.iter().map(|n| n.parse().unwrap()).collect())
    }

    #[test_case(&["10.0.0.0/24"], &[], &[], true; "nobody uses it")]
    #[test_case(&["10.0.0.0/24"], &[], &["10.0.0.7"], false; "somebody does")]
    #[test_case(&["10.0.0.0/24"], &[], &["10.1.0.7"], true; "another one's is not its")]
    #[test_case(&["10.0.0.0/24"], &[], &["10.0.0.0", "10.0.0.255"], true; "its ends are nobody's")]
    #[test_case(&["10.0.0.0/24"], &["10.0.0.0/16"], &["10.0.0.7"], true; "a larger one has all of it")]
    #[test_case(&["10.0.0.0/24"], &["10.0.0.0/24"], &["10.0.0.7"], true; "or an equal one")]
    #[test_case(&["10.0.0.0/24"], &["10.0.0.0/28"], &["10.0.0.7"], true; "a smaller one has what is used")]
    #[test_case(&["10.0.0.0/24"], &["10.0.0.0/28"], &["10.0.0.7", "10.0.0.77"], false; "but not all of it")]
    #[test_case(&["10.0.0.0/24", "fd00::/112"], &["10.0.0.0/16"], &["fd00::1"], false; "one family of two is left")]
    #[test_case(&["10.0.0.0/24", "fd00::/112"], &["10.0.0.0/16"], &["10.0.0.1"], true; "and nobody needs it")]
    fn goes(mine: &[&str], other: &[&str], used: &[&str], want: bool) {
        let mine = range("mine", mine);
        let all = [mine.clone(), range("other", other)];
        let used: Vec<IpAddr> = used.iter().map(|ip| ip.parse().unwrap()).collect();
        assert_eq!(may_go(&mine, &all, &used), want);
    }
}
