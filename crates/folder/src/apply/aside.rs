//! Names for files that are taken aside: what was in the place of what ark puts there, until it is
//! known whether it is what base says or an edit of the last moment.
//!
//! Such a name says what may stand under it without being anybody's edit, so that if the process
//! ends before that was looked at, whoever finds it can tell.

use ark_core::{RESERVED_NAME, RESERVED_PREFIX, RelPath};

use super::place::give_back;
use crate::fs::{Dir, FsError, FsErrorKind, Root, Stat, temporary_name};

/// Between the parts of a name.
const SEPARATOR: u8 = b'-';
/// Hex digits of the hash of a stat.
const DIGITS: usize = 16;
/// The most bytes of a name that ark makes up, where more would help nobody or are not taken:
/// eCryptfs takes no more, as it has to fit what it makes of a name into the 255 that the file
/// systems below it take.
const MAX_MADE_NAME: usize = 143;
/// The most bytes of a name that nearly all others take.
const MAX_NAME: usize = 255;

/// Renames `from` to a name that says that what stands at `name` is taken aside, where `expected`
/// is, and gives that name; `ours` may come to stand under it, too.
///
/// # Errors
/// As [`Dir::rename`].
pub(super) fn take_aside(
    dir: &Dir,
    from: &[u8],
    name: &[u8],
    expected: &Stat,
    ours: Option<&Stat>,
) -> Result<Vec<u8>, FsError> {
    let renamed = |longest| {
        let aside = aside_name(expected, ours, name, longest);
        dir.rename(from, dir, &aside).map(|()| aside)
    };
    match renamed(MAX_NAME) {
        Err(error) if error.kind() == FsErrorKind::NameTooLong => renamed(MAX_MADE_NAME),
        other => other,
    }
}

/// A temporary's name, the two stats hashed, and the end of `name` as far as it fits into
/// `longest` bytes.
fn aside_name(expected: &Stat, ours: Option<&Stat>, name: &[u8], longest: usize) -> Vec<u8> {
    let mut aside = temporary_name();
    for stat in [expected, ours.unwrap_or(expected)] {
        aside.push(SEPARATOR);
        aside.extend_from_slice(hash(stat).as_bytes());
    }
    aside.push(SEPARATOR);
    let room = longest - aside.len();
    aside.extend_from_slice(shortened(name, room));
    aside
}

/// A name beside `name` that nobody else uses.
pub(super) fn name_beside(name: &[u8]) -> Vec<u8> {
    let mark = format!(".conflict-{:08x}", rand::random::<u32>());
    shortened(&[name, mark.as_bytes()].concat(), MAX_MADE_NAME).to_vec()
}

/// The end of `name`, at most `room` bytes of it. A file may be given it for a name: where `name`
/// is UTF-8 no character is cut, as macOS takes nothing else, and it is not a reserved one, under
/// which the file would not be seen.
fn shortened(name: &[u8], room: usize) -> &[u8] {
    let cut = name.len().saturating_sub(room);
    let cut = std::str::from_utf8(name).map_or(cut, |text| text.ceil_char_boundary(cut));
    let end = &name[cut..];
    let is_reserved = end == RESERVED_NAME || end.starts_with(RESERVED_PREFIX);
    if is_reserved { &end[1..] } else { end }
}

/// Hash of what tells a content apart: that of the file which it is taken for.
fn hash(stat: &Stat) -> String {
    let text = format!("{:?} {} {:?} {}", stat.kind, stat.ino, stat.mtime, stat.size);
    let mut hex = blake3::hash(text.as_bytes()).to_hex().to_string();
    hex.truncate(DIGITS);
    hex
}

