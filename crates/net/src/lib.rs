//! Drives `sync` over one iroh endpoint: gossip, the sync and object protocols, discovery, access.
