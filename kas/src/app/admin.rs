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
    let (settings, tls) = doors(section)?;
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

/// Whether the port could be served, but for its address.
pub(super) fn check(section: &AdminSection) -> anyhow::Result<()> {
    match section.enabled {
        true => doors(section).map(drop),
        false => Ok(()),
    }
}

/// Who may come in, and how they know the port.
fn doors(section: &AdminSection) -> anyhow::Result<(admin::Settings, Option<ServerTls>)> {
    let settings = admin::Settings::new(section).context("admin.listen.tokens_file")?;
    let wanted = &section.listen;
    let tls = wanted.tls().map(|files| {
        let identity = Identity {
            certificate: files.certificate_file,
            key: files.key_file,
        };
        let alpn = [H2, HTTP_1_1];
        match wanted.client_ca_certificate_file.clone() {
            Some(ca) => ServerTls::load_mutual(identity, ca, &alpn),
            None => ServerTls::load(identity, &alpn),
        }
    });
    let tls = tls.transpose().context("admin.listen")?;
    Ok((settings, tls))
}
