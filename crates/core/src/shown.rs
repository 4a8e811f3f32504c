//! What a directory shows: what is in place under its own name, and each version that a
//! conflict set aside as a copy under a name derived from the entry's name and its content.
//!
//! `stem.conflict-<8 hex digits of the content hash>.ext`. Derived names are not stored, so all
//! devices show the same.

use std::collections::HashSet;
use std::ops::Range;

use crate::dir::{entries, entries_aside, get};
use crate::entry::{Entry, MAX_PATH_DEPTH, Name, Node, RelPath, Version};
use crate::id::ObjectId;
use crate::object::{Link, Read, TreeError};

/// Stands before the hex digits in a copy's name.
const MARK: &[u8] = b".conflict-";
/// The hex digits of the content hash in a copy's name, and how many more at each collision.
const DIGITS: usize = 8;
/// The most hex digits in a copy's name: those of a whole hash.
const MAX_DIGITS: usize = 64;
/// The most bytes of a copy's name: what a name may have on Linux.
const MAX_COPY_NAME: usize = 255;
/// The most bytes, dot included, that are an extension; more is part of the stem.
const MAX_EXTENSION: usize = 33;

/// One path of a directory as the user sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shown {
    /// The name shown.
    pub name: Name,
    /// The name of the entry that it belongs to: the same, but for copies.
    pub of: Name,
    /// What it shows.
    pub version: Version,
}

/// All that the directory `root` shows, sorted by the names shown.
///
/// # Errors
/// A node that cannot be read, or is damaged.
pub fn shown<R: Read>(read: &R, root: ObjectId) -> Result<Vec<Shown>, TreeError<R::Error>> {
    let mut shown = shown_aside(read, root)?;
    for entry in entries(read, root) {
        let Entry { name, mut versions } = entry?;
        if versions.first().is_some_and(|version| !version.aside) {
            let version = versions.swap_remove(0);
            shown.push(Shown { name: name.clone(), of: name, version });
        }
    }
    shown.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(shown)
}

/// Only the copies that the directory `root` shows, sorted by the names shown. Reads the nodes
/// around them, and one path through the tree per copy.
///
/// # Errors
/// A node that cannot be read, or is damaged.
pub fn shown_aside<R: Read>(read: &R, root: ObjectId) -> Result<Vec<Shown>, TreeError<R::Error>> {
    let mut copies = Vec::new();
    let mut taken = HashSet::new();
    for entry in entries_aside(read, root) {
        push_copies(read, root, &entry?, &mut taken, &mut copies)?;
    }
    copies.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(copies)
}

/// The shown paths of all copies in the tree `root`, at most `limit`: of each directory before
/// those of the directories in it. What has no copies below is not read.
///
/// # Errors
/// A node that cannot be read, or is damaged.
pub fn conflicts<R: Read>(
    read: &R,
    root: ObjectId,
    limit: usize,
) -> Result<Vec<RelPath>, TreeError<R::Error>> {
    let mut paths = Vec::new();
    let mut open = vec![(RelPath::root(), root)];
    while let Some((path, root)) = open.pop()
        && paths.len() < limit
    {
        if path.names().len() > MAX_PATH_DEPTH {
            return Err(TreeError::TooDeep { link: Link::directory(root) });
        }
        let (mut copies, mut taken, mut below) = (Vec::new(), HashSet::new(), Vec::new());
        for entry in entries_aside(read, root) {
            let entry = entry?;
            push_copies(read, root, &entry, &mut taken, &mut copies)?;
            if let Some(Node::Directory { root, totals }) = entry.in_place().map(|v| v.node)
                && totals.aside > 0
            {
                below.push((path.join(entry.name), root));
            }
        }
        copies.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        paths.extend(copies.into_iter().map(|copy| path.join(copy.name)));
        open.extend(below.into_iter().rev());
    }
    paths.truncate(limit);
    Ok(paths)
}

