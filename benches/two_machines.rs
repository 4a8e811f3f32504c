//! Two daemons on loopback against what a user would pick instead, as ratios inside one run.
//!
//! `cargo bench --bench two_machines` prints one line per figure with the target beside it; a name as
//! argument runs that part alone (`cold`, `large`, `edits`, `insert`, `renames`, `idle`). The real
//! source files of ark's own dependencies are taken from cargo's registry; `ARK_BENCH_TREE` names
//! another tree. `ARK_BENCH_DIR` names where to work (default: below `target`). Needs `rsync`.

use std::fs;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ark_testkit::daemon::{Machine, Setup, free_port};
use ark_testkit::noise::noise;
use ark_testkit::tree::await_condition;

const BINARY: &str = env!("CARGO_BIN_EXE_ark");
const LIMIT: Duration = Duration::from_mins(10);
/// The tree to copy: about this many files and bytes of real source.
const FILES: usize = 20_000;
const TREE_BYTES: u64 = 256 << 20;
const LARGE_BYTES: u64 = 1 << 30;
/// Crates larger than this are generated bindings and import libraries: they would be the whole tree.
const LARGEST_CRATE_BYTES: u64 = 20 << 20;

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let runs = |name: &str| wanted.is_empty() || wanted.iter().any(|w| w == name);
    let place = std::env::var_os("ARK_BENCH_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let work = tempfile::Builder::new().prefix("ark-bench-").tempdir_in(&place).expect("work dir");
    let work = work.path();
    if runs("cold") || runs("edits") || runs("renames") || runs("idle") {
        source_tree(work, &runs);
    }
    if runs("large") || runs("insert") {
        large_file(work, &runs);
    }
}

/// Two machines in `work`, not started: `a` has `content` as its folder's content.
fn machines(work: &Path, content: &Path) -> (Machine, Machine) {
    let a = Machine::new(BINARY, "a", Some(work));
    let b = Machine::new(BINARY, "b", Some(work));
    a.configure(&[&b], &Setup::default());
    b.configure(&[&a], &Setup::default());
    copy(content, &a.folder());
    (a, b)
}

fn source_tree(work: &Path, runs: &dyn Fn(&str) -> bool) {
    let tree = work.join("tree");
    let (files, bytes) = gather_tree(&tree);
    println!("tree: {files} files, {} MiB", bytes >> 20);
    let (a, b) = machines(work, &tree);
    let start = Instant::now();
    let on_a = a.start();
    await_condition("a's first scan", LIMIT, || {
        (a.status()["repos"][0]["scanned"] == true).then_some(())
    });
    println!("first scan of the tree: {:.2} s", start.elapsed().as_secs_f64());

    let cold = bracketed(work, &tree, || {
        let start = Instant::now();
        let on_b = b.start_unawaited();
        b.wait(LIMIT);
        (start.elapsed(), on_b)
    });
    let on_b = cold.kept;
    figure("cold copy of the tree / rsync", cold.ratio, "x", 2.0);
    assert_eq!(a.tree().differences(&b.tree()), Vec::<String>::new(), "the copy is the same");
    let (received, _) = b.traffic();
    #[expect(clippy::cast_precision_loss, reason = "a ratio to three digits")]
    figure("bytes received / content", received as f64 / bytes as f64, "x", 1.3);

    if runs("edits") {
        edits(&a, &b);
    }
    if runs("renames") {
        renames(&a, &b);
    }
    if runs("idle") {
        idle(&a, &b, &[&on_a, &on_b]);
    }
}

fn edits(a: &Machine, b: &Machine) {
    let mut times: Vec<f64> = (0..50)
        .map(|n| {
            let content = format!("edit {n} {}", "x".repeat(2000));
            let name = format!("probe/{n}.txt");
            a.write(&name, "");
            await_condition("the empty file arrives", LIMIT, || b.read(&name).map(drop));
            let start = Instant::now();
            a.write(&name, &content);
            let path = b.folder().join(&name);
            loop {
                if fs::read(&path).is_ok_and(|found| found == content.as_bytes()) {
                    break;
                }
                assert!(start.elapsed() < LIMIT, "edit {n} never arrived");
                std::thread::yield_now();
            }
            start.elapsed().as_secs_f64() * 1000.0
        })
        .collect();
    times.sort_by(f64::total_cmp);
    figure("edit to visible, median", times[times.len() / 2], "ms", 100.0);
    println!("  (fastest {:.1} ms, slowest {:.1} ms)", times[0], times[times.len() - 1]);
}

