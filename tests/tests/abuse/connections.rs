//! Connections and file descriptors that somebody takes and does not use.
