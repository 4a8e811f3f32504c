//! The addresses of this machine that connections may leave from.
//!
//! iroh tells where others may dial this machine. It stops telling some addresses that go on to
//! carry what stands: temporary IPv6 ones that are to be used for nothing new, and those of a wire
//! of its own as soon as there are others. So one that is told no more is gone only when it can no
//! longer be bound. One that the config binds is told for ever, and so never gone.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use iroh::{EndpointAddr, Watcher};
use n0_future::StreamExt;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::shared::Shared;

/// How often those are looked at that are told no more and yet here. Nobody tells when they go: the
/// address of an interface that is down is taken away a moment later, a temporary one days later.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// The addresses of this machine. Rings when they change, or its relay does, until the endpoint
/// closes.
pub(crate) fn watch(shared: &Arc<Shared>) -> watch::Receiver<BTreeSet<IpAddr>> {
    let mut watcher = shared.endpoint.watch_addr();
    let mut told = ips(&watcher.get());
    let (changed, network) = watch::channel(told.clone());
    let (mut addrs, cancel) = (watcher.stream_updates_only(), shared.cancel.clone());
    shared.tasks.spawn(async move {
        // Ends with the endpoint, too.
        let watch = async {
            loop {
                let is_more_here = changed.borrow().len() > told.len();
                let is_told = tokio::select! {
                    addr = addrs.next() => match addr {
                        Some(addr) => {
                            told = ips(&addr);
                            true
                        }
                        None => return,
                    },
                    () = sleep(LOOK_INTERVAL), if is_more_here => false,
                };
                let now = present(&changed.borrow(), &told, is_here);
                changed.send_if_modified(|known| {
                    let is_other = *known != now;
                    *known = now;
                    is_told || is_other
                });
            }
        };
        tokio::select! {
            () = cancel.cancelled() => {}
            () = watch => {}
        }
    });
    network
}

/// Those of loopback, which are told only where there are no others, do not come and go.
fn ips(addr: &EndpointAddr) -> BTreeSet<IpAddr> {
    let ips = addr.ip_addrs().map(|addr| addr.ip().to_canonical());
    ips.filter(|ip| !ip.is_loopback()).collect()
}

/// The addresses that are `told`, and those `known` before that are still here.
fn present(
    known: &BTreeSet<IpAddr>,
    told: &BTreeSet<IpAddr>,
    is_here: impl Fn(IpAddr) -> bool,
) -> BTreeSet<IpAddr> {
    let untold = known.difference(told).copied().filter(|&ip| is_here(ip));
    told.iter().copied().chain(untold).collect()
}

/// Whether this machine has the address. Where that cannot be told, it has.
fn is_here(ip: IpAddr) -> bool {
    let bound = UdpSocket::bind((ip, 0));
    !bound.is_err_and(|error| error.kind() == ErrorKind::AddrNotAvailable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ips: &[&str]) -> BTreeSet<IpAddr> {
        ips.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    #[test]
    fn what_is_told_no_more_and_can_be_bound_is_not_gone() {
        let here = set(&["2001:db8::1", "169.254.1.2"]);
        let is_here = |ip| here.contains(&ip);
        // A temporary one that is to be used no more, one of a wire, and one that is taken away.
        let known = set(&["2001:db8::1", "169.254.1.2", "192.0.2.1", "192.0.2.2"]);
        let told = set(&["192.0.2.2", "192.0.2.3"]);
        let now = present(&known, &told, is_here);
        assert_eq!(now, set(&["2001:db8::1", "169.254.1.2", "192.0.2.2", "192.0.2.3"]));
        // It is remembered until it goes, and what is told need not be bound: a router may have it.
        assert_eq!(present(&now, &told, is_here), now);
        assert_eq!(present(&now, &told, |_| false), told);
        assert_eq!(present(&BTreeSet::new(), &told, |_| true), told);
    }

    #[test]
    fn only_what_this_machine_does_not_have_is_not_here() {
        assert!(is_here("127.0.0.1".parse().unwrap()));
        // Of no machine: for documentation.
        assert!(!is_here("192.0.2.1".parse().unwrap()));
        // It could be bound with a scope only.
        #[cfg(target_os = "linux")]
        assert!(is_here("fe80::1".parse().unwrap()));
    }
}
