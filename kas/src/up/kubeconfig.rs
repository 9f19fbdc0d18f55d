//! The kubeconfig by which the user reaches the agent's cluster.

use std::{net::SocketAddr, path::Path};

use cluster_state::AgentId;
use control_plane::{
    Identity, IdentityKind,
    kubeconfig::{Context, Credential, Kubeconfig},
};
use playground::{
    accounts::{AGENT, Accounts, USER},
    private_file,
};

/// Writes it; `server` is the users' port, and `certificate` what it is trusted by.
pub(super) fn write(
    file: &Path,
    server: SocketAddr,
    certificate: &[u8],
    accounts: &Accounts,
) -> anyhow::Result<()> {
    let who = Identity {
        kind: IdentityKind::User,
        name: USER.to_owned(),
    };
    let kubeconfig = Kubeconfig {
        server: &format!("https://{server}/k8s-proxy/"),
        certificate_authority: Some(certificate),
        contexts: vec![Context {
            agent: AgentId(accounts.agent),
            name: AGENT,
            who: who.to_string(),
            credential: Credential::Token(who.kind, &accounts.user_token),
        }],
    };
    private_file::write(file, &kubeconfig.to_yaml()?)
}
