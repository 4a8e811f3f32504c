//! Commits of a jj repo, and where files were copied from.

use rkyv::{Archive, Deserialize, Serialize};

use super::stored;
use crate::codec::{self, Body};
use crate::id::ObjectId;
use crate::object::{DecodeError, Link, MAX_OBJECT_BYTES, Object, ObjectKind};

/// The most that a zone may be from UTC: more is no number of seconds of 32 bits, which is what jj
/// and git count zones in. More than a day there is in old git repositories.
const MAX_OFFSET_MINUTES: u32 = i32::MAX.unsigned_abs() / 60;

/// A time with the zone it was told in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Archive, Serialize, Deserialize)]
pub struct Time {
    /// Milliseconds since 1970, UTC.
    pub millis: i64,
    /// The zone's offset from UTC in minutes, east positive; in seconds, too, a number of 32 bits.
    pub offset_minutes: i32,
}

impl Time {
    /// That jj can tell it.
    ///
    /// # Errors
    /// It cannot.
    pub(super) fn validate(self) -> Result<(), String> {
        if self.offset_minutes.unsigned_abs() > MAX_OFFSET_MINUTES {
            return Err(format!("a zone {} minutes from UTC", self.offset_minutes));
        }
        Ok(())
    }
}

/// Who did something, and when.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct Person {
    /// The name.
    pub name: String,
    /// The address.
    pub email: String,
    /// When.
    pub time: Time,
}

/// A signature of a commit, and what it signs, both kept to the byte.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct Signing {
    /// What was signed, where that is not this commit's own encoding without its signature
    /// ([`Commit::unsigned_bytes`]): a commit that came from git was signed in git's form.
    pub data: Option<Vec<u8>>,
    /// The signature.
    pub signature: Vec<u8>,
}

/// A commit.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct Commit {
    /// The parents, in order; at least one. [`VIRTUAL`](super::VIRTUAL) is the root commit.
    pub parents: Vec<ObjectId>,
    /// What was rewritten to make it. Not linked: the operation that made the commit records
    /// and links its predecessors, and abandoning that operation lets go of them.
    pub predecessors: Vec<ObjectId>,
    /// The root directory. In conflict, several: to add and to remove in turns, an odd number.
    /// [`VIRTUAL`](super::VIRTUAL) is the empty one.
    pub trees: Vec<ObjectId>,
    /// What the terms of `trees` are called: as many, or none, which all that is not in conflict
    /// has.
    pub labels: Vec<String>,
    /// What stays the same when it is rewritten.
    pub change: [u8; 16],
    /// The message.
    pub description: String,
    /// Who made it first.
    pub author: Person,
    /// Who wrote it as it is.
    pub committer: Person,
    /// Its signature, if it has one.
    pub signing: Option<Signing>,
}

impl Body for Commit {
    const KIND: ObjectKind = ObjectKind::Commit;

    fn validate(&self) -> Result<(), String> {
        if self.parents.is_empty() {
            return Err("a commit without parents".into());
        }
        self.author.time.validate()?;
        self.committer.time.validate()?;
        let (trees, labels) = (self.trees.len(), self.labels.len());
        if trees % 2 == 0 {
            return Err(format!("{trees} root directories, not an odd number"));
        }
        if labels != 0 && (labels != trees || trees == 1) {
            return Err(format!("{labels} labels of {trees} root directories"));
        }
        match self.signing.as_ref().and_then(|signing| signing.data.as_ref()) {
            Some(data) if *data == self.unsigned_bytes() => {
                Err("what was signed is said twice".into())
            }
            _ => Ok(()),
        }
    }
}

impl Commit {
    /// Its encoding without the signature: what is signed.
    pub fn unsigned_bytes(&self) -> Vec<u8> {
        codec::encode(&Self { signing: None, ..self.clone() })
    }

    /// Its object.
    ///
    /// # Errors
    /// A commit that breaks the rules, or is larger than an object may be.
    pub fn encode(&self) -> Result<Object, DecodeError> {
        encode(self)
    }

    /// Reads what [`Commit::encode`] made.
    ///
    /// # Errors
    /// Bytes that are not the one encoding of a commit.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::decode(bytes)
    }

    /// What it links.
    pub fn links(&self) -> Vec<Link> {
        let trees = stored(&self.trees).map(|id| Link { kind: ObjectKind::Tree, id });
        let parents = stored(&self.parents).map(|id| Link { kind: ObjectKind::Commit, id });
        trees.chain(parents).collect()
    }
}

/// The object of a value that keeps the rules.
pub(super) fn encode<T: Body>(value: &T) -> Result<Object, DecodeError> {
    let kind = T::KIND;
    value.validate().map_err(|reason| DecodeError::Invalid { kind, reason })?;
    let bytes = codec::encode(value);
    if bytes.len() > MAX_OBJECT_BYTES {
        return Err(DecodeError::TooLarge { kind, length: bytes.len() });
    }
    Ok(Object::new(kind, bytes))
}

/// Where a file comes from: kept while the file changes.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct Copy {
    /// The file's path.
    pub path: String,
    /// What became this file: none for a new one, several where files were merged.
    pub parents: Vec<ObjectId>,
    /// Tells apart what would be the same otherwise.
    pub salt: Vec<u8>,
}

impl Body for Copy {
    const KIND: ObjectKind = ObjectKind::Copy;

    fn validate(&self) -> Result<(), String> {
        // The root is a path, too, and has no names.
        if !self.path.is_empty() && self.path.split('/').any(str::is_empty) {
            return Err(format!("{:?} is no path", self.path));
        }
        if self.parents.contains(&super::VIRTUAL) {
            return Err("a parent that nobody has".into());
        }
        Ok(())
    }
}

impl Copy {
    /// Its object.
    ///
    /// # Errors
    /// One that breaks the rules, or is larger than an object may be.
    pub fn encode(&self) -> Result<Object, DecodeError> {
        encode(self)
    }

    /// Reads what [`Copy::encode`] made.
    ///
    /// # Errors
    /// Bytes that are not the one encoding of a copy.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::decode(bytes)
    }

    /// What it links.
    pub fn links(&self) -> Vec<Link> {
        self.parents.iter().map(|&id| Link { kind: ObjectKind::Copy, id }).collect()
    }
}
