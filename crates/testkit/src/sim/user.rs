//! What a user does to a folder: whatever stands in the way of it is knowingly replaced.

use std::collections::BTreeSet;

use ark_core::{Name, RelPath};
use bytes::Bytes;

use super::dice::Dice;
use super::disk::{Disk, Places, SYMLINK_BITS, Thing};
use super::oracle::{Oracle, Tokens};

/// The names that are used: few, so that all that can meet does.
const NAMES: [&str; 4] = ["a", "b.txt", "c", "d"];
/// Bits that are set.
const BITS: [u32; 4] = [0o700, 0o755, 0o750, 0o511];
/// Stands in the name of a copy.
const COPY_MARK: &str = ".conflict-";
/// Bytes of a content that is cut into chunks: above 1 MiB.
const LARGE: usize = (1 << 20) + 300_000;

/// A user at work.
pub(super) struct User<'a> {
    pub(super) disk: &'a mut Disk,
    pub(super) oracle: &'a mut Oracle,
    pub(super) dice: &'a mut Dice,
    /// Seconds of the device's clock.
    pub(super) clock: i64,
    /// Number of the next content.
    pub(super) next: &'a mut u64,
}

/// What was done, and where the watch sees something.
pub(super) type Deed = (String, BTreeSet<RelPath>);

