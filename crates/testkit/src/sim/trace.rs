//! What happened, in words: printed, or only digested, or not even put together.

use ark_core::ObjectId;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Trace {
    prints: bool,
    /// Hash of all so far, where it is kept.
    digest: Option<ObjectId>,
}

impl Trace {
    /// A trace that is printed, digested, or neither.
    pub(super) fn new(prints: bool, digests: bool) -> Self {
        Self { prints, digest: digests.then(|| ObjectId::of(b"")) }
    }

    /// Something happened.
    pub(super) fn note(&mut self, now_ms: u64, what: impl FnOnce() -> String) {
        if !self.prints && self.digest.is_none() {
            return;
        }
        let line = format!("{:>9}.{:03} {}", now_ms / 1000, now_ms % 1000, what());
        if self.prints {
            println!("{line}");
        }
        if let Some(digest) = &mut self.digest {
            *digest = ObjectId::of(&[digest.as_bytes(), line.as_bytes()].concat());
        }
    }

    /// The digest of all that happened, if it is kept.
    pub(super) const fn digest(&self) -> Option<ObjectId> {
        self.digest
    }
}
