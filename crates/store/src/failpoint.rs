//! Places where a test can make the store fail or end. Nothing without the feature `failpoints`.

use std::io;

/// What a test does at a named place: nothing, an error, or the end of the process.
#[cfg(feature = "failpoints")]
pub type FailpointHook = std::sync::Arc<dyn Fn(&'static str) -> io::Result<()> + Send + Sync>;

/// The hook of an open store, if a test set one.
#[derive(Clone, Default)]
pub(crate) struct Failpoints {
    #[cfg(feature = "failpoints")]
    pub(crate) hook: Option<FailpointHook>,
}

impl Failpoints {
    /// Passes the place `name`.
    #[cfg(feature = "failpoints")]
    pub(crate) fn hit(&self, name: &'static str) -> io::Result<()> {
        self.hook.as_ref().map_or(Ok(()), |hook| hook(name))
    }

    /// Passes the place `name`.
    #[cfg(not(feature = "failpoints"))]
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "the shape of the other")]
    pub(crate) fn hit(&self, _name: &'static str) -> io::Result<()> {
        Ok(())
    }
}

impl std::fmt::Debug for Failpoints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Failpoints")
    }
}
