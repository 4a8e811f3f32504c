//! The house stands as DESIGN 3 drew it: who may depend on whom, what stays pure, what every
//! module and manifest carries, what lies at the top.
//!
//! Each check names all that is wrong, not only the first.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

/// Per crate those of ours that it may depend on, in its sources and its build. A crate that is
/// not named here is not part of the house.
const ARROWS: &[(&str, &[&str])] = &[
    ("ark-core", &[]),
    ("ark-recon", &["ark-core"]),
    ("ark-sync", &["ark-core"]),
    ("ark-store", &["ark-core", "ark-recon"]),
    ("ark-folder", &["ark-core", "ark-store"]),
    ("ark-net", &["ark-core", "ark-recon", "ark-store", "ark-sync"]),
    ("ark-control", &["ark-core"]),
    ("ark-jj", &["ark-control", "ark-core"]),
    ("ark", &["ark-control", "ark-core", "ark-folder", "ark-net", "ark-store", "ark-sync"]),
    (
        "ark-testkit",
        &["ark-control", "ark-core", "ark-folder", "ark-net", "ark-recon", "ark-store", "ark-sync"],
    ),
];

/// Only tests may depend on it.
const TESTS_ONLY: &str = "ark-testkit";

/// The crates without clock, randomness and IO, with the folder of their sources.
const PURE: &[(&str, &str)] = &[
    ("ark-core", "crates/core/src"),
    ("ark-recon", "crates/recon/src"),
    ("ark-sync", "crates/sync/src"),
];

/// All that pure crates may pull in, on any platform. To add one is a decision: it must do no
/// IO of its own.
const PURE_DEPENDENCIES: &[&str] = &[
    "ark-core",
    "ark-recon",
    "ark-sync",
    // Hashes and signatures.
    "arrayvec",
    "blake3",
    "block-buffer",
    "cfg-if",
    "constant_time_eq",
    "cpufeatures",
    "crypto-common",
    "curve25519-dalek",
    "curve25519-dalek-derive",
    "digest",
    "ed25519",
    "ed25519-dalek",
    "fiat-crypto",
    "hybrid-array",
    "libc", // cpufeatures asks it on some systems which instructions there are
    "sha2",
    "signature",
    "subtle",
    "typenum",
    "zeroize",
    // Archives.
    "bytecheck",
    "bytecheck_derive",
    "hashbrown",
    "munge",
    "munge_macro",
    "ptr_meta",
    "ptr_meta_derive",
    "rancor",
    "rend",
    "rkyv",
    "rkyv_derive",
    "simdutf8",
    // Bytes, text, chunks, errors.
    "bytes",
    "data-encoding",
    "fastcdc",
    "thiserror",
    "thiserror-impl",
    // What macros are made with.
    "proc-macro2",
    "quote",
    "syn",
    "unicode-ident",
];

/// What no line of a pure crate's code may name.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::net",
    "std::env",
    "std::process",
    "std::thread",
    "SystemTime",
    "Instant::now",
    "tokio",
    "iroh",
    "redb",
    "notify::",
    "async fn",
];

/// What the repository holds at its top, dot-files aside.
const TOP: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "README.md",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "ark.example.toml",
    "crates",
    "tests",
    "benches",
];

/// Names that say nothing of what is inside.
const EMPTY_NAMES: &[&str] = &["util", "utils", "common", "manager", "helper", "helpers", "misc"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .other_options(["--locked".to_owned(), "--offline".to_owned()])
        .no_deps()
        .exec()
        .expect("cargo metadata")
}

/// Standard output of a command that must succeed, run at the top.
fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(root())
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let problem = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {problem}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The Rust sources below `folder`, which may be absent.
fn sources(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for path in entries.map(|entry| entry.expect("an entry").path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn assert_none(what: &str, wrong: &[String]) {
    assert!(wrong.is_empty(), "{what}:\n  {}", wrong.join("\n  "));
}

#[test]
fn crates_depend_only_along_the_arrows() {
    let metadata = metadata();
    let arrows: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let ours: BTreeSet<&str> =
        metadata.packages.iter().map(|package| package.name.as_str()).collect();
    let mut wrong = Vec::new();
    for package in &metadata.packages {
        let Some(allowed) = arrows.get(package.name.as_str()) else {
            wrong.push(format!("{} is not in the list of arrows", package.name));
            continue;
        };
        wrong.extend(
            dependencies_of_ours(package, &ours)
                .filter(|name| *name == TESTS_ONLY || !allowed.contains(name))
                .map(|name| format!("{} -> {name}", package.name)),
        );
    }
    assert_none("dependencies against the arrows", &wrong);
}

/// Of its dependencies but those of tests, the crates of this repository.
fn dependencies_of_ours<'a>(
    package: &'a Package,
    ours: &'a BTreeSet<&str>,
) -> impl Iterator<Item = &'a str> {
    package
        .dependencies
        .iter()
        .filter(|dependency| dependency.kind != DependencyKind::Development)
        .map(|dependency| dependency.name.as_str())
        .filter(|name| ours.contains(name))
}

