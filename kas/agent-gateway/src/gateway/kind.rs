//! Which kind of program calls, by its metadata `gitlab-agent-type`: each kind has tokens of its own.

use http::HeaderMap;
use tonic::Status;

use super::service::{Handler, Method};

/// Absent, it is an agentk.
const KIND: &str = "gitlab-agent-type";
/// Characters of an unknown kind in a message.
const SHOWN_CHARS_MAX: usize = 32;

/// Refuses a call of a kind that the method is not for, before its token is looked at.
///
/// # Errors
/// The refusal.
pub(super) fn check(headers: &HeaderMap, method: &Method) -> Result<(), Status> {
    let of_runners = matches!(method.handler(), Handler::Runner(_));
    let Some(kind) = headers.get(KIND) else {
        return match of_runners {
            true => Err(only_runners(method)),
            false => Ok(()),
        };
    };
    match (kind.as_bytes(), of_runners) {
        (b"runner", true) | (b"agentk", false) => Ok(()),
        (b"agentk", true) => Err(only_runners(method)),
        (b"runner", false) => Err(Status::permission_denied(
            "a runner's token is no agent's: runners may ask for jobs only",
        )),
        (other, _) => {
            let kind = String::from_utf8_lossy(other);
            let kind: String = kind.chars().take(SHOWN_CHARS_MAX).collect();
            Err(Status::unimplemented(format!(
                "agents of type {kind:?} are not served by this server"
            )))
        }
    }
}

fn only_runners(method: &Method) -> Status {
    let name = method.name();
    Status::permission_denied(format!("{name} is for runners ({KIND}: runner)"))
}
