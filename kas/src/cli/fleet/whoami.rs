//! `kas whoami`: as whom a server's admin API knows who asks, and what they may do there.

use admin::v1::GetCallerRequest;

use super::view::{Text, View};
use crate::cli::{CommandError, Output, server::ServerArgs};

/// Shows who asks.
pub(in crate::cli) async fn show(
    server: &ServerArgs,
    view: View,
    output: &mut Output<'_>,
) -> Result<(), CommandError> {
    let mut client = server.connect().await?;
    let told = client.grpc().get_caller(GetCallerRequest {}).await?;
    let caller = told.into_inner();
    output.told(view, &caller, |output, text| match text {
        Text::Names => output.result(&caller.name),
        Text::Table | Text::Wide => {
            let row = [
                caller.name.clone(),
                caller.role.clone(),
                caller.proof.clone(),
            ];
            output.table(["NAME", "ROLE", "KNOWN BY"], &[row])?;
            let missing = caller.roles.iter().find(|it| !it.held);
            match missing {
                Some(role) => output.hint(&format!("Not {}: {}.", role.role, role.problem)),
                None => Ok(()),
            }
        }
    })
}