#[test]
fn pure_crates_pull_in_only_what_is_listed() {
    // Not `cargo metadata`: it unites the features that all members ask for, and so lists what
    // only others' features pull in.
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let allowed: BTreeSet<&str> = PURE_DEPENDENCIES.iter().copied().collect();
    let mut wrong = BTreeSet::new();
    for (package, _) in PURE {
        let tree = ["tree", "--locked", "--offline", "--package", package, "--edges=normal"];
        let form = ["--target=all", "--prefix=none", "--format={p}"];
        let tree = output(&cargo, &[&tree[..], &form[..]].concat());
        let names = tree.lines().filter_map(|line| line.split_whitespace().next());
        wrong.extend(
            names.filter(|name| !allowed.contains(name)).map(|name| format!("{package}: {name}")),
        );
    }
    assert_none("dependencies that are not listed", &wrong.into_iter().collect::<Vec<_>>());
}

/// ark gives the blob store its empty database, which iroh-blobs opens with its own redb.
#[test]
fn one_redb_makes_and_opens_every_database() {
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).expect("the lock file");
    assert_eq!(lock.lines().filter(|line| *line == "name = \"redb\"").count(), 1);
}

#[test]
fn pure_crates_do_nothing_impure() {
    let mut wrong = Vec::new();
    for path in PURE.iter().flat_map(|(_, folder)| sources(folder)) {
        for (number, line) in read(&path).lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for word in IMPURE.iter().filter(|word| code.contains(**word)) {
                wrong.push(format!("{}:{}: {word}", path.display(), number + 1));
            }
        }
    }
    assert_none("IO, clocks or threads in pure crates", &wrong);
}

#[test]
fn every_member_inherits_the_lints() {
    let workspace: toml::Table = read(&root().join("Cargo.toml")).parse().expect("TOML");
    let lints = &workspace["workspace"]["lints"];
    assert_eq!(lints["rust"]["unsafe_code"].as_str(), Some("deny"));
    assert_eq!(lints["rust"]["missing_docs"].as_str(), Some("warn"));
    assert_eq!(lints["clippy"]["pedantic"]["level"].as_str(), Some("warn"));
    let mut wrong = Vec::new();
    for package in metadata().packages {
        let manifest: toml::Table =
            read(package.manifest_path.as_std_path()).parse().expect("TOML");
        let lints = manifest.get("lints").and_then(|lints| lints.get("workspace"));
        if lints.and_then(toml::Value::as_bool) != Some(true) {
            wrong.push(package.manifest_path.into_string());
        }
    }
    assert_none("members without the workspace's lints", &wrong);
}

#[test]
fn every_module_says_what_it_is() {
    let mut wrong = Vec::new();
    for path in ["crates", "tests", "benches"].into_iter().flat_map(sources) {
        if !read(&path).starts_with("//!") {
            wrong.push(path.display().to_string());
        }
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let parent = path.parent().and_then(Path::file_name).and_then(|name| name.to_str());
        let names = [stem, parent.unwrap_or_default()];
        if names.iter().any(|name| EMPTY_NAMES.contains(name)) {
            wrong.push(format!("{}: a name that says nothing", path.display()));
        }
    }
    assert_none("modules without `//!` first, or without a name", &wrong);
}

#[test]
fn the_top_holds_only_what_the_design_lists() {
    let files = output("git", &["ls-files", "--cached", "--others", "--exclude-standard"]);
    let top: BTreeSet<&str> = files.lines().filter_map(|path| path.split('/').next()).collect();
    let wrong: Vec<String> = top
        .into_iter()
        .filter(|name| !name.starts_with('.') && !TOP.contains(name))
        .map(str::to_owned)
        .collect();
    assert_none("at the top of the repository", &wrong);
}
