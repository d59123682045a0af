//! Which addresses a source may be reached at: a pure decision over the concrete address that is about to be
//! connected to. Forms that carry an IPv4 address inside an IPv6 one are unwrapped first, so that no notation
//! gets around a rule. This module resolves no names and opens no sockets.
//!
//! Link-local, metadata, multicast, broadcast, reserved and unspecified addresses are never allowed, by no
//! setting. Loopback and the cluster's own ranges are allowed only where the rules say so. Everything else,
//! private ranges included, is allowed: endpoints are written by the admin.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::Refusal;

/// A range of addresses, written `10.0.0.0/8` or `fd00::/8`; a bare address is a range of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    base: IpAddr,
    bits: u8,
}

/// A text is not a range of addresses.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{} is not a range of addresses such as 10.0.0.0/8", crate::path::Escaped(.0))]
pub struct BadCidr(pub String);

impl Cidr {
    /// Whether the address lies in the range; families never match each other.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.base, address) {
            (IpAddr::V4(base), IpAddr::V4(address)) => same_prefix(
                base.to_bits().into(),
                address.to_bits().into(),
                32,
                self.bits,
            ),
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                same_prefix(base.to_bits(), address.to_bits(), 128, self.bits)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

fn same_prefix(left: u128, right: u128, width: u32, bits: u8) -> bool {
    let shift = width.saturating_sub(bits.into());
    let cut = |value: u128| value.checked_shr(shift).unwrap_or(0);
    cut(left) == cut(right)
}

impl FromStr for Cidr {
    type Err = BadCidr;
    fn from_str(text: &str) -> Result<Self, BadCidr> {
        let bad = || BadCidr(text.to_owned());
        let (base, bits) = match text.split_once('/') {
            Some((base, bits)) => {
                // A number could have a sign.
                let is_plain = bits.bytes().all(|byte| byte.is_ascii_digit());
                let bits = bits.parse::<u8>().ok().filter(|_| is_plain);
                (base, Some(bits.ok_or_else(bad)?))
            }
            None => (text, None),
        };
        let base: IpAddr = base.parse().map_err(|_| bad())?;
        let width = if base.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(width);
        if bits > width {
            return Err(bad());
        }
        Ok(Self { base, bits })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.bits)
    }
}

impl serde::Serialize for Cidr {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Cidr {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// What a source may connect to beyond the default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressRules {
    /// Loopback is allowed.
    pub allow_loopback: bool,
    /// Ranges that are allowed although they are loopback or the cluster's own.
    pub allowed: Vec<Cidr>,
    /// The cluster's service and pod ranges: refused unless `allowed`.
    pub cluster: Vec<Cidr>,
}

/// What kind of address the rules refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// `0.0.0.0/8` or `::`.
    Unspecified,
    /// `169.254.0.0/16` or `fe80::/10`.
    LinkLocal,
    /// A cloud's instance metadata service.
    Metadata,
    /// Multicast.
    Multicast,
    /// Broadcast or reserved.
    Reserved,
    /// `127.0.0.0/8` or `::1`.
    Loopback,
    /// Service or pod range of the cluster.
    Cluster,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unspecified => "an unspecified address, which no source may use",
            Self::LinkLocal => "a link-local address, which no source may use",
            Self::Metadata => "an instance metadata address, which no source may use",
            Self::Multicast => "a multicast address, which no source may use",
            Self::Reserved => "a reserved address, which no source may use",
            Self::Loopback => "a loopback address, which this source does not allow",
            Self::Cluster => "an address inside the cluster, which this source does not allow",
        })
    }
}

/// Metadata services outside the link-local range: AWS (IMDS and pod identity), Google, Alibaba, Azure, Oracle.
const METADATA: [(&str, u8); 5] = [
    ("fd00:ec2::", 32),
    ("fd20:ce::254", 128),
    ("100.100.100.200", 32),
    ("168.63.129.16", 32),
    ("192.0.0.192", 32),
];

/// Decides whether `address` may be connected to; the class says why not.
pub fn decide(address: IpAddr, rules: &AddressRules) -> Result<(), Class> {
    let address = unwrap(address);
    if let Some(class) = never(address) {
        return Err(class);
    }
    if rules.allowed.iter().any(|range| range.contains(address)) {
        return Ok(());
    }
    if address.is_loopback() && !rules.allow_loopback {
        return Err(Class::Loopback);
    }
    if rules.cluster.iter().any(|range| range.contains(address)) {
        return Err(Class::Cluster);
    }
    Ok(())
}

/// [`decide`] with a sentence that names the host as it was written.
pub fn check(host: &str, address: IpAddr, rules: &AddressRules) -> Result<(), Refusal> {
    decide(address, rules).map_err(|class| {
        let host = crate::path::Escaped(host);
        Refusal::Denied(format!("host {host} is at {address}: {class}"))
    })
}

fn never(address: IpAddr) -> Option<Class> {
    if METADATA.iter().any(|(base, bits)| {
        base.parse()
            .is_ok_and(|base| Cidr { base, bits: *bits }.contains(address))
    }) {
        return Some(Class::Metadata);
    }
    match address {
        IpAddr::V4(v4) => never_v4(v4),
        IpAddr::V6(v6) => never_v6(v6),
    }
}

fn never_v4(address: Ipv4Addr) -> Option<Class> {
    let first = address.octets()[0];
    match first {
        0 => Some(Class::Unspecified),
        _ if address.is_link_local() => Some(Class::LinkLocal),
        224..=239 => Some(Class::Multicast),
        240..=255 => Some(Class::Reserved),
        _ => None,
    }
}

