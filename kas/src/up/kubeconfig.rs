//! The kubeconfig by which the user reaches the agent's cluster.

use std::{net::SocketAddr, path::Path};

use cluster_state::AgentId;
use control_plane::{AgentInfo, Identity, IdentityKind};
use playground::{
    accounts::{AGENT, Accounts, USER},
    private_file,
};

use crate::cli::Kubeconfig;

/// Writes it; `server` is the users' port, and `certificate` what it is trusted by.
pub(super) fn write(
    file: &Path,
    server: SocketAddr,
    certificate: &[u8],
    accounts: &Accounts,
) -> anyhow::Result<()> {
    let agent = AgentInfo {
        id: AgentId(accounts.agent),
        name: AGENT.to_owned(),
        project_id: 0,
        project_path: String::new(),
        default_branch: String::new(),
    };
    let kubeconfig = Kubeconfig {
        server: &format!("https://{server}/k8s-proxy/"),
        agent: &agent,
        identity: &Identity {
            kind: IdentityKind::User,
            name: USER.to_owned(),
        },
        token: &accounts.user_token,
        certificate_authority: Some(certificate),
    };
    private_file::write(file, &kubeconfig.to_yaml()?)
}
