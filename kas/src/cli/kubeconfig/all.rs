//! `kas kubeconfig --all`: one file with a context for each agent that somebody may use.

use std::path::Path;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{KubeconfigArgs, check_server, read_ca};
use crate::cli::{
    CommandError, Output,
    login::{
        account::{Account, Permitted, PermittedAgent},
        session::Session,
    },
};

/// What kubectl does without `kas`.
const INSTALL_HINT: &str = "kas is not installed here: it logs you in to this cluster";

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
) -> Result<String, CommandError> {
    let each = |part: fn(&KubeconfigArgs, &Permitted, &PermittedAgent) -> Value| -> Vec<Value> {
        let agents = permitted.agents.iter();
        agents.map(|agent| part(args, permitted, agent)).collect()
    };
    let mut clusters =
        each(|args, _, agent| json!({ "name": agent.name, "cluster": { "server": args.server } }));
    if let Some(pem) = ca {
        for cluster in &mut clusters {
            cluster["cluster"]["certificate-authority-data"] = STANDARD.encode(pem).into();
        }
    }
    let current = permitted.agents.first().map_or("", |it| it.name.as_str());
    let value = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": clusters,
        "users": each(|args, permitted, agent| json!({
            "name": user(permitted, agent),
            "user": { "exec": exec(args, agent.id) },
        })),
        "contexts": each(|_, permitted, agent| json!({
            "name": agent.name,
            "context": { "cluster": agent.name, "user": user(permitted, agent) },
        })),
        "current-context": current,
    });
    serde_saphyr::to_string(&value)
        .map_err(|error| CommandError::Output(std::io::Error::other(error)))
}

fn user(permitted: &Permitted, agent: &PermittedAgent) -> String {
    format!("{}@{}", permitted.identity, agent.name)
}

fn exec(args: &KubeconfigArgs, agent: i64) -> Value {
    let command = args.exec_command.as_deref().unwrap_or(Path::new("kas"));
    json!({
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": command.display().to_string(),
        "args": ["credential", "--server", args.server, "--agent", agent.to_string()],
        "interactiveMode": "Never",
        "provideClusterInfo": false,
        "installHint": INSTALL_HINT,
    })
}
