//! `kas credential`: kubectl's exec plugin (`client.authentication.k8s.io/v1`).

use clap::Args;
use serde_json::json;

use super::{CommandError, Output, login::session::Session};

/// For which agent of which server.
#[derive(Debug, Args)]
pub struct CredentialArgs {
    /// URL of the Kubernetes API proxy at which somebody is logged in
    #[arg(long, value_name = "URL")]
    server: String,
    /// Id of the agent
    #[arg(long, value_name = "ID")]
    agent: i64,
}

/// Prints a token, which is refreshed first where it ends soon.
pub(super) async fn run(args: CredentialArgs, output: &mut Output<'_>) -> Result<(), CommandError> {
    let session = Session::fresh(&args.server).await?;
    output.json(&json!({
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {
            "token": session.bearer(args.agent),
            "expirationTimestamp": session.expires_at().to_string(),
        },
    }))
}
