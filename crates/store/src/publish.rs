//! Publishing a state of this device's own: durable before told.

use ark_core::{Dot, Head, SignedState, Vector};

use crate::batch::Batch;
use crate::error::PublishError;

/// The right to publish in a repo, held by one at a time. Dropping it gives it back; its dot is
/// then free for the next.
#[derive(Debug)]
pub struct Publisher {}

impl Publisher {
    /// The dot of what will be published: never used before.
    pub fn dot(&self) -> Dot {
        todo!()
    }

    /// Publishes the state with these heads (a new one under [`Publisher::dot`], those that stay
    /// under their own sequences): makes the batch and the state durable, then tells
    /// [`Change::Published`](crate::Change::Published).
    ///
    /// # Errors
    /// Nothing was told. See [`PublishError`] for what to do.
    pub async fn publish(
        self,
        _batch: Batch,
        _heads: Vec<Head>,
        _vector: Vector,
        _held: Vec<Dot>,
    ) -> Result<SignedState, PublishError> {
        todo!()
    }
}