/// What [`take_aside`] put into a name: the hashes, and the end of the name that it had.
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
        let aside = aside_name(&stat, None, b"a-b", MAX_NAME);
        let digits = hash(&stat);
        assert_eq!(parse(&aside), Some(([digits.as_bytes(); 2], b"a-b".as_slice())));
        assert_eq!(parse(&temporary_name()), None);
        assert_eq!(parse(b".ark-tmp-"), None);
    }

    /// What file systems take that take less than others: eCryptfs, APFS.
    fn is_taken_everywhere(name: &[u8]) -> bool {
        name.len() <= 143 && std::str::from_utf8(name).is_ok()
    }

    /// Names of `length` bytes or a few more, of characters of one to four.
    fn names(length: usize) -> impl Iterator<Item = String> {
        ["x", "é", "€", "𝄞"].into_iter().flat_map(move |character| {
            let count = length.div_ceil(character.len());
            (0..4).map(move |shift| format!("{}{}", "x".repeat(shift), character.repeat(count)))
        })
    }

    #[test]
    fn names_made_of_long_ones_are_taken_everywhere() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::open(folder.path()).unwrap();
        std::fs::write(folder.path().join("f"), "content").unwrap();
        let stat = root.top().stat(b"f").unwrap();
        let overhead = aside_name(&stat, None, b"", MAX_NAME).len();
        for name in (1..=255).flat_map(names) {
            let aside = aside_name(&stat, None, name.as_bytes(), MAX_MADE_NAME);
            assert!(is_taken_everywhere(&aside), "{name}: {aside:?}");
            let (_, end) = parse(&aside).expect("it says what it was");
            assert!(name.as_bytes().ends_with(end), "{name}: {aside:?}");
            // No more is cut than has to be.
            let left = MAX_MADE_NAME - overhead - end.len();
            assert!(end.len() == name.len() || left < 4, "{name}: {left} bytes left");
            let beside = name_beside(name.as_bytes());
            assert!(is_taken_everywhere(&beside), "{name}: {beside:?}");
            assert!(!name.as_bytes().starts_with(&beside), "{name}: {beside:?}");
        }
    }

    #[test]
    fn what_is_no_text_is_cut_where_it_is_too_long() {
        let long = [0xff; 255];
        assert_eq!(shortened(&long, 83), &long[..83]);
        assert_eq!(shortened(&long, 255), &long);
        assert_eq!(name_beside(&long).len(), MAX_MADE_NAME);
    }

    #[test]
    fn no_name_is_cut_to_a_reserved_one() {
        for (name, room, expected) in [
            ("x.ark-tmp-0", 10, "ark-tmp-0"),
            ("x.ark", 4, "ark"),
            ("x.arkignore", 10, ".arkignore"),
            ("x..ark-", 5, "ark-"),
        ] {
            assert_eq!(shortened(name.as_bytes(), room), expected.as_bytes(), "{name}");
        }
    }

    /// A kill right after it was taken aside, of as long a name as leaves room for what is added.
    #[test]
    fn a_long_name_comes_back_whole_where_names_may_be_long() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::open(folder.path()).unwrap();
        for length in [1, 83, 84, 143, 190] {
            let name = "x".repeat(length - 1) + "y";
            std::fs::write(folder.path().join(&name), "seen").unwrap();
            let seen = root.top().stat(name.as_bytes()).unwrap();
            std::fs::write(folder.path().join(&name), "edited by the user").unwrap();
            let name = name.as_bytes();
            let aside = take_aside(root.top(), name, name, &seen, None).unwrap();
            sweep(&root, &[(RelPath::root(), aside)]);
            assert!(root.top().stat(name).is_ok(), "{length}");
        }
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
        let old = leave("f", aside_name(&seen, Some(&ours), b"f", MAX_NAME));
        write("half", "hal");
        let half = leave("half", temporary_name());
        let own = leave("ours", aside_name(&seen, Some(&ours), b"f", MAX_NAME));
        write("g", "edited by the user");
        let edit = leave("g", aside_name(&seen, Some(&ours), b"g", MAX_NAME));
        let mut leftovers = vec![old, half, own, edit];
        // Its name is taken by now.
        write("g", "another edit");
        let other = leave("g", aside_name(&seen, None, b"g", MAX_NAME));
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
