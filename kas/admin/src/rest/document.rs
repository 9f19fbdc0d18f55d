//! The OpenAPI document, besides its routes: how a caller proves who they are, and which role each operation needs.

use utoipa::{
    Modify, OpenApi,
    openapi::{
        Response,
        extensions::Extensions,
        path::Operation,
        security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme},
    },
};

use crate::{Role, role::Action};

/// The key of an operation's role.
const ROLE_KEY: &str = "x-kas-role";
/// The operations that change something, by the names of their functions.
const ACTIONS: [(&str, Action); Action::ALL.len()] = [
    ("add_agent", Action::AddAgent),
    ("create_join_token", Action::CreateJoinToken),
    ("rotate_token", Action::RotateAgentToken),
    ("revoke_agent", Action::RevokeAgent),
    ("end_session", Action::EndSession),
    ("log_level", Action::SetLogLevel),
];

#[derive(OpenApi)]
#[openapi(
    info(
        title = "kas admin API",
        description = "What operators of kas ask, at any replica for all. The same questions are served as gRPC \
                       (kas.admin.v1.Admin) on the same port. Whoever asks has a role: `viewer` reads, `operator` also ends \
                       sessions and changes how much is logged, `administrator` also registers agents and changes \
                       their tokens; `x-kas-role` is the least role that an operation needs."
    ),
    modifiers(&Tokens)
)]
pub(super) struct Document;

/// Tokens are shown in a header, never in a URL.
struct Tokens;

impl Modify for Tokens {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        let components = document.components.get_or_insert_with(Default::default);
        components.add_security_scheme("token", scheme);
        let none: [&str; 0] = [];
        document.security = Some(vec![
            SecurityRequirement::new("token", none),
            SecurityRequirement::default(),
        ]);
    }
}

/// Says of each operation which role it needs.
pub(super) fn say_roles(document: &mut utoipa::openapi::OpenApi) {
    for item in document.paths.paths.values_mut() {
        let all = [
            &mut item.get,
            &mut item.put,
            &mut item.post,
            &mut item.delete,
        ];
        for operation in all.into_iter().flatten() {
            say_role(operation);
        }
    }
}

fn say_role(operation: &mut Operation) {
    let id = operation.operation_id.as_deref();
    let action = ACTIONS.iter().find(|(name, _)| Some(*name) == id);
    let role = action.map_or(Role::Viewer, |(_, action)| action.role());
    let extensions = operation.extensions.get_or_insert_default();
    extensions.merge(Extensions::from_iter([(ROLE_KEY, role.as_str())]));
    if role > Role::Viewer {
        let words = format!("The role of who asks is less than {role}.");
        let refused = Response::new(words);
        let responses = &mut operation.responses.responses;
        responses.insert("403".to_owned(), refused.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_action_is_an_operation_and_has_one_place() {
        for action in Action::ALL {
            let places = ACTIONS.iter().filter(|(_, it)| *it == action);
            assert_eq!(places.count(), 1, "{action:?}");
        }
    }
}
