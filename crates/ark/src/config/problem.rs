//! What is wrong with a config, and where.

use std::fmt;
use std::path::{Path, PathBuf};

/// A field of the config and the line on which it stands.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Place {
    /// From 1.
    pub(super) line: usize,
    /// The keys down to the field, as in `repos[0].remotes[1].node_id`; items count from 0.
    pub(super) field: String,
}

/// One thing that is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Problem {
    pub(super) place: Place,
    pub(super) text: String,
}

/// Everything that is wrong with one config. Shown as one line each:
/// `FILE:LINE: field: what is wrong`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problems {
    file: PathBuf,
    problems: Vec<Problem>,
}

impl Problems {
    pub(super) fn new(file: &Path, problems: Vec<Problem>) -> Self {
        Self { file: file.to_owned(), problems }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        for (index, Problem { place: Place { line, field }, text }) in
            self.problems.iter().enumerate()
        {
            let newline = if index == 0 { "" } else { "\n" };
            write!(f, "{newline}{file}:{line}: {field}: {text}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
