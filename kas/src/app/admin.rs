//! The operator's API, as the configuration wants it.

use std::sync::Arc;

use admin::config::AdminSection;
use agent_gateway::Tracker;
use anyhow::Context as _;
use audit::Audit;
use control_plane::standalone::Standalone;
use runtime::{
    listen::PlainAcceptor,
    telemetry::Causes,
    tls::{H2, HTTP_1_1, Identity, ServerTls},
};

use super::listener::listen;
use crate::{config::Listens as _, replica::AdminPort};

/// The port for operators, where there is one.
pub(super) async fn port(
    section: &AdminSection,
    tracker: &Arc<Tracker>,
    standalone: Option<&Arc<Standalone>>,
    audit: Audit,
) -> anyhow::Result<Option<AdminPort>> {
    if !section.enabled {
        return Ok(None);
    }
    let wanted = &section.listen;
    let client_ca = wanted.client_ca_certificate_file.clone();
    let settings = admin::Settings::new(section).context("admin.listen.tokens_file")?;
    let alpn = [H2, HTTP_1_1];
    let tls = match (wanted.tls(), client_ca) {
        (Some(files), ca) => {
            let identity = Identity {
                certificate: files.certificate_file,
                key: files.key_file,
            };
            Some(match ca {
                Some(ca) => ServerTls::load_mutual(identity, ca, &alpn)?,
                None => ServerTls::load(identity, &alpn)?,
            })
        }
        (None, _) => None,
    };
    let listener = match listen(&wanted.socket()).await {
        Ok(listener) => listener,
        // Nobody has asked for it: a second server on one machine starts as it did without it.
        Err(error) if wanted.is_default_address() => {
            tracing::info!(
                address = wanted.address,
                error = %Causes(&error),
                "the admin API is not served: its default address is not free; set admin.listen.address"
            );
            return Ok(None);
        }
        Err(error) => return Err(error).context("admin.listen.address"),
    };
    tracing::info!(address = %listener, "admin API is up");
    Ok(Some(AdminPort {
        listener,
        acceptor: PlainAcceptor::new(tls),
        settings,
        audit,
        tracker: tracker.clone(),
        standalone: standalone.cloned(),
    }))
}
