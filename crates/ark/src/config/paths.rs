//! Paths of a config: made absolute, and compared as the places that they lead to.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

/// Makes a path of the config absolute: `~` is the home directory, and what is relative is
/// relative to the directory of the config file.
///
/// # Errors
/// A sentence saying why the path stands for no place.
pub(super) fn resolve(
    text: &str,
    directory: &Path,
    home: Option<&Path>,
) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("must not be empty".to_owned());
    }
    if text.contains('\0') {
        return Err("contains a NUL character, which no path can".to_owned());
    }
    let Some(rest) = text.strip_prefix('~') else {
        return Ok(without_dots(&directory.join(text)));
    };
    let Some(home) = home else {
        return Err("begins with ~, but the home directory is not known: set HOME".to_owned());
    };
    match rest.strip_prefix('/') {
        Some(rest) => Ok(without_dots(&home.join(rest.trim_start_matches('/')))),
        None if rest.is_empty() => Ok(home.to_owned()),
        None => Err("`~name` is not understood; write ~/ or the whole path".to_owned()),
    }
}

/// Drops `.` components. `..` stays, for what it means depends on symlinks.
fn without_dots(path: &Path) -> PathBuf {
    path.components().filter(|component| *component != Component::CurDir).collect()
}

/// The place a path leads to: symlinks followed as far as it exists, the rest as it is written.
pub(super) fn place(path: &Path) -> PathBuf {
    let mut existing = path.to_owned();
    let mut rest: Vec<OsString> = Vec::new();
    loop {
        if let Ok(real) = existing.canonicalize() {
            return rest.iter().rev().fold(real, |place, name| place.join(name));
        }
        let last = existing.components().next_back().map(|last| last.as_os_str().to_owned());
        match last {
            Some(last) if existing.pop() => {
                // What is missing has no symlinks, so `a/..` below it is just nothing.
                if rest.last().is_some_and(|below| below == "..") && last != ".." {
                    rest.pop();
                } else {
                    rest.push(last);
                }
            }
            _ => return path.to_owned(),
        }
    }
}

/// How two places lie to each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Relation {
    Same,
    /// The first is inside the second.
    Inside,
    /// The second is inside the first.
    Around,
    Apart,
}

/// How `a` lies to `b`; both as [`place`] gives them.
pub(super) fn relation(a: &Path, b: &Path) -> Relation {
    if a == b {
        Relation::Same
    } else if a.starts_with(b) {
        Relation::Inside
    } else if b.starts_with(a) {
        Relation::Around
    } else {
        Relation::Apart
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_relative_to_the_config_and_know_home() {
        let directory = Path::new("/etc/ark");
        let home = Some(Path::new("/home/ada"));
        let resolved = |text| resolve(text, directory, home).expect("a path");
        assert_eq!(resolved("./data"), Path::new("/etc/ark/data"));
        assert_eq!(resolved("data/"), Path::new("/etc/ark/data"));
        assert_eq!(resolved("../data"), Path::new("/etc/ark/../data"));
        assert_eq!(resolved("/data"), Path::new("/data"));
        assert_eq!(resolved("~"), Path::new("/home/ada"));
        assert_eq!(resolved("~/x"), Path::new("/home/ada/x"));
        assert_eq!(resolved("~//x"), Path::new("/home/ada/x"));
        assert_eq!(resolved("a/~/x"), Path::new("/etc/ark/a/~/x"));
        for wrong in ["", "~ada/x", "a\0b"] {
            assert!(resolve(wrong, directory, home).is_err(), "{wrong:?}");
        }
        assert!(resolve("~/x", directory, None).is_err());
    }

    #[test]
    fn places_follow_symlinks_as_far_as_they_exist() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let root = directory.path().canonicalize().expect("it exists");
        std::fs::create_dir_all(root.join("real/deep")).expect("directories");
        std::os::unix::fs::symlink("real/deep", root.join("link")).expect("a symlink");
        assert_eq!(place(&root.join("link/new/er")), root.join("real/deep/new/er"));
        assert_eq!(place(&root.join("link/../x")), root.join("real/x"));
        assert_eq!(place(&root.join("new/../x")), root.join("x"));
        assert_eq!(place(&root.join("new/a/../../real")), root.join("real"));
    }

    #[test]
    fn relations() {
        let relation = |a, b| relation(Path::new(a), Path::new(b));
        assert_eq!(relation("/a/b", "/a/b"), Relation::Same);
        assert_eq!(relation("/a/b", "/a"), Relation::Inside);
        assert_eq!(relation("/a", "/a/b"), Relation::Around);
        assert_eq!(relation("/a/bc", "/a/b"), Relation::Apart);
    }
}
