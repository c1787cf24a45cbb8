//! Networks of trusted addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// Network in CIDR notation (RFC 4632 3.1), or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    /// First address; the bits behind the prefix are zero.
    first: IpAddr,
    /// Number of leading bits that all its addresses share.
    prefix: u8,
}

/// List of networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Vec<Network>);

/// Error of a text that is not a list of [`Networks`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworksError {
    /// An element has another form.
    #[error(
        "`{0}` is not an address or a network: expected a list such as 10.0.0.0/8,127.0.0.1,2001:db8::/32"
    )]
    Form(String),
    /// The address has bits behind the prefix.
    #[error(
        "`{given}` has bits behind its prefix: the network is {meant}, the address alone {alone}"
    )]
    HostBits {
        /// The element.
        given: String,
        /// The network without these bits.
        meant: String,
        /// The address without a prefix.
        alone: IpAddr,
    },
}

impl Network {
    fn masked(address: IpAddr, prefix: u8) -> IpAddr {
        match address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
                Ipv4Addr::from_bits(address.to_bits() & mask).into()
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
                Ipv6Addr::from_bits(address.to_bits() & mask).into()
            }
        }
    }

    fn contains(self, address: IpAddr) -> bool {
        address.is_ipv4() == self.first.is_ipv4()
            && Self::masked(address, self.prefix) == self.first
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

impl FromStr for Network {
    type Err = NetworksError;

    fn from_str(text: &str) -> Result<Self, NetworksError> {
        let wrong = || NetworksError::Form(text.escape_debug().to_string());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => longest,
            Some(digits) => digits
                .parse()
                .ok()
                .filter(|&n| n <= longest && digits.bytes().all(|byte| byte.is_ascii_digit()))
                .ok_or_else(wrong)?,
        };
        let network = Self { first: Self::masked(address, prefix), prefix };
        if network.first != address {
            return Err(NetworksError::HostBits {
                given: text.to_owned(),
                meant: network.to_string(),
                alone: address,
            });
        }
        Ok(network)
    }
}

impl FromStr for Networks {
    type Err = NetworksError;

    fn from_str(text: &str) -> Result<Self, NetworksError> {
        text.split(',').map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

impl Networks {
    /// Returns whether an address is in one of them. An IPv4 address that stands in an IPv6 one
    /// counts as the IPv4 address.
    #[must_use]
    pub fn contain(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(address))
    }

    /// Returns whether a peer is in one of them.
    #[must_use]
    pub fn contain_peer(&self, peer: Option<SocketAddr>) -> bool {
        peer.is_some_and(|peer| self.contain(peer.ip()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(text: &str) -> Networks {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn networks_have_their_addresses_and_no_others() {
        for (list, within, beyond) in [
            ("10.0.0.0/8", "10.255.255.255", "11.0.0.0"),
            ("127.0.0.1", "127.0.0.1", "127.0.0.2"),
            ("192.0.2.128/25", "192.0.2.128", "192.0.2.127"),
            ("0.0.0.0/0", "203.0.113.9", "::1"),
            ("::/0", "2001:db8::1", "127.0.0.1"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::1"),
            ("10.0.0.0/8,::1", "::1", "::2"),
            ("127.0.0.1", "::ffff:127.0.0.1", "::ffff:127.0.0.2"),
        ] {
            let address = |text: &str| text.parse::<IpAddr>().expect("an address");
            assert!(networks(list).contain(address(within)), "{within} in {list}");
            assert!(!networks(list).contain(address(beyond)), "{beyond} in {list}");
        }
        assert!(!Networks::default().contain_peer("127.0.0.1:1".parse().ok()));
        assert!(networks("127.0.0.1").contain_peer("127.0.0.1:1".parse().ok()));
        assert!(!networks("0.0.0.0/0").contain_peer(None));
    }

    #[test]
    fn what_is_no_network_is_named() {
        for wrong in ["", "10.0.0.0/33", "::1/129", "10.0.0.0/", "10.0.0.0/+8", "box", "1.2.3", ","]
        {
            let error = wrong.parse::<Networks>().expect_err(wrong).to_string();
            assert!(error.contains("10.0.0.0/8,127.0.0.1"), "{error}");
        }
        let error = "127.0.0.1,10.1.2.3/8".parse::<Networks>().expect_err("bits").to_string();
        assert!(error.contains("`10.1.2.3/8`") && error.contains("is 10.0.0.0/8,"), "{error}");
    }
}
