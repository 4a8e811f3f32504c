//! Whether the ports of a config are free, asked before anything is written.

use std::io;
use std::net::SocketAddr;

use rustix::net::{AddressFamily, SocketType, bind, socket, sockopt};

/// The first of `addresses` that another program listens on. Other errors are left to whoever
/// opens the address for good.
pub(super) fn first_busy(addresses: &[SocketAddr]) -> Option<(SocketAddr, io::Error)> {
    addresses.iter().find_map(|&address| match try_bind(address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Some((address, error)),
        _ => None,
    })
}

fn try_bind(address: SocketAddr) -> io::Result<()> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let probe = socket(family, SocketType::DGRAM, None)?;
    if address.is_ipv6() {
        // As the endpoint will: its IPv4 and IPv6 sockets stand side by side on one port.
        sockopt::set_ipv6_v6only(&probe, true)?;
    }
    Ok(bind(&probe, &address)?)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn a_busy_port_is_found() {
        let taken = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let taken_address = taken.local_addr().expect("an address");
        let free: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        let found = first_busy(&[free, taken_address]).map(|(address, _)| address);
        assert_eq!(found, Some(taken_address));
        drop(taken);
        assert!(first_busy(&[free, taken_address]).is_none());
    }
}
