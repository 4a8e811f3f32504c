//! Whether the addresses of a config can be listened on, asked before anything is written or stopped.

use std::io;
use std::net::SocketAddr;

use rustix::net::{AddressFamily, SocketType, bind, socket, sockopt};

/// The first of `addresses` that cannot be listened on. Where the port is one of those of `own`,
/// which this daemon has open itself, that it is in use says nothing.
pub(super) fn first_refused(
    addresses: &[SocketAddr],
    own: &[SocketAddr],
) -> Option<(SocketAddr, io::Error)> {
    addresses.iter().find_map(|&address| {
        let error = try_bind(address).err()?;
        let is_own = own.iter().any(|own| own.port() == address.port());
        let is_forgiven = is_own && error.kind() == io::ErrorKind::AddrInUse;
        (!is_forgiven).then_some((address, error))
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

    fn refused(addresses: &[SocketAddr], own: &[SocketAddr]) -> Option<SocketAddr> {
        first_refused(addresses, own).map(|(address, _)| address)
    }

    #[test]
    fn a_busy_port_is_found() {
        let taken = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let taken_address = taken.local_addr().expect("an address");
        let free: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        assert_eq!(refused(&[free, taken_address], &[free]), Some(taken_address));
        let any = SocketAddr::new("0.0.0.0".parse().expect("an address"), taken_address.port());
        assert_eq!(refused(&[any], &[free]), Some(any));
        assert_eq!(refused(&[any], &[taken_address]), None, "the port is the daemon's own");
        drop(taken);
        assert_eq!(refused(&[free, taken_address], &[]), None);
    }

    #[test]
    fn an_address_of_another_machine_is_found() {
        let absent: SocketAddr = "192.0.2.1:0".parse().expect("an address");
        assert_eq!(refused(&[absent], &[absent]), Some(absent));
    }
}
