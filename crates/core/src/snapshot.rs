//! What a writer of a folder repo publishes: a root directory and what it has taken in.

use rkyv::{Archive, Deserialize, Serialize};

use crate::codec::{self, Body};
use crate::id::{Dot, ObjectId, Vector};
use crate::object::{DecodeError, Link, Object, ObjectKind};

/// A folder writer's head.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// The root node of the root directory.
    pub root: ObjectId,
    /// What was taken in, the act of publishing this snapshot included.
    pub vector: Vector,
    /// When it was published, in milliseconds since 1970 by the writer's clock. Information
    /// only: nothing is decided by it.
    pub wall_time_ms: i64,
}

/// The archive of a snapshot.
#[derive(Archive, Serialize, Deserialize)]
struct Wire {
    root: ObjectId,
    vector: Vec<Dot>,
    wall_time_ms: i64,
}

impl Body for Wire {
    const KIND: ObjectKind = ObjectKind::Snapshot;

    fn validate(&self) -> Result<(), String> {
        Vector::validate_wire(&self.vector)
    }
}

impl Snapshot {
    /// The object of this snapshot.
    pub fn encode(&self) -> Object {
        let wire = Wire {
            root: self.root,
            vector: self.vector.to_wire(),
            wall_time_ms: self.wall_time_ms,
        };
        Object::new(ObjectKind::Snapshot, codec::encode(&wire))
    }

    /// Reads what [`Snapshot::encode`] made.
    ///
    /// # Errors
    /// Bytes that are not the one encoding of a snapshot.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let Wire { root, vector, wall_time_ms } = codec::decode(bytes)?;
        let vector = vector.into_iter().map(|dot| (dot.writer, dot.sequence)).collect();
        Ok(Self { root, vector, wall_time_ms })
    }

    /// The root directory.
    pub fn link(&self) -> Link {
        Link::directory(self.root)
    }
}
