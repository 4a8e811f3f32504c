//! iroh-blobs FsStore plus the redb index: durability, closure, states, rollback, rebuild.