fn renames(a: &Machine, b: &Machine) {
    let files: Vec<PathBuf> = a
        .tree()
        .0
        .into_iter()
        .filter(|(_, item)| matches!(item.kind, ark_testkit::tree::Kind::File(1.., _)))
        .map(|(path, _)| path)
        .take(1000)
        .collect();
    let content: u64 =
        files.iter().map(|path| fs::metadata(a.folder().join(path)).map_or(0, |m| m.len())).sum();
    let before = a.traffic().1;
    for path in &files {
        let mut name = path.file_name().expect("a file").to_owned();
        name.push(".renamed");
        fs::rename(a.folder().join(path), a.folder().join(path.with_file_name(name)))
            .expect("rename");
    }
    a.wait(LIMIT);
    let sent = a.traffic().1 - before;
    println!("{} renames of files of {content} bytes sent {sent} bytes", files.len());
    assert_eq!(a.tree().differences(&b.tree()), Vec::<String>::new(), "renamed there too");
}

fn idle(a: &Machine, b: &Machine, daemons: &[&ark_testkit::Daemon<'_>]) {
    const SPAN: Duration = Duration::from_secs(30);
    a.wait(LIMIT);
    b.wait(LIMIT);
    let before: Vec<_> = daemons.iter().map(|daemon| daemon.processor_time()).collect();
    std::thread::sleep(SPAN);
    for (daemon, before) in daemons.iter().zip(before) {
        let used =
            daemon.processor_time().saturating_sub(before).as_secs_f64() / SPAN.as_secs_f64();
        figure("idle: share of a core", used * 100.0, "%", 0.5);
        #[expect(clippy::cast_precision_loss, reason = "a figure to three digits")]
        figure("idle: resident", daemon.resident_bytes() as f64 / 1e6, "MB", 80.0);
    }
}

fn large_file(work: &Path, runs: &dyn Fn(&str) -> bool) {
    let tree = work.join("large");
    fs::create_dir_all(&tree).expect("a directory");
    write_noise(&tree.join("large"), LARGE_BYTES);
    let (a, b) = machines(work, &tree);
    let start = Instant::now();
    let _on_a = a.start();
    await_condition("a's first scan", LIMIT, || {
        (a.status()["repos"][0]["scanned"] == true).then_some(())
    });
    println!("first scan of 1 GiB: {:.2} s", start.elapsed().as_secs_f64());
    let cold = bracketed(work, &tree, || {
        let start = Instant::now();
        let on_b = b.start_unawaited();
        b.wait(LIMIT);
        (start.elapsed(), on_b)
    });
    figure("cold copy of 1 GiB / rsync", cold.ratio, "x", 5.0);
    let _on_b = cold.kept;
    if runs("insert") {
        let before = a.traffic().1;
        insert_in_front(&a.folder().join("large"), b"!");
        a.wait(LIMIT);
        let sent = a.traffic().1 - before;
        println!("one byte in front of 1 GiB sent {} KiB", sent >> 10);
    }
    assert_eq!(a.tree().differences(&b.tree()), Vec::<String>::new(), "the copy is the same");
}

/// Writes `byte` and then the old content to a new file, and renames it over the old one.
fn insert_in_front(path: &Path, byte: &[u8]) {
    let next = path.with_extension("next");
    let mut to = fs::File::create(&next).expect("create");
    to.write_all(byte).expect("write");
    std::io::copy(&mut fs::File::open(path).expect("open"), &mut to).expect("copy");
    to.rewind().expect("rewind");
    drop(to);
    fs::rename(&next, path).expect("rename");
}

struct Bracketed<T> {
    /// Time of the measured run over the mean of the two of rsync around it.
    ratio: f64,
    kept: T,
}

/// Measures `run` between two runs of `rsync -a` from an rsync daemon, on warm caches.
fn bracketed<T>(work: &Path, tree: &Path, run: impl FnOnce() -> (Duration, T)) -> Bracketed<T> {
    read_all(tree);
    let rsyncd = Rsyncd::start(work, tree);
    rsyncd.copy(&work.join("warm"));
    let before = rsyncd.copy(&work.join("before"));
    let (time, kept) = run();
    let after = rsyncd.copy(&work.join("after"));
    let reference = f64::midpoint(before.as_secs_f64(), after.as_secs_f64());
    println!(
        "  rsync {:.2} s and {:.2} s, ark {:.2} s",
        before.as_secs_f64(),
        after.as_secs_f64(),
        time.as_secs_f64()
    );
    Bracketed { ratio: time.as_secs_f64() / reference, kept }
}

struct Rsyncd {
    child: Child,
    port: u16,
}

impl Rsyncd {
    fn start(work: &Path, tree: &Path) -> Self {
        let port = free_port();
        let config = work.join("rsyncd.conf");
        let text = format!(
            "use chroot = no\n[tree]\npath = {}\nread only = yes\nuid = root\ngid = root\n",
            tree.display()
        );
        fs::write(&config, text).expect("write rsyncd.conf");
        let child = Command::new("rsync")
            .args(["--daemon", "--no-detach", "--address=127.0.0.1"])
            .arg(format!("--port={port}"))
            .arg(format!("--config={}", config.display()))
            .stdin(Stdio::null())
            .spawn()
            .expect("start rsync: is it installed?");
        await_condition("the rsync daemon listens", LIMIT, || {
            std::net::TcpStream::connect(("127.0.0.1", port)).ok().map(drop)
        });
        Self { child, port }
    }

    fn copy(&self, to: &Path) -> Duration {
        let start = Instant::now();
        let status = Command::new("rsync")
            .arg("-a")
            .arg(format!("rsync://127.0.0.1:{}/tree/", self.port))
            .arg(format!("{}/", to.display()))
            .status()
            .expect("run rsync");
        assert!(status.success(), "rsync: {status}");
        let time = start.elapsed();
        fs::remove_dir_all(to).expect("remove the copy");
        time
    }
}

impl Drop for Rsyncd {
    fn drop(&mut self) {
        // It may be gone already; nothing else to do about it here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn figure(what: &str, value: f64, unit: &str, target: f64) {
    let verdict = if value <= target { "ok" } else { "MISSED" };
    println!("{what}: {value:.2} {unit} (target {target} {unit}: {verdict})");
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp");
    assert!(status.success(), "cp: {status}");
}

fn read_all(tree: &Path) {
    drop(ark_testkit::Tree::read(tree));
}

/// Copies real source files into `to`: the tree of `ARK_BENCH_TREE`, or crates of cargo's registry.
fn gather_tree(to: &Path) -> (usize, u64) {
    fs::create_dir_all(to).expect("a directory");
    if let Some(tree) = std::env::var_os("ARK_BENCH_TREE") {
        copy(&Path::new(&tree).join("."), to);
        return measure(to);
    }
    let home = std::env::var_os("CARGO_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").expect("HOME")).join(".cargo"),
        PathBuf::from,
    );
    let registries = fs::read_dir(home.join("registry/src")).expect("cargo's registry");
    let mut crates: Vec<PathBuf> = registries
        .flatten()
        .flat_map(|registry| fs::read_dir(registry.path()).expect("a registry").flatten())
        .map(|entry| entry.path())
        .collect();
    crates.sort();
    let mut sum = (0, 0);
    for source in crates {
        let (files, bytes) = measure(&source);
        if sum.0 < FILES && sum.1 < TREE_BYTES && bytes <= LARGEST_CRATE_BYTES {
            copy(&source, to);
            sum = (sum.0 + files, sum.1 + bytes);
        }
    }
    sum
}

fn measure(tree: &Path) -> (usize, u64) {
    let found = ark_testkit::Tree::read(tree);
    let bytes = found.0.values().map(|item| match item.kind {
        ark_testkit::tree::Kind::File(length, _) => length,
        _ => 0,
    });
    (found.files(), bytes.sum())
}

fn write_noise(path: &Path, length: u64) {
    let file = fs::File::create(path).expect("create");
    let mut to = std::io::BufWriter::with_capacity(1 << 20, file);
    for word in noise(1).take(usize::try_from(length / 8).expect("fits")) {
        to.write_all(&word).expect("write");
    }
    to.flush().expect("flush");
    let mut first = [0; 8];
    fs::File::open(path).expect("open").read_exact(&mut first).expect("read");
}
