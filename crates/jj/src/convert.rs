//! jj's commits, trees and copies as ark's, and back.
//!
//! Exact in both directions: what is converted to ark's and back is equal, and what cannot be is an
//! error, never something like it.

use ark_core::jj::{Commit, Copy, Person, Signing, Time, TreeEntry, TreeValue};
use ark_core::{DecodeError, ObjectId};
use jj_lib::backend::{
    self, ChangeId, CommitId, CopyHistory, CopyId, MillisSinceEpoch, SecureSig, Signature,
    SymlinkId, Timestamp, TreeId,
};
use jj_lib::merge::Merge;
use jj_lib::object_id::ObjectId as _;
use jj_lib::repo_path::{RepoPathBuf, RepoPathComponentBuf};

use crate::id::{self, IdError};

/// A value that the other side cannot hold.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConvertError {
    #[error(transparent)]
    Id(#[from] IdError),
    #[error(transparent)]
    Object(#[from] DecodeError),
    #[error("{0}")]
    Unfit(String),
}

/// jj's ids of these objects.
pub(crate) fn commit_ids(ids: &[ObjectId]) -> Vec<CommitId> {
    ids.iter().map(|id| CommitId::from_bytes(id.as_bytes())).collect()
}

pub(crate) fn time(time: Timestamp) -> Time {
    Time { millis: time.timestamp.0, offset_minutes: time.tz_offset }
}

pub(crate) fn timestamp(time: Time) -> Timestamp {
    Timestamp { timestamp: MillisSinceEpoch(time.millis), tz_offset: time.offset_minutes }
}

fn person(signature: &Signature) -> Person {
    Person {
        name: signature.name.clone(),
        email: signature.email.clone(),
        time: time(signature.timestamp),
    }
}

fn signature(person: Person) -> Signature {
    Signature { name: person.name, email: person.email, timestamp: timestamp(person.time) }
}

/// ark's form of a commit.
pub(crate) fn commit_to_ark(commit: &backend::Commit) -> Result<Commit, ConvertError> {
    let labels = &commit.conflict_labels;
    let labels = match labels.as_resolved() {
        Some(label) if label.is_empty() => Vec::new(),
        Some(_) => return Err(ConvertError::Unfit("a label where nothing is in conflict".into())),
        None => labels.iter().cloned().collect(),
    };
    let mut converted = Commit {
        parents: id::all_to_ark(&commit.parents)?,
        predecessors: id::all_to_ark(&commit.predecessors)?,
        trees: id::all_to_ark(commit.root_tree.iter())?,
        labels,
        change: id::change_to_ark(&commit.change_id)?,
        description: commit.description.clone(),
        author: person(&commit.author),
        committer: person(&commit.committer),
        signing: None,
    };
    if let Some(SecureSig { data, sig }) = &commit.secure_sig {
        let is_own = *data == converted.unsigned_bytes();
        let data = (!is_own).then(|| data.clone());
        converted.signing = Some(Signing { data, signature: sig.clone() });
    }
    Ok(converted)
}

/// jj's form of a commit, which was decoded and so keeps the rules.
pub(crate) fn commit_to_jj(mut commit: Commit) -> backend::Commit {
    let secure_sig = commit.signing.take().map(|signing| SecureSig {
        data: signing.data.unwrap_or_else(|| commit.unsigned_bytes()),
        sig: signing.signature,
    });
    let trees: Vec<TreeId> =
        commit.trees.iter().map(|id| TreeId::from_bytes(id.as_bytes())).collect();
    let labels = if commit.labels.is_empty() { vec![String::new()] } else { commit.labels };
    backend::Commit {
        parents: commit_ids(&commit.parents),
        predecessors: commit_ids(&commit.predecessors),
        root_tree: Merge::from_vec(trees),
        conflict_labels: Merge::from_vec(labels),
        change_id: ChangeId::from_bytes(&commit.change),
        description: commit.description,
        author: signature(commit.author),
        committer: signature(commit.committer),
        secure_sig,
    }
}

/// ark's form of a directory.
pub(crate) fn tree_to_ark(tree: &backend::Tree) -> Result<Vec<TreeEntry>, ConvertError> {
    tree.entries()
        .map(|entry| {
            let value = match entry.value() {
                backend::TreeValue::File { id, executable, copy_id } => TreeValue::File {
                    content: id::content(id)?,
                    is_executable: *executable,
                    copy: id::copy(copy_id)?,
                },
                backend::TreeValue::Symlink(id) => TreeValue::Symlink(id::to_ark(id)?),
                backend::TreeValue::Tree(id) => TreeValue::Tree(id::to_ark(id)?),
                backend::TreeValue::GitSubmodule(id) => TreeValue::Submodule(id.to_bytes()),
            };
            Ok(TreeEntry { name: entry.name().as_internal_str().to_owned(), value })
        })
        .collect()
}

/// jj's form of a directory. The entries are sorted and distinct.
pub(crate) fn tree_to_jj(entries: Vec<TreeEntry>) -> Result<backend::Tree, ConvertError> {
    let entry = |entry: TreeEntry| {
        let name = RepoPathComponentBuf::new(entry.name)
            .map_err(|error| ConvertError::Unfit(error.to_string()))?;
        let value = match entry.value {
            TreeValue::File { content, is_executable, copy } => backend::TreeValue::File {
                id: id::file_id(content),
                executable: is_executable,
                copy_id: id::copy_id(copy),
            },
            TreeValue::Symlink(id) => {
                backend::TreeValue::Symlink(SymlinkId::from_bytes(id.as_bytes()))
            }
            TreeValue::Tree(id) => backend::TreeValue::Tree(TreeId::from_bytes(id.as_bytes())),
            TreeValue::Submodule(id) => backend::TreeValue::GitSubmodule(CommitId::new(id)),
        };
        Ok((name, value))
    };
    let entries = entries.into_iter().map(entry).collect::<Result<_, ConvertError>>()?;
    Ok(backend::Tree::from_sorted_entries(entries))
}

/// ark's form of a copy.
pub(crate) fn copy_to_ark(copy: &CopyHistory) -> Result<Copy, ConvertError> {
    Ok(Copy {
        path: copy.current_path.as_internal_file_string().to_owned(),
        parents: id::all_to_ark(&copy.parents)?,
        salt: copy.salt.clone(),
    })
}

/// jj's form of a copy.
pub(crate) fn copy_to_jj(copy: Copy) -> Result<CopyHistory, ConvertError> {
    let current_path = RepoPathBuf::from_internal_string(copy.path)
        .map_err(|error| ConvertError::Unfit(error.to_string()))?;
    let parents = copy.parents.iter().map(|id| CopyId::from_bytes(id.as_bytes())).collect();
    Ok(CopyHistory { current_path, parents, salt: copy.salt })
}
