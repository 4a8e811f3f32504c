//! One file of rules: read, held to its bounds, and made rules of.

use std::io::Read as _;
use std::sync::Arc;

use ark_core::RelPath;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::{MAX_RULES_BYTES, RULES_FILE, RulesError};
use crate::fs::{Dir, FsErrorKind, Stat};

/// What it says, and when that was so.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// `None`: of an earlier run. The file is to be read again.
    pub(super) stat: Option<Stat>,
    pub(super) text: Arc<[u8]>,
    pub(super) rules: Arc<Gitignore>,
    pub(super) faults: Arc<[String]>,
}

impl Seen {
    /// The rules that the file in `directory` holds.
    pub(super) fn of(
        directory: &RelPath,
        stat: Option<Stat>,
        bytes: &[u8],
    ) -> Result<Self, RulesError> {
        let text = String::from_utf8_lossy(bytes);
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let mut builder = GitignoreBuilder::new(".");
        let mut faults = Vec::new();
        for (line, number) in text.lines().zip(1..) {
            if let Err(error) = builder.add_line(None, line) {
                let at = directory.join(rules_name());
                faults.push(format!("{at}, line {number}: {error}"));
            }
        }
        let rules = builder.build().map_err(|error| RulesError::Unusable {
            directory: directory.clone(),
            reason: error.to_string(),
        })?;
        Ok(Self { stat, text: bytes.into(), rules: Arc::new(rules), faults: faults.into() })
    }
}

/// Reads the rules that `dir` holds; `None` where the file is gone or no regular file.
pub(super) fn read_rules(dir: &Dir) -> Result<Option<Seen>, RulesError> {
    let directory = || dir.path().clone();
    let (file, stat) = match dir.open_file(RULES_FILE) {
        Ok(opened) => opened,
        Err(error) if error.is_absent() => return Ok(None),
        Err(error) if error.kind() == FsErrorKind::NotAFile => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut bytes = Vec::new();
    file.take(MAX_RULES_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| RulesError::Content { directory: directory(), source })?;
    if let Some(reason) = too_large(bytes.len() as u64) {
        return Err(RulesError::Unusable { directory: directory(), reason });
    }
    Seen::of(dir.path(), Some(stat), &bytes).map(Some)
}

fn too_large(size: u64) -> Option<String> {
    (size > MAX_RULES_BYTES).then(|| format!("more than {MAX_RULES_BYTES} bytes"))
}

/// Why a file of rules of `size` bytes that holds `bytes` cannot be used, if so. Of one that is too
/// large no bytes are needed.
pub(crate) fn unusable(size: u64, bytes: &[u8]) -> Option<String> {
    if let Some(reason) = too_large(size) {
        return Some(reason);
    }
    match Seen::of(&RelPath::root(), None, bytes) {
        Err(RulesError::Unusable { reason, .. }) => Some(reason),
        _ => None,
    }
}

fn rules_name() -> ark_core::Name {
    ark_core::Name::new(RULES_FILE).expect("a plain name")
}
