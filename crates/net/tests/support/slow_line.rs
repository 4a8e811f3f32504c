//! A line between two devices that is slow, far, short of room, lossy, or cut: a UDP forwarder on
//! loopback.
//!
//! Devices that are to meet by the line alone listen on addresses of two families: then no packet
//! goes from one to the other by itself, whatever addresses they tell each other.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The longest datagram that UDP has.
const MAX_DATAGRAM: usize = 1 << 16;
/// What IP and UDP put in front of each datagram.
const HEADER_BYTES: u64 = 28;

/// What a line is like, the same in both directions.
#[derive(Clone, Copy, Debug)]
pub struct Quality {
    /// Bytes a second that pass.
    pub bytes_per_s: u64,
    /// How long a packet is on its way: half of the round trip.
    pub delay: Duration,
    /// Bytes that wait before the line at most; what comes when they do is dropped.
    pub queue_bytes: u64,
    /// Of so many packets one is lost, by dice; 0: none.
    pub one_lost_of: u64,
    /// The seed of the dice.
    pub seed: u64,
}

/// A line to a device. It ends when it is dropped.
#[derive(Debug)]
pub struct Line {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    quality: Quality,
    /// The device that the line leads to.
    end: SocketAddr,
    /// Whoever sent last to the line's address.
    caller: Mutex<Option<SocketAddr>>,
    /// Bytes that both sides sent, those included that were dropped.
    sent: AtomicU64,
    is_cut: AtomicBool,
    is_over: AtomicBool,
}

impl Line {
    /// A line to the device that listens on `end`, for one that listens on an address like
    /// `from`.
    ///
    /// # Panics
    /// When the system gives no socket.
    pub fn new(end: SocketAddr, from: IpAddr, quality: Quality) -> Self {
        let socket = |ip| Arc::new(UdpSocket::bind((ip, 0)).expect("a UDP socket on loopback"));
        let (front, back) = (socket(from), socket(end.ip()));
        let shared = Arc::new(Shared {
            quality,
            end,
            caller: Mutex::new(None),
            sent: AtomicU64::new(0),
            is_cut: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
        });
        let addr = front.local_addr().expect("the address of a bound socket");
        for way in [Way::There, Way::Back] {
            let (from, to) = match way {
                Way::There => (front.clone(), back.clone()),
                Way::Back => (back.clone(), front.clone()),
            };
            let (under_way, arrivals) = channel();
            let taking = shared.clone();
            thread::spawn(move || taking.take(way, &from, &under_way));
            let giving = shared.clone();
            thread::spawn(move || giving.give(way, &to, &arrivals));
        }
        Self { addr, shared }
    }

    /// Where the device at its end is met.
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Bytes that both sides have sent over it, headers and what was dropped included.
    pub fn sent_bytes(&self) -> u64 {
        self.shared.sent.load(Relaxed)
    }

    /// From now on nothing passes, if `cut`.
    pub fn cut(&self, cut: bool) {
        self.shared.is_cut.store(cut, Relaxed);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Relaxed);
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    There,
    Back,
}

/// A packet, and when it arrives.
type UnderWay = (Instant, Vec<u8>);

impl Shared {
    /// Takes packets of one direction until the line ends.
    fn take(&self, way: Way, from: &UdpSocket, under_way: &Sender<UnderWay>) {
        /// How long the end of a line may go unnoticed.
        const LOOK_AGAIN: Duration = Duration::from_millis(200);
        from.set_read_timeout(Some(LOOK_AGAIN)).expect("a timeout that is not zero");
        let mut narrows = Narrows::new(self.quality, way);
        let mut datagram = vec![0; MAX_DATAGRAM];
        while !self.is_over.load(Relaxed) {
            // Errors are timeouts, or say that an earlier packet met nobody: no news.
            let Ok((length, source)) = from.recv_from(&mut datagram) else { continue };
            if way == Way::There {
                *self.caller.lock().unwrap_or_else(PoisonError::into_inner) = Some(source);
            }
            let bytes = length as u64 + HEADER_BYTES;
            let passes_at = narrows.enter(bytes, Instant::now());
            let passes_at = passes_at.filter(|_| !self.is_cut.load(Relaxed));
            self.sent.fetch_add(bytes, Relaxed);
            let Some(passes_at) = passes_at else { continue };
            let packet = (passes_at + self.quality.delay, datagram[..length].to_vec());
            if under_way.send(packet).is_err() {
                return;
            }
        }
    }

