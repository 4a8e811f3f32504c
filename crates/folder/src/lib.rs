//! A directory as snapshots: `scan`, `watch`, `plan` (pure), `apply`.