fn never_v6(address: Ipv6Addr) -> Option<Class> {
    let segments = address.segments();
    match segments {
        [0, 0, 0, 0, 0, 0, 0, 0] => Some(Class::Unspecified),
        [first, ..] if first & 0xffc0 == 0xfe80 => Some(Class::LinkLocal),
        [first, ..] if first & 0xff00 == 0xff00 => Some(Class::Multicast),
        // Teredo and the local-use NAT64 prefix hide an IPv4 address at a place that depends on the operator.
        [0x2001, 0, ..] | [0x64, 0xff9b, 1, ..] => Some(Class::Reserved),
        _ => None,
    }
}

/// The IPv4 address inside an IPv4-mapped, IPv4-compatible, NAT64 or 6to4 address; others as they are.
fn unwrap(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else {
        return address;
    };
    let join = |high: u16, low: u16| {
        IpAddr::V4(Ipv4Addr::from_bits(
            (u32::from(high) << 16) | u32::from(low),
        ))
    };
    match v6.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => address,
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => join(high, low),
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(address: &str, rules: &AddressRules) -> Option<Class> {
        decide(address.parse().unwrap(), rules).err()
    }

    #[test]
    fn some_addresses_are_never_allowed_by_no_setting() {
        let rules = AddressRules {
            allow_loopback: true,
            allowed: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()],
            cluster: Vec::new(),
        };
        for (address, expected) in [
            ("0.0.0.0", Class::Unspecified),
            ("0.1.2.3", Class::Unspecified),
            ("::", Class::Unspecified),
            ("169.254.169.254", Class::LinkLocal),
            ("169.254.170.2", Class::LinkLocal),
            ("fe80::1", Class::LinkLocal),
            ("febf::1", Class::LinkLocal),
            ("fd00:ec2::254", Class::Metadata),
            ("fd00:ec2::23", Class::Metadata),
            ("fd20:ce::254", Class::Metadata),
            ("100.100.100.200", Class::Metadata),
            ("168.63.129.16", Class::Metadata),
            ("224.0.0.1", Class::Multicast),
            ("ff02::1", Class::Multicast),
            ("240.0.0.1", Class::Reserved),
            ("255.255.255.255", Class::Reserved),
            ("2001:0:1::1", Class::Reserved),
            ("64:ff9b:1::a9fe:a9fe", Class::Reserved),
            ("::ffff:169.254.169.254", Class::LinkLocal),
            ("::169.254.169.254", Class::LinkLocal),
            ("::ffff:0:169.254.169.254", Class::LinkLocal),
            ("64:ff9b::169.254.169.254", Class::LinkLocal),
            ("64:ff9b::6464:64c8", Class::Metadata),
            ("2002:a9fe:a9fe::1", Class::LinkLocal),
        ] {
            assert_eq!(class(address, &rules), Some(expected), "{address}");
        }
    }

    #[test]
    fn loopback_needs_a_setting_in_every_notation() {
        let closed = AddressRules::default();
        let open = AddressRules {
            allow_loopback: true,
            ..AddressRules::default()
        };
        let listed = AddressRules {
            allowed: vec!["127.0.0.0/8".parse().unwrap(), "::1".parse().unwrap()],
            ..AddressRules::default()
        };
        for address in [
            "127.0.0.1",
            "127.255.0.1",
            "::1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
        ] {
            assert_eq!(class(address, &closed), Some(Class::Loopback), "{address}");
            assert_eq!(class(address, &open), None, "{address}");
            assert_eq!(class(address, &listed), None, "{address}");
        }
    }

    #[test]
    fn private_ranges_are_allowed_and_cluster_ranges_only_when_listed() {
        let mut rules = AddressRules {
            cluster: vec!["10.96.0.0/12".parse().unwrap()],
            ..AddressRules::default()
        };
        assert_eq!(class("10.0.0.1", &rules), None);
        assert_eq!(class("192.168.1.1", &rules), None);
        assert_eq!(class("fd12::1", &rules), None);
        assert_eq!(class("52.218.0.1", &rules), None);
        assert_eq!(class("10.96.0.10", &rules), Some(Class::Cluster));
        assert_eq!(class("::ffff:10.96.0.10", &rules), Some(Class::Cluster));
        rules.allowed.push("10.96.0.10/32".parse().unwrap());
        assert_eq!(class("10.96.0.10", &rules), None);
        assert_eq!(class("10.96.0.11", &rules), Some(Class::Cluster));
    }

    #[test]
    fn ranges_are_parsed_and_shown() {
        for good in ["10.0.0.0/8", "::/0", "fd00::/8", "0.0.0.0/0"] {
            assert_eq!(good.parse::<Cidr>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "10.0.0.0/33",
            "10.0.0/8",
            "::/129",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "10.0.0.0/",
            "0x7f.1",
        ] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
        assert!(
            !"10.0.0.0/8"
                .parse::<Cidr>()
                .unwrap()
                .contains("::ffff:10.0.0.1".parse().unwrap())
        );
    }

    #[test]
    fn the_refusal_names_host_and_address() {
        let refusal = check(
            "evil.test",
            "169.254.169.254".parse().unwrap(),
            &AddressRules::default(),
        )
        .unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "host \"evil.test\" is at 169.254.169.254: a link-local address, which no source may use"
        );
    }
}
