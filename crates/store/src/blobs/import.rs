//! Imports under way and held: each object's bytes are written once, whoever asks.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use ark_core::{Object, ObjectId};
use iroh_blobs::api::TempTag;
use tokio::sync::OnceCell;

use super::INLINE_BYTES;

/// The store's hash trees have a leaf for each so many bytes.
const OUTBOARD_LEAF_BYTES: u64 = 16 * 1024;
/// Bytes that one inner node of a hash tree takes.
const OUTBOARD_NODE_BYTES: u64 = 64;

/// Imports that someone still holds, so that no two write the same file: the later would replace
/// the earlier's synced file by one that is not.
pub(super) type Imports = Mutex<HashMap<ObjectId, Weak<Import>>>;

/// An object in the blob store, kept there while this is held.
#[derive(Debug)]
pub(crate) struct Import {
    id: ObjectId,
    length: u64,
    pub(super) written: OnceCell<Written>,
    durable: AtomicBool,
    imports: Weak<Imports>,
}

/// Bytes that the store below has taken.
#[derive(Debug)]
pub(super) enum Written {
    /// They were durable already.
    Before,
    /// By this import, in one life of the store; the tag keeps them.
    Now { life: u64, _tag: TempTag },
}

impl Import {
    /// The import of `object`, shared with whoever holds it. `life`: that of now.
    pub(super) fn register(imports: &Arc<Imports>, object: &Object, life: u64) -> Arc<Self> {
        let mut held = imports.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = held.get(&object.id()).and_then(Weak::upgrade);
        if let Some(import) = shared.filter(|import| !import.is_lost(life)) {
            return import;
        }
        let import = Arc::new(Self {
            id: object.id(),
            length: object.bytes().len() as u64,
            written: OnceCell::new(),
            durable: AtomicBool::new(false),
            imports: Arc::downgrade(imports),
        });
        held.insert(object.id(), Arc::downgrade(&import));
        import
    }

    /// Notes that the bytes are durable already: there is nothing to write.
    pub(crate) fn skip(&self) {
        // A set cell stays as it is: then another wrote the bytes, and knows of their durability.
        if self.written.set(Written::Before).is_ok() {
            self.set_durable();
        }
    }

    pub(super) fn is_durable(&self) -> bool {
        self.durable.load(Ordering::Acquire)
    }

    pub(super) fn set_durable(&self) {
        self.durable.store(true, Ordering::Release);
    }

    /// Whether it was written in an earlier life than `life` and not durable when that ended.
    pub(super) fn is_lost(&self, life: u64) -> bool {
        let written = self.written.get();
        !self.is_durable()
            && matches!(written, Some(Written::Now { life: then, .. }) if *then != life)
    }

    /// The object's own file and its hash tree's, if they are not inside `blobs.db`.
    pub(super) fn files(&self, data: &Path) -> impl Iterator<Item = PathBuf> + use<> {
        let leaves = self.length.div_ceil(OUTBOARD_LEAF_BYTES).max(1);
        let outboard = (leaves - 1) * OUTBOARD_NODE_BYTES;
        let path = |suffix| data.join(format!("{}.{suffix}", self.id));
        let data = (self.length > INLINE_BYTES).then(|| path("data"));
        let outboard = (outboard > INLINE_BYTES).then(|| path("obao4"));
        data.into_iter().chain(outboard)
    }
}

impl Drop for Import {
    fn drop(&mut self) {
        let Some(imports) = self.imports.upgrade() else { return };
        let mut held = imports.lock().unwrap_or_else(PoisonError::into_inner);
        // Someone may have begun anew since the last holder let go.
        if held.get(&self.id).is_some_and(|import| import.strong_count() == 0) {
            held.remove(&self.id);
        }
        // A first scan holds all that it finds.
        if held.is_empty() {
            *held = HashMap::new();
        }
    }
}

/// Bytes counted as being written while this lives.
pub(super) struct Writing<'a> {
    counter: &'a AtomicU64,
    length: u64,
    /// With those of others.
    pub(super) total: u64,
}

impl<'a> Writing<'a> {
    pub(super) fn begin(counter: &'a AtomicU64, length: u64) -> Self {
        let total = counter.fetch_add(length, Ordering::AcqRel) + length;
        Self { counter, length, total }
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.counter.fetch_sub(self.length, Ordering::AcqRel);
    }
}
