//! The pod that this process is.

/// Namespace and name of the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Where leases live.
    pub namespace: String,
    /// Who this is, in leases and to kas.
    pub name: String,
}
