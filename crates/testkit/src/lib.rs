//! Virtual clock and network, generators, temporary daemons. For tests only.
