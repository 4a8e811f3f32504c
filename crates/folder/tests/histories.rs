//! Random histories on real folders: whatever is written, renamed, deleted, exchanged and killed
//! in whatever order, all devices come out the same, and nothing that a user wrote and nobody
//! knowingly replaced or deleted is missing.
//!
//! To run more of them: `ARK_SEED=1000 ARK_SEEDS=300 cargo test -p ark-folder --test histories`.

mod syncing;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use rustix::fs::{CWD, RenameFlags};
use syncing::{Device, pull, settle};

/// The names that a history uses: few, so that all that can meet does.
const NAMES: [&str; 4] = ["a", "b.txt", "c", "d"];
const STEPS: usize = 60;

struct History {
    random: StdRng,
    devices: Vec<Device>,
    /// Contents that must be somewhere in the end. Each was written once.
    live: BTreeSet<String>,
    written: usize,
    outside: usize,
    /// Whether the next step comes while the last is still being taken up or applied.
    hasty: bool,
    /// What was done, for whoever has to find out why it fails.
    log: Vec<String>,
}

impl History {
    async fn new(seed: u64, devices: u8, hasty: bool) -> Self {
        let mut started = Vec::new();
        for number in 1..=devices {
            started.push(Device::started(number).await);
        }
        let random = StdRng::seed_from_u64(seed);
        let (live, log) = (BTreeSet::new(), Vec::new());
        Self { random, devices: started, live, written: 0, outside: 0, hasty, log }
    }

    fn note(&mut self, step: String) {
        tracing::info!("{step}");
        self.log.push(step);
    }

    fn random_path(&mut self) -> String {
        let depth = self.random.random_range(1..=3);
        let names: Vec<&str> =
            (0..depth).map(|_| *NAMES.choose(&mut self.random).unwrap()).collect();
        names.join("/")
    }

    /// A path that is there, or `None`.
    fn present(&mut self, at: usize) -> Option<String> {
        let paths: Vec<String> = self.devices[at].tree().into_keys().collect();
        paths.choose(&mut self.random).cloned()
    }

    /// A new path outside of the folder, on the same file system.
    fn outside(&mut self, at: usize) -> PathBuf {
        self.outside += 1;
        self.devices[at].home.path().join(format!("outside-{}", self.outside))
    }

    /// What is outside now is done away with. What that is is looked at only now: until it was
    /// outside it may have been replaced.
    fn let_go(&mut self, gone: &Path) {
        for content in contents(gone) {
            self.note(format!("    away goes {content:?}"));
            self.live.remove(&content);
        }
    }

    /// Takes what is at a path out of the folder, if anything is.
    fn take_out(&mut self, at: usize, path: &str) -> Option<PathBuf> {
        let outside = self.outside(at);
        let taken = std::fs::rename(self.devices[at].path(path), &outside);
        taken.is_ok().then_some(outside)
    }

    /// Puts a file or directory from outside at `path`, and lets go of what was in its place.
    fn put_in(&mut self, at: usize, from: &Path, path: &str) {
        let target = self.devices[at].path(path);
        loop {
            let names: Vec<&str> = path.split('/').collect();
            for depth in 1..names.len() {
                let parent = names[..depth].join("/");
                let found = self.devices[at].path(&parent).symlink_metadata();
                if found.is_ok_and(|found| !found.is_dir())
                    && let Some(gone) = self.take_out(at, &parent)
                {
                    self.let_go(&gone);
                }
            }
            // What fails was changed under us: then all of it is tried again.
            let _ = std::fs::create_dir_all(target.parent().unwrap());
            let flags = [RenameFlags::NOREPLACE, RenameFlags::EXCHANGE];
            for (flag, swapped) in flags.into_iter().zip([false, true]) {
                if rustix::fs::renameat_with(CWD, from, CWD, &target, flag).is_ok() {
                    if swapped {
                        self.let_go(from);
                    }
                    return;
                }
            }
        }
    }

    fn write(&mut self, at: usize) {
        let path = match self.present(at) {
            Some(path) if self.random.random_bool(0.4) => path,
            _ => self.random_path(),
        };
        self.written += 1;
        let content = format!("content {}", self.written);
        self.note(format!("{at} writes {content:?} to {path}"));
        let outside = self.outside(at);
        std::fs::write(&outside, &content).unwrap();
        self.live.insert(content);
        self.put_in(at, &outside, &path);
    }

    fn delete(&mut self, at: usize) {
        let Some(path) = self.present(at) else { return };
        self.note(format!("{at} deletes {path}"));
        if let Some(gone) = self.take_out(at, &path) {
            self.let_go(&gone);
        }
    }

