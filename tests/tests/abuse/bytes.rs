//! What reaches the cluster is what was sent, or the request is refused with a reason.
