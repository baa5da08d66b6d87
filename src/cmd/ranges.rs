//! What a cluster's ranges of IPv6 have to be, said before anything begins.
//!
//! In: `--cluster-cidr` and `--service-cidr`. Out: nothing, or what is wrong with which of them.
//! Rules: upstream `pkg/controller/nodeipam` (what a node gets, and how many may), `pkg/registry/core/service/ipallocator`.

use anyhow::bail;
use ipnet::Ipv6Net;

use crate::util::families::Networks;

/// Prefix of what a node gets.
const NODE_PREFIX: u8 = 64;
/// A range holds at most this power of two of nodes.
const NODES_BITS: u8 = 16;
/// The shortest prefix of Services.
const SERVICES_PREFIX: u8 = 64;

/// Refuses ranges that make no dual-stack cluster; those of IPv4 alone always pass.
pub fn check(pods: &Networks, services: &Networks) -> anyhow::Result<()> {
    let (pods, services) = match (pods.v6, services.v6) {
        (None, None) => return Ok(()),
        (Some(pods), Some(services)) => (pods, services),
        (Some(_), None) => {
            bail!("--cluster-cidr has a range of IPv6 and --service-cidr has none; give both or neither")
        }
        (None, Some(_)) => {
            bail!("--service-cidr has a range of IPv6 and --cluster-cidr has none; give both or neither")
        }
    };
    let longest = NODE_PREFIX - NODES_BITS;
    match pods.prefix_len() {
        long if long > NODE_PREFIX => {
            bail!("--cluster-cidr {pods}: a node gets a /{NODE_PREFIX} of it, so it must be /{NODE_PREFIX} or larger")
        }
        short if short < longest => bail!("--cluster-cidr {pods}: must be /{longest} or smaller"),
        _ => {}
    }
    match services.prefix_len() {
        128 => bail!("--service-cidr {services}: has no address for a Service"),
        short if short < SERVICES_PREFIX => bail!("--service-cidr {services}: must be /{SERVICES_PREFIX} or smaller"),
        _ => {}
    }
    if overlap(&pods, &services) {
        bail!("--cluster-cidr {pods} and --service-cidr {services} have addresses in common");
    }
    Ok(())
}

fn overlap(a: &Ipv6Net, b: &Ipv6Net) -> bool {
    a.contains(b) || b.contains(a)
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    const V4: [&str; 2] = ["10.42.0.0/16", "10.43.0.0/16"];

    #[test_case("", "", None; "of IPv4 alone")]
    #[test_case("fd42::/56", "fd43::/112", None; "of both")]
    #[test_case("fd42::/48", "fd43::/64", None; "as large as can be")]
    #[test_case("fd42::/64", "fd43::/127", None; "as small as can be")]
    #[test_case("fd42::/56", "", Some("--service-cidr has none"))]
    #[test_case("", "fd43::/112", Some("--cluster-cidr has none"))]
    #[test_case(
        "fd42::/65",
        "fd43::/112",
        Some("--cluster-cidr fd42::/65: a node gets a /64 of it, so it must be /64 or larger")
    )]
    #[test_case("fd42::/47", "fd43::/112", Some("--cluster-cidr fd42::/47: must be /48 or smaller"))]
    #[test_case("fd42::/56", "fd43::/63", Some("--service-cidr fd43::/63: must be /64 or smaller"))]
    #[test_case("fd42::/56", "fd43::/128", Some("--service-cidr fd43::/128: has no address"))]
    #[test_case("fd42::/56", "fd42::/112", Some("addresses in common"))]
    fn ranges(pods: &str, services: &str, why: Option<&str>) {
        let of = |v4: &str, v6: &str| if v6.is_empty() { v4.parse() } else { format!("{v4},{v6}").parse() }.unwrap();
        let got = check(&of(V4[0], pods), &of(V4[1], services)).map_err(|e| e.to_string());
        match (got, why) {
            (Ok(()), None) => {}
            (Err(got), Some(why)) => assert!(got.contains(why), "{got}"),
            (got, _) => panic!("{got:?}"),
        }
    }
}
