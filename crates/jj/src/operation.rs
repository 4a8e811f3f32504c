//! jj's operations as ark's, and back. See [`convert`](crate::convert) for what holds of both.

use std::collections::BTreeMap;

use ark_core::Object;
use ark_core::jj::{Operation, Predecessor, Predecessors, predecessors};
use jj_lib::backend::CommitId;
use jj_lib::op_store::{self, OperationId, OperationMetadata, TimestampRange, ViewId};

use crate::convert::{ConvertError, commit_ids, time, timestamp};
use crate::id;

/// ark's form of an operation, and the nodes that its predecessors take.
pub(crate) fn to_ark(
    operation: &op_store::Operation,
) -> Result<(Operation, Vec<Object>), ConvertError> {
    let (predecessors, nodes) = match &operation.commit_predecessors {
        None => (Predecessors::Unknown, Vec::new()),
        Some(map) => {
            let row = |(commit, of): (&CommitId, &Vec<CommitId>)| {
                Ok(Predecessor { commit: id::to_ark(commit)?, of: id::all_to_ark(of)? })
            };
            predecessors(map.iter().map(row).collect::<Result<_, ConvertError>>()?)?
        }
    };
    let metadata = &operation.metadata;
    let attributes = metadata.attributes.iter().map(|(name, text)| (name.clone(), text.clone()));
    let converted = Operation {
        view: id::to_ark(&operation.view_id)?,
        parents: id::all_to_ark(&operation.parents)?,
        start: time(metadata.time.start),
        end: time(metadata.time.end),
        description: metadata.description.clone(),
        hostname: metadata.hostname.clone(),
        username: metadata.username.clone(),
        is_snapshot: metadata.is_snapshot,
        workspace: metadata.workspace_name.as_ref().map(Into::into),
        attributes: attributes.collect(),
        predecessors,
    };
    Ok((converted, nodes))
}

/// jj's form of an operation; `many` are its predecessors where they are a tree of their own.
pub(crate) fn to_jj(operation: Operation, many: Vec<Predecessor>) -> op_store::Operation {
    let map = |rows: Vec<Predecessor>| -> BTreeMap<CommitId, Vec<CommitId>> {
        let row =
            |row: Predecessor| (CommitId::from_bytes(row.commit.as_bytes()), commit_ids(&row.of));
        rows.into_iter().map(row).collect()
    };
    let parents =
        operation.parents.iter().map(|id| OperationId::from_bytes(id.as_bytes())).collect();
    op_store::Operation {
        view_id: ViewId::from_bytes(operation.view.as_bytes()),
        parents,
        metadata: OperationMetadata {
            time: TimestampRange {
                start: timestamp(operation.start),
                end: timestamp(operation.end),
            },
            description: operation.description,
            hostname: operation.hostname,
            username: operation.username,
            is_snapshot: operation.is_snapshot,
            workspace_name: operation.workspace.map(Into::into),
            attributes: operation.attributes.into_iter().collect(),
        },
        commit_predecessors: match operation.predecessors {
            Predecessors::Unknown => None,
            Predecessors::Listed(rows) => Some(map(rows)),
            Predecessors::Tree(_) => Some(map(many)),
        },
    }
}
