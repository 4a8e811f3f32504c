//! Messages and client for the daemon's Unix socket.