impl User<'_> {
    /// Does something, if it can be done.
    pub(super) fn act(&mut self) -> Option<Deed> {
        let deed = match self.dice.below(100) {
            0..38 => self.write(),
            38..52 => self.delete(),
            52..68 => self.rename(),
            68..74 => self.chmod(),
            74..79 => self.touch(),
            79..87 => Some(self.link()),
            87..94 => self.make_directory(),
            _ => self.swap(),
        };
        // As in a journal, what came before is durable with it.
        self.disk.sync();
        deed
    }

    /// Settles a conflict, if there is one: what a copy has becomes the file's, too, or one of two
    /// that have the same is taken away.
    pub(super) fn settle(&mut self) -> Option<Deed> {
        let places = self.disk.places().iter();
        let copies = places.filter_map(|(path, place)| Some((path, place, original(path)?)));
        let mut files = copies.filter(|(_, place, _)| !place.is_directory());
        let at = self.dice.index(files.clone().count());
        let (copy, place, plain) = files.nth(at)?;
        let (copy, thing) = (copy.clone(), place.thing.clone());
        let is_same = self.disk.at(&plain).is_some_and(|place| place.thing == thing);
        let deed = if is_same {
            let gone = if self.dice.percent(50) { copy } else { plain };
            self.remove(&gone);
            (format!("takes {gone} away"), [gone].into())
        } else {
            let bits = if matches!(thing, Thing::Symlink(_)) { SYMLINK_BITS } else { 0o644 };
            self.put(&plain, thing, bits);
            (format!("copies {copy} to {plain}"), [plain].into())
        };
        self.disk.sync();
        Some(deed)
    }

    /// Writes a content at a path.
    pub(super) fn save(&mut self, path: &RelPath, content: Bytes) -> Deed {
        self.put(path, Thing::File(content), 0o644);
        self.disk.sync();
        (format!("writes {path}"), [path.clone()].into())
    }

    fn any_path(&mut self) -> RelPath {
        let depth = self.dice.between((1, 3));
        let names = (0..depth).map(|_| *self.dice.pick(&NAMES).expect("there are names"));
        let names: Vec<&str> = names.collect();
        RelPath::parse(names.join("/").as_bytes()).expect("they are names")
    }

    fn present(&mut self) -> Option<RelPath> {
        let at = self.dice.index(self.disk.places().len());
        self.disk.places().keys().nth(at).cloned()
    }

    fn target(&mut self) -> RelPath {
        let present = if self.dice.percent(45) { self.present() } else { None };
        present.unwrap_or_else(|| self.any_path())
    }

    fn let_go(&mut self, gone: Places) {
        for (_, place) in gone {
            self.oracle.kill(&place.tokens);
        }
    }

    fn remove(&mut self, path: &RelPath) {
        let gone = self.disk.remove(path);
        self.let_go(gone);
    }

    /// Makes way: the directories above `path`, whatever stood in their place.
    fn make_way(&mut self, path: &RelPath) {
        for depth in 1..path.names().len() {
            let parent = RelPath::from(path.names()[..depth].to_vec());
            if !self.disk.is_directory(&parent) {
                self.remove(&parent);
                self.disk.put(&parent, Thing::Directory, 0o755, self.clock, None);
            }
        }
    }

    fn content(&mut self) -> Bytes {
        *self.next += 1;
        match self.dice.below(100) {
            // Different users often make the same.
            0..18 => Bytes::from(format!("same {}", self.dice.below(3))),
            18..20 => {
                let mut dice = Dice::new(*self.next);
                let words = (0..LARGE / 8).flat_map(|_| dice.any().to_le_bytes());
                words.collect::<Vec<u8>>().into()
            }
            20 => Bytes::new(),
            _ => Bytes::from(format!("content {}", self.next)),
        }
    }

    /// Puts content at a path, which stands for a new act of writing unless it was there.
    fn put(&mut self, path: &RelPath, thing: Thing, bits: u32) {
        self.make_way(path);
        if self.disk.at(path).is_some_and(|place| place.thing == thing) {
            self.disk.set_mtime(path, None, self.clock);
            return;
        }
        // An editor's save keeps the bits; it writes in place, or a new file that it renames.
        let is_file = |thing: &Thing| matches!(thing, Thing::File(_));
        let there = self.disk.at(path).filter(|place| is_file(&place.thing) && is_file(&thing));
        let bits = there.map_or(bits, |place| place.bits);
        let in_place = there.is_some() && self.dice.percent(50);
        if let (Thing::File(bytes), true) = (&thing, in_place) {
            let tokens = self.disk.at(path).map(|place| place.tokens.clone());
            self.oracle.kill(&tokens.unwrap_or_default());
            self.disk.rewrite(path, bytes.clone(), self.clock);
        } else {
            self.remove(path);
            self.disk.put(path, thing, bits, self.clock, None);
        }
        let place = self.disk.at_mut(path).expect("it was just put there");
        let words = format!("{path}: {}", place.words());
        place.tokens = Tokens::from([self.oracle.write(place.node, words)]);
    }

    fn write(&mut self) -> Option<Deed> {
        let path = self.target();
        let content = self.content();
        let bits = if self.dice.percent(10) { 0o755 } else { 0o644 };
        self.put(&path, Thing::File(content), bits);
        let words = self.disk.at(&path)?.words();
        Some((format!("writes {path}: {words}"), [path].into()))
    }

    fn link(&mut self) -> Deed {
        let path = self.target();
        *self.next += 1;
        let target = Bytes::from(format!("target {}", *self.next));
        self.put(&path, Thing::Symlink(target), SYMLINK_BITS);
        (format!("links {path}"), [path].into())
    }

    fn make_directory(&mut self) -> Option<Deed> {
        let path = self.target();
        if self.disk.is_directory(&path) {
            return None;
        }
        self.make_way(&path);
        self.remove(&path);
        self.disk.put(&path, Thing::Directory, 0o755, self.clock, None);
        Some((format!("makes {path}"), [path].into()))
    }

    fn delete(&mut self) -> Option<Deed> {
        let path = self.present()?;
        self.remove(&path);
        Some((format!("deletes {path}"), [path].into()))
    }

    fn rename(&mut self) -> Option<Deed> {
        let (from, to) = (self.present()?, self.target());
        if from.starts_with(&to) || to.starts_with(&from) {
            return None;
        }
        self.make_way(&to);
        // What stood in the way may have been what was to be renamed.
        self.disk.at(&from)?;
        self.remove(&to);
        self.disk.rename(&from, &to, self.clock);
        Some((format!("renames {from} to {to}"), [from, to].into()))
    }

    fn swap(&mut self) -> Option<Deed> {
        let (a, b) = (self.present()?, self.present()?);
        if a == b || self.disk.is_directory(&a) || self.disk.is_directory(&b) {
            return None;
        }
        self.disk.exchange(&a, &b, self.clock);
        Some((format!("swaps {a} and {b}"), [a, b].into()))
    }

    fn chmod(&mut self) -> Option<Deed> {
        let path = self.present()?;
        let bits = *self.dice.pick(&BITS)?;
        if matches!(self.disk.at(&path)?.thing, Thing::Symlink(_)) {
            return None;
        }
        self.disk.set_bits(&path, bits, self.clock);
        Some((format!("sets the bits of {path} to {bits:o}"), [path].into()))
    }

    fn touch(&mut self) -> Option<Deed> {
        let path = self.present()?;
        self.disk.set_mtime(&path, None, self.clock);
        Some((format!("touches {path}"), [path].into()))
    }
}

/// The path that a copy was made of, if its name says that it is one.
fn original(path: &RelPath) -> Option<RelPath> {
    let (directory, name) = path.split_last()?;
    let name = std::str::from_utf8(name.as_bytes()).ok()?;
    let (stem, rest) = name.split_once(COPY_MARK)?;
    let extension = rest.trim_start_matches(|digit: char| digit.is_ascii_hexdigit());
    Some(directory.join(Name::new(format!("{stem}{extension}").as_bytes()).ok()?))
}
