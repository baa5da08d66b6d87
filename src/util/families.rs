//! Networks of a cluster by address family: one of IPv4, and one of IPv6 where the cluster has both.
//!
//! In: text as `10.42.0.0/16` or `10.42.0.0/16,fd42::/56`. Out: the networks, each without its host bits.
//!
//! **Invariant:** IPv4 goes first: it is the family of whoever asks for none.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, the one that goes first first.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// Of an address.
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// True for an address of this family.
    pub fn has(self, ip: &IpAddr) -> bool {
        Self::of(*ip) == self
    }

    /// Of what is known to be an address, without a look at all of it.
    pub fn of_text(ip: &str) -> Self {
        if ip.contains(':') { Self::V6 } else { Self::V4 }
    }

    /// By its name in the API.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|f| f.name() == name)
    }

    /// As the API has it, `IPv4` or `IPv6`.
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

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

    /// The network of a family.
    pub fn of(&self, family: Family) -> Option<IpNet> {
        match family {
            Family::V4 => Some(IpNet::V4(self.v4)),
            Family::V6 => self.v6.map(IpNet::V6),
        }
    }

    /// The families that there are.
    pub fn families(&self) -> impl Iterator<Item = Family> {
        self.iter().map(|net| Family::of(net.addr()))
    }
}

impl Serialize for Networks {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Networks {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
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
        assert_eq!(nets.families().filter_map(|f| nets.of(f)).collect::<Vec<_>>(), nets.iter().collect::<Vec<_>>());
        let written = serde_json::to_string(&nets).unwrap();
        assert_eq!(serde_json::from_str::<Networks>(&written).unwrap(), nets);
    }

    #[test_case("10.0.0.1", Family::V4)]
    #[test_case("fd00::1", Family::V6)]
    fn families_have_names(ip: &str, want: Family) {
        assert_eq!((Family::of_text(ip), Family::of(ip.parse().unwrap())), (want, want));
        assert_eq!((Family::named(want.name()), want.other().other()), (Some(want), want));
        assert_eq!(Family::named("IPv5"), None);
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
