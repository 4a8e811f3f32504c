//! Tests of what permission bits forbid: nothing is forbidden to root.

use std::fs::{DirBuilder, read_dir};
use std::os::unix::fs::DirBuilderExt as _;
use std::process::{Command, Output};

/// Set for a process that runs one test without the rights of root.
const AGAIN: &str = "ARK_TEST_AGAIN";

/// Whether permission bits stop this process. If not, `test` is run by another that they stop: one
/// way or the other it is run, or fails.
pub fn by_bits(test: &str) -> bool {
    let directory = tempfile::tempdir().unwrap();
    let closed = directory.path().join("closed");
    DirBuilder::new().mode(0o000).create(&closed).unwrap();
    if read_dir(&closed).is_err() {
        return true;
    }
    assert!(std::env::var_os(AGAIN).is_none(), "permission bits stop nobody here");
    let Output { status, stdout, stderr } = without_rights(test);
    let [said, complained] = [stdout, stderr].map(|it| String::from_utf8_lossy(&it).into_owned());
    let is_run = said.contains("test result: ok. 1 passed");
    assert!(status.success() && is_run, "not passed by who is not root:\n{said}\n{complained}");
    false
}

/// Runs `test` alone, by a process that goes by the bits of its own files although it is root's.
fn without_rights(test: &str) -> Output {
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", test, "--nocapture"]).env(AGAIN, "");
    // Rights are a thread's, and those of what it starts.
    let run = std::thread::spawn(move || {
        give_up_rights();
        again.output().unwrap()
    });
    run.join().unwrap()
}

/// Takes from this thread what lets root pass over permission bits.
#[cfg(target_os = "linux")]
fn give_up_rights() {
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities, set_no_new_privs};
    let rights = CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
    let mut sets = capabilities(None).unwrap();
    for set in [&mut sets.effective, &mut sets.permitted, &mut sets.inheritable] {
        set.remove(rights);
    }
    set_capabilities(None, sets).unwrap();
    // Otherwise a program that root starts has all rights again.
    set_no_new_privs(true).unwrap();
}

/// Elsewhere root cannot be kept from it.
#[cfg(not(target_os = "linux"))]
fn give_up_rights() {
    panic!("permission bits do not stop root: run this as somebody else");
}
