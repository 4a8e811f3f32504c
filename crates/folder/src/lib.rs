//! A directory as snapshots: `scan`, `watch`, `plan` (pure), `apply`.

pub mod folder;
pub mod fs;

pub use folder::{
    FenceError, Folder, FolderState, FolderStatus, Options, Phase, Progress, StartError,
};
