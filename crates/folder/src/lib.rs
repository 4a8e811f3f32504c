//! A directory as snapshots: `scan`, `watch`, `plan` (pure), `apply`.

mod actor;
pub mod apply;
pub mod base;
pub mod disowned;
mod durable;
#[cfg(test)]
mod fixtures;
pub mod folder;
pub mod fs;
pub mod ignore;
pub mod local;
pub mod marker;
mod opening;
pub mod plan;
mod publish;
pub mod scan;
mod status;
pub mod wants;
pub mod watch;

pub use folder::{
    FenceError, Folder, FolderState, FolderStatus, Options, Phase, Progress, StartError,
};
