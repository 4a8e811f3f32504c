//! Names for files that are taken aside: what was in the place of what ark puts there, until it is
//! known whether it is what base says or an edit of the last moment.
//!
//! Such a name says what may stand under it without being anybody's edit, so that if the process
//! ends before that was looked at, whoever finds it can tell.

use ark_core::RelPath;

use super::place::give_back;
use crate::fs::{Dir, FsError, Root, Stat, temporary_name};

/// Between the parts of a name.
const SEPARATOR: u8 = b'-';
/// Hex digits of the hash of a stat.
const DIGITS: usize = 16;
/// The most bytes of a name on nearly all file systems.
pub(super) const MAX_NAME: usize = 255;

/// A name for what stands at `name`, where `expected` is; `ours` may come to stand under it, too.
///
/// It is a temporary's name, the two stats hashed, and the end of `name` as far as it fits.
pub(super) fn aside_name(expected: &Stat, ours: Option<&Stat>, name: &[u8]) -> Vec<u8> {
    let mut aside = temporary_name();
    for stat in [expected, ours.unwrap_or(expected)] {
        aside.push(SEPARATOR);
        aside.extend_from_slice(hash(stat).as_bytes());
    }
    aside.push(SEPARATOR);
    let room = MAX_NAME - aside.len();
    aside.extend_from_slice(&name[name.len().saturating_sub(room)..]);
    aside
}

/// Hash of what tells a content apart: that of the file which it is taken for.
fn hash(stat: &Stat) -> String {
    let text = format!("{:?} {} {:?} {}", stat.kind, stat.ino, stat.mtime, stat.size);
    let mut hex = blake3::hash(text.as_bytes()).to_hex().to_string();
    hex.truncate(DIGITS);
    hex
}

/// What [`aside_name`] put into a name: the hashes, and the end of the name that it had.
fn parse(aside: &[u8]) -> Option<([&[u8]; 2], &[u8])> {
    let rest = aside.get(temporary_name().len()..)?;
    let (first, rest) = rest.strip_prefix(&[SEPARATOR])?.split_at_checked(DIGITS)?;
    let (second, rest) = rest.strip_prefix(&[SEPARATOR])?.split_at_checked(DIGITS)?;
    let name = rest.strip_prefix(&[SEPARATOR])?;
    (!name.is_empty()).then_some(([first, second], name))
}

/// Removes temporaries that a crash left: a directory and a name in it each. A user's file that
/// was taken aside is given back. Blocking. What fails now is found by the next scan of everything.
pub(crate) fn sweep(root: &Root, leftovers: &[(RelPath, Vec<u8>)]) {
    for (directory, name) in leftovers {
        match root.dir(directory).and_then(|dir| sweep_one(&dir, name)) {
            Err(error) if !error.is_absent() => {
                tracing::warn!(error = %error.in_words(), "a temporary cannot be removed");
            }
            _ => {}
        }
    }
}

fn sweep_one(dir: &Dir, name: &[u8]) -> Result<(), FsError> {
    if let Some((expected, given_to)) = parse(name) {
        let found = hash(&dir.stat(name)?);
        if !expected.contains(&found.as_bytes()) {
            return give_back(dir, name, given_to);
        }
    }
    dir.unlink(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_what_may_go_and_what_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::open(folder.path()).unwrap();
        std::fs::write(folder.path().join("a-b"), "content").unwrap();
        let stat = root.top().stat(b"a-b").unwrap();
        let aside = aside_name(&stat, None, b"a-b");
        let digits = hash(&stat);
        assert_eq!(parse(&aside), Some(([digits.as_bytes(); 2], b"a-b".as_slice())));
        let long = [b'x'; 255];
        let aside = aside_name(&stat, None, &long);
        assert_eq!(aside.len(), MAX_NAME);
        assert!(parse(&aside).is_some_and(|(_, name)| long.ends_with(name)));
        assert_eq!(parse(&temporary_name()), None);
        assert_eq!(parse(b".ark-tmp-"), None);
    }

    /// As if the process had ended right after a file was taken aside.
    #[test]
    fn an_edit_that_a_crash_left_aside_is_given_back_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::open(folder.path()).unwrap();
        let write = |name: &str, content: &str| {
            std::fs::write(folder.path().join(name), content).unwrap();
            root.top().stat(name.as_bytes()).unwrap()
        };
        let [seen, ours] = ["f", "ours"].map(|name| write(name, "as base says"));
        let leave = |name: &str, aside: Vec<u8>| {
            root.top().rename(name.as_bytes(), root.top(), &aside).unwrap();
            (RelPath::root(), aside)
        };
        // What base says, a half-written temporary, ark's own file, an edit in the last moment.
        let old = leave("f", aside_name(&seen, Some(&ours), b"f"));
        write("half", "hal");
        let half = leave("half", temporary_name());
        let own = leave("ours", aside_name(&seen, Some(&ours), b"f"));
        write("g", "edited by the user");
        let edit = leave("g", aside_name(&seen, Some(&ours), b"g"));
        let mut leftovers = vec![old, half, own, edit];
        // Its name is taken by now.
        write("g", "another edit");
        let other = leave("g", aside_name(&seen, None, b"g"));
        leftovers.push(other);
        sweep(&root, &leftovers);
        let mut left: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| {
                let name = entry.file_name().into_string().unwrap();
                (name, std::fs::read_to_string(entry.path()).unwrap())
            })
            .collect();
        left.sort();
        let contents: Vec<&str> = left.iter().map(|(_, content)| content.as_str()).collect();
        assert_eq!(contents, ["edited by the user", "another edit"], "{left:?}");
        assert_eq!(left[0].0, "g");
        assert!(left[1].0.starts_with("g.conflict-"), "{left:?}");
    }
}
