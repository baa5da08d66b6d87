//! Networks of a cluster by address family: one of IPv4, and one of IPv6 where the cluster has both.
//!
//! In: text as `10.42.0.0/16` or `10.42.0.0/16,fd42::/56`. Out: the networks, each without its host bits.
//!
//! **Invariant:** IPv4 goes first: it is the family of whoever asks for none.

use std::fmt;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// One network of each family that there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Networks {
    /// Of IPv4.
    pub v4: Ipv4Net,
    /// Of IPv6; none where the cluster has IPv4 only.
    pub v6: Option<Ipv6Net>,
}

impl Networks {
    /// All of them, in their order.
    pub fn iter(&self) -> impl Iterator<Item = IpNet> {
        std::iter::once(IpNet::V4(self.v4)).chain(self.v6.map(IpNet::V6))
    }
}

impl From<Ipv4Net> for Networks {
    fn from(v4: Ipv4Net) -> Self {
        Self { v4, v6: None }
    }
}

impl fmt::Display for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.v6 {
            Some(v6) => write!(f, "{},{v6}", self.v4),
            None => self.v4.fmt(f),
        }
    }
}

impl FromStr for Networks {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed: Result<Vec<IpNet>, _> = text.split(',').map(|n| n.trim().parse::<IpNet>()).collect();
        let nets = parsed.map_err(|_| format!("{text:?} is no network, as 10.42.0.0/16, and no two of them"))?;
        match *nets.as_slice() {
            [IpNet::V4(v4)] => Ok(v4.trunc().into()),
            [IpNet::V4(v4), IpNet::V6(v6)] => Ok(Self { v4: v4.trunc(), v6: Some(v6.trunc()) }),
            [IpNet::V6(_), ..] => Err(format!("{text:?}: an IPv4 network has to be there, and goes first")),
            _ => Err(format!("{text:?}: at most one network of IPv4 and one of IPv6, in this order")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case("10.42.0.0/16", "10.42.0.0/16"; "one")]
    #[test_case("10.42.0.9/16, fd42::1/56", "10.42.0.0/16,fd42::/56"; "both, without host bits")]
    fn reads_what_it_shows(text: &str, shown: &str) {
        let nets: Networks = text.parse().unwrap();
        assert_eq!(nets.to_string(), shown);
        assert_eq!(shown.parse(), Ok(nets));
        assert_eq!(nets.iter().map(|n| n.to_string()).collect::<Vec<_>>().join(","), shown);
    }

    #[test_case("", "is no network")]
    #[test_case("10.42.0.0", "is no network")]
    #[test_case("fd42::/56", "goes first")]
    #[test_case("fd42::/56,10.42.0.0/16", "goes first")]
    #[test_case("10.42.0.0/16,10.43.0.0/16", "at most one network of IPv4")]
    #[test_case("10.42.0.0/16,fd42::/56,fd43::/56", "at most one network of IPv4")]
    fn says_what_is_wrong(text: &str, why: &str) {
        assert!(text.parse::<Networks>().unwrap_err().contains(why));
    }
}
