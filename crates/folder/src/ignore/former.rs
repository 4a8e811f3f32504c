//! By which rules a folder was last looked at: what a scan used, and the durable form of it.
//!
//! A path that went while a rule held is not to be removed elsewhere when the rule goes, be it
//! over a restart. So the rules are remembered once what was found by them is recorded, never
//! before.

use std::collections::BTreeMap;

use ark_core::RelPath;
use rkyv::{Archive, Deserialize, Serialize};

use super::{RULES_FILE, Seen};
use crate::base::{BaseError, BaseView, decode, encode};
use crate::fs::{Root, Stat};

/// The name of the record that holds [`FormerRules`].
pub(crate) const RULES_META: &str = "folder-rules";

/// The rules by which a folder was last looked at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FormerRules {
    /// The patterns of the config, as of the last whole scan.
    pub config: Vec<String>,
    /// The content of the files of rules, per directory as of the last time that all was looked
    /// at that they govern.
    pub files: BTreeMap<RelPath, Vec<u8>>,
}

/// What a scan used, to be remembered once its result is recorded: see
/// [`Rules::learn`](super::Rules::learn).
#[derive(Debug, Clone, Default)]
pub struct Learned {
    /// Rules of directories that were walked whole.
    pub(super) governing: Vec<Used>,
    /// Paths at which nothing is any more.
    pub(super) absent: Vec<RelPath>,
    /// Whether the folder was walked whole.
    pub(super) is_all: bool,
}

/// The rules that a scan used in one directory.
#[derive(Debug, Clone)]
pub(crate) struct Used {
    pub(super) directory: RelPath,
    /// The file that holds them.
    pub(super) stat: Option<Stat>,
    pub(super) seen: Option<Seen>,
    /// Whether the directory had other rules before.
    pub(super) is_changed: bool,
}

impl Learned {
    pub(crate) fn new(governing: Vec<Used>, absent: Vec<RelPath>, is_all: bool) -> Self {
        Self { governing, absent, is_all }
    }

    /// Whether anything may be remembered otherwise afterwards.
    pub(crate) fn may_matter(&self) -> bool {
        self.is_all || self.is_changed() || !self.absent.is_empty()
    }

    /// Whether what was walked is governed by other rules than before.
    pub(crate) fn is_changed(&self) -> bool {
        self.governing.iter().any(|used| used.is_changed)
    }
}

impl Used {
    /// Whether other rules, or none, held in the directory before.
    pub(crate) fn is_changed(&self) -> bool {
        self.is_changed
    }

    /// The directory, unless its rules are as they were used.
    pub(crate) fn if_changed(&self, root: &Root) -> Option<&RelPath> {
        let now = root.dir(&self.directory).and_then(|dir| dir.stat(RULES_FILE));
        let is_same = match (now, &self.stat) {
            (Ok(now), Some(before)) => now.unchanged(before),
            (Err(error), None) => error.is_absent(),
            _ => false,
        };
        (!is_same).then_some(&self.directory)
    }
}

/// The archive of [`FormerRules`]. The path of the root has no bytes.
#[derive(Archive, Serialize, Deserialize)]
struct FormerWire {
    config: Vec<String>,
    files: Vec<(Vec<u8>, Vec<u8>)>,
}

impl FormerRules {
    /// What is recorded; `None`: nothing yet.
    ///
    /// # Errors
    /// It could not be read.
    pub(crate) fn recorded(base: &BaseView) -> Result<Option<Self>, BaseError> {
        let value = base.meta(RULES_META)?;
        let damaged = |reason| BaseError::Record { path: RULES_META.to_owned(), reason };
        value.map(|value| Self::decode(&value).map_err(damaged)).transpose()
    }

    /// The record for [`RULES_META`].
    pub(crate) fn encode(&self) -> Vec<u8> {
        let files = self.files.iter().map(|(path, text)| (path.to_bytes(), text.clone()));
        encode(&FormerWire { config: self.config.clone(), files: files.collect() })
    }

    fn decode(value: &[u8]) -> Result<Self, String> {
        let FormerWire { config, files } = decode(value)?;
        let file = |(path, text): (Vec<u8>, Vec<u8>)| {
            let path = if path.is_empty() {
                RelPath::root()
            } else {
                RelPath::parse(&path).map_err(|error| error.to_string())?
            };
            Ok((path, text))
        };
        Ok(Self { config, files: files.into_iter().map(file).collect::<Result<_, String>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_come_back_as_they_were() {
        let path = RelPath::parse(b"a/b").expect("a path");
        let former = FormerRules {
            config: vec!["*.log".to_owned(), "{".to_owned()],
            files: [(RelPath::root(), b"x\n".to_vec()), (path, vec![0xff])].into(),
        };
        let record = former.encode();
        assert_eq!(FormerRules::decode(&record), Ok(former));
        assert!(FormerRules::decode(&record[..record.len() - 1]).is_err());
        assert!(FormerRules::decode(&[]).is_err());
    }
}