    /// Hands packets of one direction over when they arrive.
    fn give(&self, way: Way, to: &UdpSocket, arrivals: &Receiver<UnderWay>) {
        while let Ok((at, packet)) = arrivals.recv() {
            thread::sleep(at.saturating_duration_since(Instant::now()));
            if self.is_cut.load(Relaxed) {
                continue;
            }
            let target = match way {
                Way::There => Some(self.end),
                Way::Back => *self.caller.lock().unwrap_or_else(PoisonError::into_inner),
            };
            if let Some(target) = target {
                // A device that is gone takes nothing; the line does not mind.
                let _: io::Result<usize> = to.send_to(&packet, target);
            }
        }
    }
}

/// Where packets of one direction wait for those before them.
struct Narrows {
    quality: Quality,
    /// The state of the dice: `xorshift64`.
    dice: u64,
    /// When all that has entered will have passed.
    free_at: Option<Instant>,
}

impl Narrows {
    /// Nothing waits.
    fn new(quality: Quality, way: Way) -> Self {
        let dice = (2 * quality.seed + way as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        Self { quality, dice, free_at: None }
    }

    /// A packet comes: when it will have passed. `None`: it is lost, or there is no room for it.
    fn enter(&mut self, bytes: u64, now: Instant) -> Option<Instant> {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        if self.dice.checked_rem(self.quality.one_lost_of) == Some(0) {
            return None;
        }
        let takes = |bytes: u64| {
            Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / self.quality.bytes_per_s)
        };
        let passes_at = self.free_at.unwrap_or(now).max(now) + takes(bytes);
        if passes_at > now + takes(self.quality.queue_bytes) {
            return None;
        }
        self.free_at = Some(passes_at);
        Some(passes_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Quality = Quality {
        bytes_per_s: 1 << 30,
        delay: Duration::ZERO,
        queue_bytes: 1 << 20,
        one_lost_of: 0,
        seed: 1,
    };

    fn socket(ip: &str) -> UdpSocket {
        let socket = UdpSocket::bind((ip, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        socket
    }

    #[test]
    fn packets_pass_both_ways_between_families() {
        let (end, caller) = (socket("127.0.0.1"), socket("::1"));
        let line = Line::new(end.local_addr().unwrap(), "::1".parse().unwrap(), QUICK);
        caller.send_to(b"there", line.addr()).unwrap();
        let mut bytes = [0; 16];
        let (length, seen_from) = end.recv_from(&mut bytes).unwrap();
        assert_eq!(&bytes[..length], b"there");
        end.send_to(b"back", seen_from).unwrap();
        let (length, from) = caller.recv_from(&mut bytes).unwrap();
        assert_eq!((&bytes[..length], from), (&b"back"[..], line.addr()));
        assert_eq!(line.sent_bytes(), 9 + 2 * HEADER_BYTES);
    }

    #[test]
    fn a_cut_drops_and_counts() {
        let (end, caller) = (socket("127.0.0.1"), socket("::1"));
        let line = Line::new(end.local_addr().unwrap(), "::1".parse().unwrap(), QUICK);
        line.cut(true);
        caller.send_to(b"lost", line.addr()).unwrap();
        while line.sent_bytes() < 4 + HEADER_BYTES {
            thread::yield_now();
        }
        line.cut(false);
        caller.send_to(b"kept", line.addr()).unwrap();
        let mut bytes = [0; 16];
        let (length, _) = end.recv_from(&mut bytes).unwrap();
        assert_eq!(&bytes[..length], b"kept");
    }

    #[test]
    fn packets_pass_at_the_rate_and_wait_within_the_room() {
        let quality = Quality { bytes_per_s: 1000, queue_bytes: 500, ..QUICK };
        let (mut narrows, now) = (Narrows::new(quality, Way::There), Instant::now());
        let after = |ms| now + Duration::from_millis(ms);
        for n in 1..=5 {
            assert_eq!(narrows.enter(100, now), Some(after(100 * n)));
        }
        assert_eq!(narrows.enter(100, now), None, "there is room for five");
        assert_eq!(narrows.enter(100, after(100)), Some(after(600)), "one has passed");
        assert_eq!(narrows.enter(100, after(9000)), Some(after(9100)), "nothing is saved up");
    }

    #[test]
    fn about_as_many_are_lost_as_was_asked() {
        let quality = Quality { one_lost_of: 50, ..QUICK };
        let (mut narrows, now) = (Narrows::new(quality, Way::Back), Instant::now());
        let lost = (0..5000).filter(|_| narrows.enter(1, now).is_none()).count();
        assert!((50..200).contains(&lost), "{lost} of 5000");
    }
}
