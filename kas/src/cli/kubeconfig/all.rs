//! `kas kubeconfig --all`: one file with a context for each agent that somebody may use.

use std::path::Path;

use cluster_state::AgentId;
use control_plane::kubeconfig::{Context, Credential, Kubeconfig, KubeconfigError};

use super::{KubeconfigArgs, check_server, read_ca};
use crate::cli::{
    CommandError, Output,
    login::{
        account::{Account, Permitted},
        session::Session,
    },
};

pub(super) async fn run(args: KubeconfigArgs, output: &mut Output<'_>) -> Result<(), CommandError> {
    check_server(&args.server)?;
    let session = Session::fresh(&args.server).await?;
    let named = args.certificate_authority.as_deref();
    let ca_file = named.or(session.certificate_authority());
    let account = Account::new(&args.server, ca_file)?;
    let permitted = account.agents(&session.bearer(0)).await?;
    let ca = ca_file.map(read_ca).transpose()?;
    let text = to_yaml(&args, &permitted, ca.as_deref())?;
    output.result(&text)?;
    if permitted.agents.is_empty() {
        let who = &permitted.identity;
        output.hint(&format!("Note: no access rule lets {who} use an agent."))?;
    }
    Ok(())
}

fn to_yaml(
    args: &KubeconfigArgs,
    permitted: &Permitted,
    ca: Option<&[u8]>,
) -> Result<String, KubeconfigError> {
    let command = args.exec_command.as_deref().unwrap_or(Path::new("kas"));
    let agents = permitted.agents.iter();
    let contexts = agents.map(|agent| Context {
        agent: AgentId(agent.id),
        name: &agent.name,
        who: permitted.identity.clone(),
        credential: Credential::Exec(command),
    });
    let kubeconfig = Kubeconfig {
        server: &args.server,
        certificate_authority: ca,
        contexts: contexts.collect(),
    };
    kubeconfig.to_yaml()
}