    fn rename(&mut self, at: usize) {
        let Some(from) = self.present(at) else { return };
        let to = self.random_path();
        self.note(format!("{at} renames {from} to {to}"));
        if let Some(taken) = self.take_out(at, &from) {
            self.put_in(at, &taken, &to);
        }
    }

    fn chmod(&mut self, at: usize) {
        let Some(path) = self.present(at) else { return };
        let mode = *[0o700, 0o755, 0o750].choose(&mut self.random).unwrap();
        self.note(format!("{at} sets the bits of {path}"));
        let bits = std::fs::Permissions::from_mode(mode);
        // It may be gone by now.
        let _ = std::fs::set_permissions(self.devices[at].path(&path), bits);
    }

    async fn step(&mut self) {
        let at = self.random.random_range(0..self.devices.len());
        match self.random.random_range(0..100) {
            0..30 => self.write(at),
            30..42 => self.delete(at),
            42..55 => self.rename(at),
            55..60 => self.chmod(at),
            60..70 if self.hasty => {
                self.note(format!("{at} pulls and is killed"));
                let from = (at + 1) % self.devices.len();
                pull(&self.devices[from], &self.devices[at]).await;
                // Not waiting for anything: another moment to be killed at each time.
                let moment = Duration::from_micros(self.random.random_range(0..30_000));
                tokio::time::sleep(moment).await;
                self.devices[at].kill().await;
                self.devices[at].start().await;
            }
            60..66 => {
                self.note(format!("{at} is killed"));
                self.devices[at].kill().await;
                self.devices[at].start().await;
            }
            66..70 => {
                self.note(format!("{at} is off for a moment"));
                self.devices[at].stop().await;
                self.write(at);
                self.delete(at);
                self.devices[at].start().await;
            }
            _ => {
                let from = self.random.random_range(0..self.devices.len());
                if from != at {
                    self.note(format!("{at} pulls from {from}"));
                    pull(&self.devices[from], &self.devices[at]).await;
                }
            }
        }
        // Who does the next step sees what this one led to; or not yet.
        if !self.hasty {
            self.devices[at].rest().await;
        }
    }

    async fn run(mut self) {
        for _ in 0..STEPS {
            self.step().await;
        }
        let devices: Vec<&Device> = self.devices.iter().collect();
        settle(&devices).await;
        let tree = self.devices[0].tree();
        let there: BTreeSet<&str> =
            tree.values().filter_map(|what| what.split_once(' ')).map(|(_, c)| c).collect();
        let lost: Vec<&String> =
            self.live.iter().filter(|content| !there.contains(content.as_str())).collect();
        println!("{} live, {} copies", self.live.len(), self.devices[0].conflicts().len());
        assert!(lost.is_empty(), "{lost:?} lost from {tree:#?}\n{}", self.log.join("\n"));
    }
}

/// The contents at and below a path.
fn contents(path: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(path) else {
        let content = path.symlink_metadata().is_ok().then(|| std::fs::read_to_string(path));
        return content.into_iter().flatten().collect();
    };
    entries.flat_map(|entry| contents(&entry.unwrap().path())).collect()
}

/// The seeds to run instead of those given: `ARK_SEED` is the first, `ARK_SEEDS` how many (1).
fn asked_for() -> Option<Vec<u64>> {
    let number = |name| std::env::var(name).ok().map(|number: String| number.parse().unwrap());
    let first: u64 = number("ARK_SEED")?;
    Some((first..first + number("ARK_SEEDS").unwrap_or(1)).collect())
}

macro_rules! histories {
    ($($(#[$attribute:meta])* $name:ident: $devices:expr, $hasty:expr, $seeds:expr;)*) => {$(
        $(#[$attribute])*
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            for seed in asked_for().unwrap_or_else(|| $seeds.into_iter().collect()) {
                println!("seed {seed}, {} devices", $devices);
                History::new(seed, $devices, $hasty).await.run().await;
            }
        }
    )*};
}

histories! {
    two_devices: 2, false, 0..4;
    three_devices: 3, false, 4..8;
    two_devices_in_haste: 2, true, 8..14;
    three_devices_in_haste: 3, true, 14..20;
    // How a history in haste goes depends on the moment, too: seeds that failed are run anew.
    a_copy_renamed_over_its_original: 3, true, [5052; 4];
    a_copy_renamed_over_its_original_just_when_others_took_it: 3, true, [95_261; 4];
    a_directory_moved_away_while_a_copy_is_made_in_it: 2, true, [50_051; 4];
    a_directory_renamed_while_files_leave_it: 2, true, [94_224; 2];
    a_file_in_flux_where_a_killed_batch_was: 2, true, [90_023; 4];
}
