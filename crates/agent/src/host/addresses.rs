//! The IP addresses of the interfaces, asked from the kernel over rtnetlink.
//!
//! No file tells which IPv4 address belongs to which interface. The request and the answer are laid out as in
//! rtnetlink(7), in the byte order of the machine:
//!
//! ```text
//! nlmsghdr   length u32 | type u16 | flags u16 | sequence u32 | port u32
//! ifaddrmsg  family u8 | prefix length u8 | flags u8 | scope u8 | interface index u32
//! rtattr     length u16 | type u16 | value, padded to 4 bytes          (repeated to the end of the message)
//! ```

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

const HEADER_BYTES: usize = 16;
const ADDRESS_BYTES: usize = 8;
const ATTRIBUTE_BYTES: usize = 4;

const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const NLM_F_REQUEST_DUMP: u16 = 0x301;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_F_TEMPORARY: u32 = 0x01;
const IFA_F_TENTATIVE: u32 = 0x40;

/// The kernel sends at most this much in one datagram of a dump.
const DATAGRAM_BYTES_MAX: usize = 32 << 10;
/// The kernel answers at once; this is only so that nothing can wait for ever.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// The addresses of each interface, by its index.
pub(crate) type Addresses = BTreeMap<u32, Vec<IpAddr>>;

/// All addresses of this network namespace; none where the kernel does not answer.
pub(crate) fn read() -> Addresses {
    dump().unwrap_or_default()
}

fn dump() -> rustix::io::Result<Addresses> {
    // No protocol means NETLINK_ROUTE, which is number 0.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_TIMEOUT))?;
    send(&socket, &request(), SendFlags::empty())?;
    let mut addresses = Addresses::new();
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let (received, _) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        if !collect(&buffer[..received.min(DATAGRAM_BYTES_MAX)], &mut addresses) {
            break;
        }
    }
    for list in addresses.values_mut() {
        list.sort_unstable();
        list.dedup();
    }
    Ok(addresses)
}

fn request() -> Vec<u8> {
    let length = (HEADER_BYTES + ADDRESS_BYTES) as u32;
    let mut bytes = Vec::with_capacity(HEADER_BYTES + ADDRESS_BYTES);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(RTM_GETADDR.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST_DUMP.to_ne_bytes());
    bytes.resize(HEADER_BYTES + ADDRESS_BYTES, 0);
    bytes
}

/// Adds the addresses of one datagram; false when it was the last one, or is not understood.
fn collect(mut datagram: &[u8], addresses: &mut Addresses) -> bool {
    if datagram.is_empty() {
        return false;
    }
    while let (Some(length), Some(kind)) = (u32_at(datagram, 0), u16_at(datagram, 4)) {
        let Some(message) = datagram.get(HEADER_BYTES..length as usize) else { return false };
        // The end of the dump, or an error, which ends it too.
        if kind != RTM_NEWADDR {
            return false;
        }
        if let Some((index, address)) = address(message) {
            addresses.entry(index).or_default().push(address);
        }
        datagram = datagram.get(aligned(length as usize)..).unwrap_or_default();
    }
    true
}

/// The interface and its address, unless that is one of those that come and go: a temporary address of IPv6 changes
/// daily, and a tentative one is not in use yet.
fn address(message: &[u8]) -> Option<(u32, IpAddr)> {
    let family = *message.first()?;
    let mut flags = u32::from(*message.get(2)?);
    let index = u32_at(message, 4)?;
    let (mut local, mut peer) = (None, None);
    let mut attributes = message.get(ADDRESS_BYTES..)?;
    while let (Some(length), Some(kind)) = (u16_at(attributes, 0), u16_at(attributes, 2)) {
        let value = attributes.get(ATTRIBUTE_BYTES..usize::from(length))?;
        match kind {
            IFA_ADDRESS => peer = ip(value),
            IFA_LOCAL => local = ip(value),
            IFA_FLAGS => flags = u32_at(value, 0)?,
            _ => {}
        }
        attributes = attributes.get(aligned(usize::from(length))..).unwrap_or_default();
    }
    let is_ipv6 = u16::from(family) == AddressFamily::INET6.as_raw();
    // For IPv4 the first bit means "secondary", which lasts.
    let is_passing = is_ipv6 && flags & (IFA_F_TEMPORARY | IFA_F_TENTATIVE) != 0;
    // On a point-to-point link the plain address is the other end's.
    let address = local.or(peer)?;
    (!is_passing).then_some((index, address))
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(value).ok()?).into()),
        _ => None,
    }
}

