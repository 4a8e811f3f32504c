//! A wire that can be cut, between machines that have no other: one listens on IPv4 alone, the
//! other on IPv6 alone.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// The longest datagram that UDP has.
const MAX_DATAGRAM: usize = 1 << 16;
/// How long the end of a wire may go unnoticed.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// It ends when it is dropped.
#[derive(Debug)]
pub struct Wire {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    is_cut: AtomicBool,
    is_over: AtomicBool,
    /// The near machine, as soon as it has sent something.
    near: Mutex<Option<SocketAddr>>,
}

impl Wire {
    /// A wire to the machine that listens on `far`, for one that listens on an address like `near`.
    pub fn new(near: IpAddr, far: SocketAddr) -> Self {
        let socket = |ip| {
            let socket = UdpSocket::bind((ip, 0)).expect("a UDP socket on loopback");
            socket.set_read_timeout(Some(LOOK_AGAIN)).expect("a timeout that is not zero");
            Arc::new(socket)
        };
        let (near_end, far_end) = (socket(near), socket(far.ip()));
        let address = near_end.local_addr().expect("the address of a bound socket");
        let state = Arc::new(State::default());
        let (there, from, to) = (state.clone(), near_end.clone(), far_end.clone());
        thread::spawn(move || {
            there.pass(&from, &to, |source| {
                *there.near.lock().expect("nothing panics under it") = Some(source);
                Some(far)
            });
        });
        let back = state.clone();
        thread::spawn(move || {
            back.pass(&far_end, &near_end, |_| *back.near.lock().expect("nothing panics under it"));
        });
        Self { address, state }
    }

    /// Where the far machine is met.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on nothing passes, if `cut`.
    pub fn cut(&self, cut: bool) {
        self.state.is_cut.store(cut, Relaxed);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.state.is_over.store(true, Relaxed);
    }
}

impl State {
    /// Hands on what comes, until the wire ends. `target`: where to, by where it comes from.
    fn pass(
        &self,
        from: &UdpSocket,
        to: &UdpSocket,
        target: impl Fn(SocketAddr) -> Option<SocketAddr>,
    ) {
        let mut datagram = vec![0; MAX_DATAGRAM];
        while !self.is_over.load(Relaxed) {
            // Errors are timeouts, or say that an earlier packet met nobody: no news.
            let Ok((length, source)) = from.recv_from(&mut datagram) else { continue };
            if let Some(target) = target(source).filter(|_| !self.is_cut.load(Relaxed)) {
                // A machine that is off takes nothing; the wire does not mind.
                let _ = to.send_to(&datagram[..length], target);
            }
        }
    }
}
