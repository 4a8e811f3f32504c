//! Tests of what permission bits forbid: nothing is forbidden to root.

use std::fs::{DirBuilder, read_dir};
use std::os::unix::fs::DirBuilderExt as _;
use std::process::Command;

/// Set for a process that runs one test without the rights of root.
const AGAIN: &str = "ARK_TEST_AGAIN";
/// What `setpriv` takes from a process, so that it goes by the bits of its own files.
const RIGHTS: [&str; 2] =
    ["--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"];

/// Whether permission bits stop this process. If not, `test` is run by another that they stop,
/// where the system lets one be started.
pub fn by_bits(test: &str) -> bool {
    let directory = tempfile::tempdir().unwrap();
    let closed = directory.path().join("closed");
    DirBuilder::new().mode(0o000).create(&closed).unwrap();
    if read_dir(&closed).is_err() {
        return true;
    }
    let mut can = Command::new("setpriv");
    can.args(RIGHTS).arg("true");
    if std::env::var_os(AGAIN).is_none() && can.status().is_ok_and(|status| status.success()) {
        let mut again = Command::new("setpriv");
        again.args(RIGHTS).arg(std::env::current_exe().unwrap());
        again.args(["--exact", test, "--nocapture"]).env(AGAIN, "");
        assert!(again.status().unwrap().success(), "{test} failed for who is not root");
    }
    false
}