fn aligned(length: usize) -> usize {
    // A length below the header's would never advance.
    length.max(ATTRIBUTE_BYTES).next_multiple_of(4)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NLMSG_DONE: u16 = 3;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = (ATTRIBUTE_BYTES + value.len()) as u16;
        [&length.to_ne_bytes(), &kind.to_ne_bytes()].into_iter().flatten().chain(value).copied().collect()
    }

    fn message(kind: u16, family: AddressFamily, index: u32, attributes: &[Vec<u8>]) -> Vec<u8> {
        let attributes = attributes.concat();
        let length = (HEADER_BYTES + ADDRESS_BYTES + attributes.len()) as u32;
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend([family.as_raw() as u8, 0, 0, 0]);
        bytes.extend(index.to_ne_bytes());
        bytes.extend(attributes);
        bytes
    }

    #[test]
    fn addresses_are_taken_from_a_dump() {
        let fd00_2 = Ipv6Addr::from([0xfd00, 0, 0, 0, 0, 0, 0, 2]);
        let datagram = [
            message(
                RTM_NEWADDR,
                AddressFamily::INET,
                4,
                &[attribute(IFA_ADDRESS, &[192, 0, 2, 1]), attribute(IFA_LOCAL, &[192, 0, 2, 2])],
            ),
            message(RTM_NEWADDR, AddressFamily::INET6, 4, &[attribute(IFA_ADDRESS, &fd00_2.octets())]),
            message(
                RTM_NEWADDR,
                AddressFamily::INET6,
                5,
                &[attribute(IFA_ADDRESS, &fd00_2.octets()), attribute(IFA_FLAGS, &IFA_F_TEMPORARY.to_ne_bytes())],
            ),
            message(RTM_NEWADDR, AddressFamily::INET, 6, &[attribute(IFA_LOCAL, &[1, 2, 3])]),
        ]
        .concat();
        let mut addresses = Addresses::new();
        assert!(collect(&datagram, &mut addresses), "more may follow");
        assert_eq!(addresses, Addresses::from([(4, vec![Ipv4Addr::new(192, 0, 2, 2).into(), fd00_2.into()])]));
        assert!(!collect(&message(NLMSG_DONE, AddressFamily::UNSPEC, 0, &[]), &mut addresses));
    }

    #[test]
    fn torn_datagrams_end_the_dump() {
        let whole = message(RTM_NEWADDR, AddressFamily::INET, 4, &[attribute(IFA_LOCAL, &[192, 0, 2, 2])]);
        for length in 0..whole.len() {
            let mut addresses = Addresses::new();
            collect(&whole[..length], &mut addresses);
            assert!(addresses.is_empty(), "cut after {length}");
        }
        let mut endless = whole.clone();
        endless[HEADER_BYTES + ADDRESS_BYTES..][..2].copy_from_slice(&0u16.to_ne_bytes());
        collect(&endless, &mut Addresses::new());
        endless[..4].copy_from_slice(&0u32.to_ne_bytes());
        assert!(!collect(&endless, &mut Addresses::new()));
    }

    #[test]
    fn the_loopback_address_is_known() {
        let addresses = read();
        let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
        if addresses.values().flatten().next().is_none() {
            eprintln!("skipped: this network namespace has no addresses at all");
            return;
        }
        assert!(addresses.values().flatten().any(|address| *address == loopback));
    }
}
