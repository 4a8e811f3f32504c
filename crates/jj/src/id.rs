//! jj's ids and ark's.
//!
//! jj's are any bytes, ark's are 32. A commit, a tree, a view, an operation, a copy and a symlink
//! have ark's. A file has the id of its raw object, or, where its content is chunked, the id of the
//! root of its chunks and one byte more: from the id alone must follow what to ask for.

use ark_core::{Content, ObjectId};
use jj_lib::backend::{CopyId, FileId};
use jj_lib::object_id::ObjectId as JjId;

/// Length of a change id in bytes.
pub const CHANGE_ID_BYTES: usize = 16;
/// Length of all other ids in bytes.
pub(crate) const ID_BYTES: usize = 32;
/// What follows the 32 bytes in the id of a file whose content is chunked.
const CHUNKED: u8 = 1;

/// An id of jj's that no object of ark's has.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{hex:?} is no id of a {object_type} here: {actual} bytes, not {ID_BYTES}")]
pub(crate) struct IdError {
    pub object_type: String,
    pub actual: usize,
    pub hex: String,
}

impl IdError {
    pub(crate) fn new(id: &impl JjId) -> Self {
        Self { object_type: id.object_type(), actual: id.as_bytes().len(), hex: id.hex() }
    }
}

/// ark's id of what jj names so.
pub(crate) fn to_ark(id: &impl JjId) -> Result<ObjectId, IdError> {
    id.as_bytes().try_into().map(ObjectId::from_bytes).map_err(|_| IdError::new(id))
}

/// ark's ids of many things.
pub(crate) fn all_to_ark<'a, I: JjId + 'a>(
    ids: impl IntoIterator<Item = &'a I>,
) -> Result<Vec<ObjectId>, IdError> {
    ids.into_iter().map(to_ark).collect()
}

/// An id of jj's that is as long as a change id.
pub(crate) fn change_to_ark(id: &impl JjId) -> Result<[u8; CHANGE_ID_BYTES], IdError> {
    id.as_bytes().try_into().map_err(|_| IdError::new(id))
}

/// The content that a file's id names.
pub(crate) fn content(id: &FileId) -> Result<Content, IdError> {
    match id.as_bytes().split_first_chunk::<ID_BYTES>() {
        Some((root, [])) => Ok(Content::Raw(ObjectId::from_bytes(*root))),
        Some((root, [CHUNKED])) => Ok(Content::Chunked(ObjectId::from_bytes(*root))),
        _ => Err(IdError::new(id)),
    }
}

/// The id of a file of this content.
pub(crate) fn file_id(content: Content) -> FileId {
    let mut bytes = content.link().id.as_bytes().to_vec();
    if matches!(content, Content::Chunked(_)) {
        bytes.push(CHUNKED);
    }
    FileId::new(bytes)
}

/// The copy that is named; none by jj's placeholder, which is of no bytes.
pub(crate) fn copy(id: &CopyId) -> Result<Option<ObjectId>, IdError> {
    if *id == CopyId::placeholder() { Ok(None) } else { to_ark(id).map(Some) }
}

/// jj's id of a copy.
pub(crate) fn copy_id(copy: Option<ObjectId>) -> CopyId {
    copy.map_or_else(CopyId::placeholder, |id| CopyId::from_bytes(id.as_bytes()))
}

/// The id after this one.
pub(crate) fn next(id: ObjectId) -> Option<ObjectId> {
    let mut bytes = *id.as_bytes();
    for byte in bytes.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return Some(ObjectId::from_bytes(bytes));
        }
    }
    None
}
