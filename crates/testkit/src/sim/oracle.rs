//! What users wrote, and which of it somebody knowingly replaced or deleted.
//!
//! Each act of writing is a [`Token`]. A file on a simulated disk carries the tokens that stand
//! behind what it shows, unseen by ark: those of the user who wrote it, or, where ark put it
//! there, those of the acts (dots) that the joined tree has behind it. Who replaces or deletes a
//! file has had exactly these in front of him; whatever else was written must come out in the end.
//!
//! Two rules for equal content. Writing what is there already is no act. And content that a scan
//! finds to be what the joined tree says already, though the device has not shown it yet, is one
//! edit with it (DESIGN 5: such a path is adopted): it stands and falls with the acts behind it.

use std::collections::{BTreeMap, BTreeSet};

use ark_core::{Behind, Dot, RelPath};
use ark_folder::scan::FoundNode;

/// One act of writing.
pub(super) type Token = u64;
/// Several.
pub(super) type Tokens = BTreeSet<Token>;

/// What was written.
#[derive(Debug)]
pub(super) struct Written {
    /// The content.
    pub(super) node: FoundNode,
    /// Where, and what, for people.
    pub(super) words: String,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Oracle {
    next: Token,
    /// What must be somewhere in the end: what it is, in words.
    live: BTreeMap<Token, Written>,
    /// Which acts of writing a version stands for, by its dot and the path of its entry.
    by_dot: BTreeMap<(Dot, RelPath), Vec<(FoundNode, Tokens)>>,
    /// Versions of files that were knowingly replaced or deleted, by the acts that did it.
    dropped: BTreeMap<(Dot, RelPath), BTreeSet<Dot>>,
}

impl Oracle {
    /// Somebody writes content.
    pub(super) fn write(&mut self, node: FoundNode, words: String) -> Token {
        self.next += 1;
        self.live.insert(self.next, Written { node, words });
        self.next
    }

    /// Somebody replaces or deletes what stands for these.
    pub(super) fn kill(&mut self, tokens: &Tokens) {
        for token in tokens {
            self.live.remove(token);
        }
    }

    /// Whether any of these is still to be there.
    pub(super) fn is_any_live(&self, tokens: &Tokens) -> bool {
        tokens.iter().any(|token| self.live.contains_key(token))
    }

    /// What is still to be there.
    pub(super) fn live(&self) -> impl Iterator<Item = &Written> {
        self.live.values()
    }

    /// A store was put back: what only the lost one had is not looked for, nor is what was dropped
    /// by an act that nobody knows of any more held to be gone. An act that was published, is on no
    /// disk, and of which nobody knows any more, is not looked for beside others of the same
    /// content; one that was never published must come out.
    pub(super) fn lose(
        &mut self,
        is_lost: impl Fn(FoundNode) -> bool,
        is_known: impl Fn(Dot) -> bool,
        on_disk: &Tokens,
    ) {
        let of = |is_it: &dyn Fn(Dot) -> bool| -> Tokens {
            let versions = self.by_dot.iter().filter(|((dot, _), _)| is_it(*dot));
            versions.flat_map(|(_, versions)| versions).flat_map(|(_, it)| it).copied().collect()
        };
        let (published, known) = (of(&|_| true), of(&is_known));
        let is_forgotten = |token: &Token| published.contains(token) && !known.contains(token);
        self.live.retain(|token, written| {
            (on_disk.contains(token) || !is_forgotten(token)) && !is_lost(written.node)
        });
        self.dropped.retain(|_, by| {
            by.retain(|dot| is_known(*dot));
            !by.is_empty()
        });
    }

    /// A version of `node` was published under `dot` for the entry at `path`.
    pub(super) fn published(&mut self, dot: Dot, path: &RelPath, node: FoundNode, tokens: &Tokens) {
        let versions = self.by_dot.entry((dot, path.clone())).or_default();
        match versions.iter_mut().find(|(of, _)| *of == node) {
            Some((_, known)) => known.extend(tokens),
            None => versions.push((node, tokens.clone())),
        }
    }

    /// The versions behind what was shown at `path` were knowingly replaced or deleted by an act.
    pub(super) fn dropped(&mut self, by: Dot, path: &RelPath, behind: &Behind) {
        let entry = entry_path(path, behind);
        for dot in &behind.dots {
            self.dropped.entry((*dot, entry.clone())).or_default().insert(by);
        }
    }

    /// Whether the version of this dot at the entry `path` was knowingly replaced or deleted.
    pub(super) fn is_dropped(&self, dot: Dot, path: &RelPath) -> bool {
        self.dropped.contains_key(&(dot, path.clone()))
    }

    /// The acts of writing that stand behind `node` shown at `path`.
    pub(super) fn behind(&self, path: &RelPath, behind: &Behind, node: FoundNode) -> Tokens {
        let entry = entry_path(path, behind);
        let versions =
            behind.dots.iter().filter_map(|dot| self.by_dot.get(&(*dot, entry.clone()))).flatten();
        versions.filter(|(of, _)| *of == node).flat_map(|(_, tokens)| tokens).copied().collect()
    }

    /// Content that was written as `tokens` is taken for what `known` stands for.
    pub(super) fn same(&mut self, tokens: &Tokens, known: &Tokens) {
        if !known.is_empty() {
            for token in tokens.difference(known) {
                self.live.remove(token);
            }
        }
    }
}

/// The path of the entry whose version is shown at `path`.
fn entry_path(path: &RelPath, behind: &Behind) -> RelPath {
    let (parent, _) = path.split_last().expect("the root is never shown as a path");
    parent.join(behind.name.clone())
}

#[cfg(test)]
mod tests {
    use ark_core::{DeviceId, Incarnation, Writer};

    use super::*;

    fn dot(sequence: u64) -> Dot {
        let device = DeviceId::from_bytes([1; 32]);
        Dot { writer: Writer { device, incarnation: Incarnation::new(1) }, sequence }
    }

    fn path(name: &str) -> RelPath {
        RelPath::parse(name.as_bytes()).unwrap()
    }

    fn node(n: u8) -> FoundNode {
        FoundNode::Symlink { target: ark_core::ObjectId::of(&[n]), size: 1 }
    }

    fn write(oracle: &mut Oracle, n: u8) -> Tokens {
        Tokens::from([oracle.write(node(n), n.to_string())])
    }

    fn live(oracle: &Oracle) -> Vec<&str> {
        oracle.live().map(|written| written.words.as_str()).collect()
    }

    #[test]
    fn a_store_put_back_excuses_only_what_had_been_published() {
        let mut oracle = Oracle::default();
        let [forgotten, known, unpublished, on_disk] = [1, 2, 3, 4].map(|n| write(&mut oracle, n));
        oracle.published(dot(1), &path("a"), node(1), &forgotten);
        oracle.published(dot(2), &path("b"), node(2), &known);
        oracle.published(dot(3), &path("d"), node(4), &on_disk);
        assert_eq!(unpublished.len(), 1);
        oracle.lose(|_| false, |dot| dot.sequence == 2, &on_disk);
        assert_eq!(live(&oracle), ["2", "3", "4"]);
    }
}
