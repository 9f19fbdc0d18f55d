//! What a start would refuse of a configuration, found without a start: files are read, nothing listens and nobody is
//! asked.

use anyhow::Context as _;
use audit::Audit;
use control_plane::{gitlab::Client, standalone::Standalone};
use runtime::{
    connect::ProxySetting,
    jwt::Secret,
    tls::{ClientTls, ClientTlsOptions, H2, HTTP_1_1, Identity, ServerTls},
};

use super::{admin, routing, server_tls, traces};
use crate::{
    config::{Config, ControlPlaneConfig, Listens, PrivateApiListen, Webhook},
    version,
};

type Check = anyhow::Result<()>;

/// What would be refused, in the order of the file.
pub(crate) fn refusals(config: &Config) -> Vec<anyhow::Error> {
    let agent = &config.agent;
    let users = agent.kubernetes_api.as_ref();
    let webhooks = agent.events.iter().flat_map(|events| &events.webhooks);
    let api = config.api.as_ref().map(|it| &it.listen);
    let peers = config.private_api.as_ref().map(|it| &it.listen);
    let checks = [
        control_plane(config),
        listener(&agent.listen, "agent.listen"),
        users.map_or(Ok(()), |it| {
            listener(&it.listen, "agent.kubernetes_api.listen")
        }),
        users
            .and_then(|it| it.websocket_token_secret_file.as_deref())
            .map_or(Ok(()), |file| {
                let secret = Secret::read(file).map(drop);
                secret.context("agent.kubernetes_api.websocket_token_secret_file")
            }),
        api.map_or(Ok(()), |it| {
            let secret = Secret::read(&it.authentication_secret_file).map(drop);
            secret.context("api.listen.authentication_secret_file")
        }),
        api.map_or(Ok(()), |it| listener(it, "api.listen")),
        peers.map_or(Ok(()), private_api),
        config.redis.as_ref().map_or(Ok(()), routing::check),
        listener(&config.observability.listen, "observability.listen"),
        config
            .observability
            .tracing
            .as_ref()
            .map_or(Ok(()), traces::check),
        admin::check(&config.admin),
        Audit::check(&config.audit).map_err(Into::into),
    ];
    let checks = checks.into_iter().chain(webhooks.map(webhook));
    checks.filter_map(Result::err).collect()
}

fn control_plane(config: &Config) -> Check {
    match config.control_plane() {
        ControlPlaneConfig::Standalone(file) => {
            Standalone::open(file).map(drop).context("standalone.file")
        }
        ControlPlaneConfig::GitLab(settings) => {
            let proxy = ProxySetting::from_environment().context("the HTTP proxy for GitLab")?;
            let client = Client::new(settings, proxy, version::server_header());
            client.map(drop).context("gitlab")
        }
    }
}

fn listener(listen: &impl Listens, key: &'static str) -> Check {
    server_tls(listen.tls().as_ref(), &[H2, HTTP_1_1])
        .map(drop)
        .context(key)
}

fn private_api(listen: &PrivateApiListen) -> Check {
    let key = "private_api.listen";
    Secret::read(&listen.authentication_secret_file)
        .with_context(|| format!("{key}.authentication_secret_file"))?;
    if let (Some(files), Some(ca)) = (listen.tls(), &listen.client_ca_certificate_file) {
        let identity = Identity {
            certificate: files.certificate_file,
            key: files.key_file,
        };
        return ServerTls::load_mutual(identity, ca.clone(), &[H2])
            .map(drop)
            .context(key);
    }
    authorities(listen.ca_certificate_file.as_ref()).context(key)?;
    listener(listen, key)
}

fn webhook(webhook: &Webhook) -> Check {
    let key = "agent.events.webhooks";
    Secret::read(&webhook.secret_file).context(key)?;
    authorities(webhook.ca_certificate_file.as_ref()).context(key)
}

/// Certificates of authorities, if there are any.
fn authorities(file: Option<&std::path::PathBuf>) -> Check {
    if file.is_none() {
        return Ok(());
    }
    let options = ClientTlsOptions {
        ca_files: file.cloned().into_iter().collect(),
        ..ClientTlsOptions::default()
    };
    Ok(ClientTls::load(&options).map(drop)?)
}
