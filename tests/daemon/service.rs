//! What a service manager is told.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Instant;

use ark_testkit::daemon::{Daemon, Machine};
use ark_testkit::tree::await_condition;
use rustix::process::Signal;

use super::{LIMIT, alone};

/// A service manager that listens to what a daemon tells it.
struct Manager {
    path: PathBuf,
    socket: UnixDatagram,
}

impl Manager {
    fn new(machine: &Machine) -> Self {
        let path = machine.directory().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_read_timeout(Some(LIMIT)).expect("a timeout");
        Self { path, socket }
    }

    fn start<'a>(&self, machine: &'a Machine) -> Daemon<'a> {
        let mut command = machine.command(&[]);
        command.env("NOTIFY_SOCKET", &self.path).env("WATCHDOG_USEC", "200000");
        machine.start_as(command.env_remove("WATCHDOG_PID"))
    }

    fn is_told(&self, expected: &str) {
        let start = Instant::now();
        let mut buffer = [0; 1024];
        while start.elapsed() < LIMIT {
            let length = self.socket.recv(&mut buffer).expect("a message");
            let text = String::from_utf8_lossy(&buffer[..length]);
            if text.lines().any(|line| line == expected) {
                return;
            }
        }
        panic!("{expected} was not told");
    }

    /// Forgets what was told so far.
    fn forget(&self) {
        self.socket.set_nonblocking(true).expect("a socket");
        while self.socket.recv(&mut [0; 1024]).is_ok() {}
        self.socket.set_nonblocking(false).expect("a socket");
    }
}

#[test]
fn the_service_manager_is_told() {
    let machine = alone();
    let manager = Manager::new(&machine);
    let daemon = manager.start(&machine);
    manager.is_told("READY=1");
    assert!(machine.try_status().is_some(), "ready means that it answers");
    manager.is_told("WATCHDOG=1");
    manager.is_told("WATCHDOG=1");
    daemon.signal(Signal::TERM);
    manager.is_told("STOPPING=1");
    assert_eq!(daemon.ended().code(), Some(0));
}

#[test]
fn it_ends_also_while_it_reads_its_config_anew() {
    let machine = alone();
    let manager = Manager::new(&machine);
    let daemon = manager.start(&machine);
    manager.is_told("READY=1");
    // A pipe in place of the config: reading it takes as long as somebody holds its other end.
    fs::remove_file(machine.config()).expect("the config goes");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    let kind = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, machine.config(), kind, mode, 0).expect("a pipe");
    daemon.signal(Signal::HUP);
    let _held = await_condition("it reads its config", LIMIT, || {
        let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::NONBLOCK;
        rustix::fs::open(machine.config(), flags, mode).ok()
    });
    manager.forget();
    manager.is_told("WATCHDOG=1");
    manager.is_told("WATCHDOG=1");
    daemon.signal(Signal::TERM);
    manager.is_told("STOPPING=1");
    assert_eq!(daemon.ended().code(), Some(0));
}