/// Adds the copies of one entry; entries come in order of name. `taken`: names of earlier copies.
fn push_copies<R: Read>(
    read: &R,
    root: ObjectId,
    entry: &Entry,
    taken: &mut HashSet<Name>,
    copies: &mut Vec<Shown>,
) -> Result<(), TreeError<R::Error>> {
    for version in entry.aside() {
        for name in copy_names(&entry.name, version.node.link().id) {
            if !taken.contains(&name) && get(read, root, &name)?.is_none() {
                taken.insert(name.clone());
                copies.push(Shown { name, of: entry.name.clone(), version: version.clone() });
                break;
            }
        }
    }
    Ok(())
}

/// The names under which a version of the entry `of` is shown while it is aside, in the order in
/// which they are tried: without end, each longer than the one before up to a whole hash. `content`
/// is what it links.
pub fn copy_names(of: &Name, content: ObjectId) -> impl Iterator<Item = Name> + '_ {
    let parts = Parts::of(of);
    (1..).map(move |attempt| parts.copy_name(content, of, attempt))
}

/// A name without the part that marks a copy.
struct Parts {
    stem: Vec<u8>,
    /// With its dot; may be empty.
    extension: Vec<u8>,
}

impl Parts {
    fn of(name: &Name) -> Self {
        let mut plain = name.as_bytes().to_vec();
        while let Some(mark) = mark(&plain) {
            plain.drain(mark);
        }
        let dot = plain.iter().rposition(|&byte| byte == b'.').unwrap_or(0);
        let is_extension = dot > 0 && plain.len() - dot <= MAX_EXTENSION;
        let extension = if is_extension { plain[dot..].to_vec() } else { Vec::new() };
        Self { stem: plain[..plain.len() - extension.len()].to_vec(), extension }
    }

    /// The copy's name, `attempt` times as long in hex digits. Where the digits of the content
    /// hash are used up, those of other hashes follow, without end.
    fn copy_name(&self, id: ObjectId, name: &Name, attempt: usize) -> Name {
        let hash_digits = data_encoding::HEXLOWER.encode(id.as_bytes());
        let digits = hash_digits.get(..DIGITS * attempt).map_or_else(
            || {
                let attempt = (attempt as u64).to_le_bytes();
                let more = [&id.as_bytes()[..], &attempt, name.as_bytes()].concat();
                data_encoding::HEXLOWER.encode(ObjectId::of(&more).as_bytes())
            },
            str::to_owned,
        );
        let most = MAX_COPY_NAME - MARK.len() - digits.len() - self.extension.len();
        let stem = shortened(&self.stem, most);
        let bytes = [stem, MARK, digits.as_bytes(), &self.extension].concat();
        // The stem is not empty and begins as a name does that is no reserved one.
        Name::new(&bytes).expect("a name with more behind its beginning is a name")
    }
}

/// Where a name marks a copy, if it does: with 8, 16 .. 64 digits, at the end or before a dot, and
/// something before it.
fn mark(name: &[u8]) -> Option<Range<usize>> {
    let marks = name.windows(MARK.len()).enumerate().filter(|(_, window)| *window == MARK);
    marks.map(|(at, _)| at).filter(|at| *at > 0).find_map(|at| {
        let rest = &name[at + MARK.len()..];
        let is_digit = |byte: &&u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let digits = rest.iter().take_while(is_digit).count();
        let is_mark = (DIGITS..=MAX_DIGITS).contains(&digits)
            && digits % DIGITS == 0
            && matches!(rest.get(digits), None | Some(b'.'));
        is_mark.then_some(at..at + MARK.len() + digits)
    })
}

/// At most `most` bytes of a stem; where it is UTF-8, whole characters.
fn shortened(stem: &[u8], most: usize) -> &[u8] {
    if stem.len() <= most {
        return stem;
    }
    match std::str::from_utf8(stem) {
        Ok(text) => &stem[..text.floor_char_boundary(most)],
        Err(_) => &stem[..most],
    }
}

#[cfg(test)]
mod tests;
