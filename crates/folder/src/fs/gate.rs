//! Stands before every change of a folder, for tests: refuses what another file system could not
//! do, and lets things happen right before an operation that could only be met there by luck.

use std::fmt;
use std::sync::Arc;

use ark_core::RelPath;
use rustix::io::Errno;

/// Called with the operation, as a verb, the directory in which it is done, and the name there
/// (empty for the directory itself).
type Pass = dyn Fn(&'static str, &RelPath, &[u8]) -> Result<(), Errno> + Send + Sync;

/// See the module. The operations are those that an [`FsError`](super::FsError) names.
#[derive(Clone)]
pub struct Gate(Arc<Pass>);

impl Gate {
    /// A gate that lets through what `pass` does not answer with an error.
    pub fn new<P>(pass: P) -> Self
    where
        P: Fn(&'static str, &RelPath, &[u8]) -> Result<(), Errno> + Send + Sync + 'static,
    {
        Self(Arc::new(pass))
    }

    pub(super) fn pass(
        &self,
        operation: &'static str,
        directory: &RelPath,
        name: &[u8],
    ) -> Result<(), Errno> {
        (self.0)(operation, directory, name)
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gate")
    }
}
