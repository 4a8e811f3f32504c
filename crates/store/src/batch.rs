//! New objects of a repo on their way into the index.

use ark_core::{Link, Object};

use crate::error::{AddError, CommitError};

/// New objects: imported as they are added, indexed by [`Batch::commit`] or
/// [`Publisher::publish`](crate::Publisher::publish). Dropping it forgets them.
#[derive(Debug)]
pub struct Batch {}

impl Batch {
    /// Adds an object. Children before parents is cheapest, any order works. Waits while too
    /// many imports are under way; an error of an earlier import may surface here.
    ///
    /// # Errors
    /// The object is not valid, or the disk failed or is full.
    pub async fn add(&mut self, _object: Object) -> Result<(), AddError> {
        todo!()
    }

    /// Makes the objects durable and indexes them; what was new, empty if there are more than
    /// [`MAX_NEW_LINKS`](crate::MAX_NEW_LINKS). For merged trees and the like, which nobody is
    /// told of.
    ///
    /// # Errors
    /// Something links what is not here, or the disk failed or is full.
    pub async fn commit(self) -> Result<Vec<Link>, CommitError> {
        todo!()
    }
}
