//! The process of a daemon.

use std::cell::RefCell;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::Machine;
use crate::tree::await_condition;

/// The longest that a daemon may take to end after SIGTERM, or to take up a changed config, before
/// the test fails; longer than it waits itself before it ends as it is.
const END_LIMIT: Duration = Duration::from_secs(90);

/// A running daemon; killed when dropped.
#[derive(Debug)]
pub struct Daemon<'a> {
    machine: &'a Machine,
    child: RefCell<Child>,
}

impl<'a> Daemon<'a> {
    pub(super) fn new(machine: &'a Machine, child: Child) -> Self {
        Self { machine, child: RefCell::new(child) }
    }

    /// The process id.
    pub fn process_id(&self) -> u32 {
        self.child.borrow().id()
    }

    /// Whether the process has not ended.
    pub fn is_running(&self) -> bool {
        matches!(self.child.borrow_mut().try_wait(), Ok(None))
    }

    /// SIGTERM, and how it ended.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn stop(self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ended()
    }

    /// SIGKILL: no clean shutdown.
    pub fn kill(self) {
        self.signal(Signal::KILL);
        let machine = self.machine;
        assert_eq!(self.ended().signal(), Some(9), "it ended by itself before: {}", machine.log());
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.process_id()).expect("a process id");
        kill_process(Pid::from_raw(id).expect("a process id"), signal).expect("signal the daemon");
    }

    /// SIGHUP, and waits until the changed config is in use.
    ///
    /// # Panics
    /// When it is not taken up in time.
    pub fn re_read(&self) {
        let count = || self.machine.log().matches("the config is in use").count();
        let before = count();
        self.signal(Signal::HUP);
        await_condition(&format!("{} takes up its config", self.machine.name), END_LIMIT, || {
            (count() > before).then_some(())
        });
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn ended(self) -> ExitStatus {
        await_condition(&format!("{} ends", self.machine.name), END_LIMIT, || {
            self.child.borrow_mut().try_wait().expect("ask for its end")
        })
    }

    /// Resident memory in bytes (Linux).
    pub fn resident_bytes(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.process_id()))
            .expect("/proc of the daemon");
        let line = text.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
        let kib: u64 = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("kB");
        kib * 1024
    }

    /// Processor time used so far (Linux).
    pub fn processor_time(&self) -> Duration {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.process_id()))
            .expect("/proc of the daemon");
        let (_, fields) = text.rsplit_once(')').expect("a command in parentheses");
        let ticks: u64 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(|ticks| ticks.parse::<u64>().expect("ticks"))
            .sum();
        Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let child = self.child.get_mut();
        if matches!(child.try_wait(), Ok(None)) {
            // Ends a test's leftovers; it may have ended by itself in between.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
