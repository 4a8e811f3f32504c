//! A power cut right after "in step" (scenario 35): what was said to be in step is there.
//!
//! One machine has a disk of its own: an ext4 file system on a loop device. The cut is the file
//! system's own shutdown without flushing its journal, so that whatever was not synced is gone, as
//! when the power fails. That takes root, so these run only where they are asked for:
//! `cargo test --test power -- --ignored`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ark_testkit::daemon::{Daemon, Machine, Setup, assert_in_step};
use ark_testkit::tree::await_condition;
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_ark");
/// Far beyond what any of these takes; only a failure reaches it.
const LIMIT: Duration = Duration::from_secs(90);
/// Room for some small files and a store.
const DISK_BYTES: u64 = 256 << 20;
/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`. By way of perl, which every Debian has,
/// because an ioctl takes unsafe code here.
const CUT: &str = r#"
    open(my $disk, "<", $ARGV[0]) or die $!;
    my $flags = pack("L", 2);
    ioctl($disk, 0x8004587d, $flags) or die $!;
"#;

/// A disk that loses its power when told to.
struct Disk {
    home: TempDir,
}

impl Disk {
    fn new() -> Self {
        let disk = Self { home: tempfile::tempdir().unwrap() };
        fs::File::create(disk.image()).unwrap().set_len(DISK_BYTES).unwrap();
        fs::create_dir(disk.path()).unwrap();
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(disk.image()));
        disk.mount();
        disk
    }

    fn image(&self) -> PathBuf {
        self.home.path().join("image")
    }

    /// Where it is mounted.
    fn path(&self) -> PathBuf {
        self.home.path().join("disk")
    }

    fn mount(&self) {
        run(Command::new("mount").args(["-o", "loop"]).arg(self.image()).arg(self.path()));
    }

    fn remount(&self) {
        await_condition("the disk is let go of", LIMIT, || unmount(&self.path()).then_some(()));
        self.mount();
    }
}

/// Cuts the power under `daemon` and brings its disks back, without it.
fn cut(disks: &[Disk], daemon: Daemon<'_>) {
    for disk in disks {
        run(Command::new("perl").args(["-e", CUT]).arg(disk.path()));
    }
    daemon.kill();
    disks.iter().for_each(Disk::remount);
}

/// A machine with its store on the first disk and its folder on the last.
fn machine_on(disks: &[Disk], name: &str) -> Machine {
    let [of_store, .., of_folder] = disks else {
        return Machine::new(BINARY, name, Some(&disks[0].path()));
    };
    let machine = Machine::new(BINARY, name, Some(&of_folder.path()));
    let store = of_store.path().join("store");
    run(Command::new("cp").arg("-a").args([machine.store(), store.clone()]));
    run(Command::new("sync").arg("-f").arg(&store));
    fs::remove_dir_all(machine.store()).unwrap();
    std::os::unix::fs::symlink(store, machine.store()).unwrap();
    machine
}

impl Drop for Disk {
    fn drop(&mut self) {
        unmount(&self.path());
    }
}

fn unmount(path: &Path) -> bool {
    Command::new("umount").arg("-q").arg(path).status().is_ok_and(|status| status.success())
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// `of` says whose user works, of the machine that keeps its power and the one that loses it.
/// Rounds with few changes are synced file by file, those with many by one sync of everything:
/// of the store's disk and of the folder's, which are two.
fn in_step_outlives_cuts(of: for<'a> fn(&'a Machine, &'a Machine) -> &'a Machine) {
    let disks = &[Disk::new(), Disk::new()];
    let a = Machine::new(BINARY, "a", None);
    let b = machine_on(disks, "b");
    let c = Machine::new(BINARY, "c", None);
    a.configure(&[&b], &Setup::default());
    b.configure(&[&a, &c], &Setup::default());
    c.configure(&[&b, &a], &Setup::default());
    let on_a = a.start();
    let mut on_b = b.start();
    for (round, count) in [4, 60, 4, 3].into_iter().enumerate() {
        work(of(&a, &b), round, count);
        assert_in_step(&a, &b, LIMIT);
        let told = a.tree();
        cut(disks, on_b);
        let differences = b.tree().differences(&told);
        assert!(differences.is_empty(), "round {round}, after the cut: {differences:#?}");
        on_b = b.start();
        assert_in_step(&a, &b, LIMIT);
        let differences = a.tree().differences(&told);
        assert!(differences.is_empty(), "round {round}, when in step anew: {differences:#?}");
    }
    // What b's folder shows its store has, too.
    on_a.kill();
    let on_c = c.start();
    assert_in_step(&b, &c, LIMIT);
    on_c.kill();
    on_b.kill();
}

/// Writes `count` files and one again, removes one of the round before and moves another.
fn work(machine: &Machine, round: usize, count: usize) {
    for n in 0..count {
        machine.write(&format!("{round}/{n}"), content(round, n));
    }
    machine.write("rewritten", content(round, count));
    if let Some(before) = round.checked_sub(1) {
        let folder = machine.folder();
        fs::remove_file(folder.join(format!("{before}/0"))).unwrap();
        let moved = folder.join(format!("{round}/moved"));
        fs::rename(folder.join(format!("{before}/1")), moved).unwrap();
    }
}

fn content(round: usize, n: usize) -> Vec<u8> {
    format!("round {round}, file {n}; ").repeat(200).into_bytes()
}

#[test]
#[ignore = "needs root, a loop device, mkfs.ext4 and perl"]
fn what_was_received_outlives_a_power_cut() {
    in_step_outlives_cuts(|a, _| a);
}

#[test]
#[ignore = "needs root, a loop device, mkfs.ext4 and perl"]
fn what_was_written_here_outlives_a_power_cut() {
    in_step_outlives_cuts(|_, b| b);
}

/// What was not yet in step may be as it was before; all else is as it was, and nobody takes what
/// the cut undid for a user's doing.
#[test]
#[ignore = "needs root, a loop device, mkfs.ext4 and perl"]
fn a_power_cut_at_any_moment_undoes_nothing_of_before() {
    let disks = [Disk::new()];
    let a = Machine::new(BINARY, "a", None);
    let b = machine_on(&disks, "b");
    a.configure(&[&b], &Setup::default());
    b.configure(&[&a], &Setup::default());
    let _on_a = a.start();
    let mut on_b = b.start();
    for round in 0..12 {
        assert_in_step(&a, &b, LIMIT);
        // Few changes are synced one by one, which leaves alone what others wrote there.
        let count = if round % 2 == 0 { 3 } else { 40 };
        for n in 0..count {
            a.write(&format!("edited/{n}"), content(round, n));
            a.write(&format!("of a/{round}/{n}"), content(round, n));
            b.write(&format!("of b/{round}/{n}"), content(round, n));
        }
        // Not waiting for anything: another moment each time.
        std::thread::sleep(Duration::from_millis(round as u64 * 37 % 300));
        // What b's users wrote, and a has by now.
        let told = a.tree();
        cut(&disks, on_b);
        on_b = b.start();
        assert_in_step(&a, &b, LIMIT);
        let now = a.tree();
        let is_edited = |path: &Path| path.starts_with("edited");
        let undone: Vec<_> = told
            .0
            .iter()
            .filter(|(path, item)| !is_edited(path) && now.0.get(*path) != Some(item))
            .collect();
        assert!(undone.is_empty(), "round {round}: {undone:?}\n{}", b.log());
        for n in 0..count {
            let expected = Some(content(round, n));
            assert_eq!(a.read(&format!("edited/{n}")), expected, "round {round}, file {n}");
            assert_eq!(a.read(&format!("of a/{round}/{n}")), expected, "round {round}, file {n}");
        }
        assert!(a.conflicts().is_empty(), "round {round}: {:?}", a.conflicts());
    }
    on_b.kill();
}
