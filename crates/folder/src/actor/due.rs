//! What is to be scanned next.

use std::collections::BTreeMap;

use ark_core::RelPath;

use crate::scan::Extent;
use crate::watch::Touch;

/// More dirty paths than this are as well looked for by a scan of everything.
const MAX_DUE_PATHS: usize = 50_000;

/// See the module.
#[derive(Debug)]
pub(super) enum Due {
    Everything,
    Paths(BTreeMap<RelPath, Touch>),
}

impl Due {
    pub(super) const fn nothing() -> Self {
        Self::Paths(BTreeMap::new())
    }

    pub(super) fn is_nothing(&self) -> bool {
        matches!(self, Self::Paths(paths) if paths.is_empty())
    }

    pub(super) fn add(&mut self, extent: Extent) {
        match (&mut *self, extent) {
            (Self::Everything, _) => {}
            (Self::Paths(due), Extent::Paths(paths)) => {
                for (path, touch) in paths {
                    let known = due.entry(path).or_insert(touch);
                    *known = touch.max(*known);
                }
                if due.len() > MAX_DUE_PATHS {
                    *self = Self::Everything;
                }
            }
            (Self::Paths(_), Extent::Everything) => *self = Self::Everything,
        }
    }

    pub(super) fn take(&mut self) -> Extent {
        match std::mem::replace(self, Self::nothing()) {
            Self::Everything => Extent::Everything,
            Self::Paths(paths) => Extent::Paths(paths),
        }
    }
}
