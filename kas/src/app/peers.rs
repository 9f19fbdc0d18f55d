//! The private API's port, as configured.

use std::time::Duration;

use anyhow::Context as _;
use cluster_state::{MAX_URLS, urls};
use router::{Owner, ReplicaId};
use runtime::{
    connect::{ConnectOptions, Target},
    jwt::Secret,
    listen::PlainAcceptor,
    telemetry::Causes,
    tls::{ClientTls, ClientTlsOptions, H2, Identity, ServerTls},
};

use super::listener::listen;
use crate::{
    config::{
        Config, Listens as _, OwnAddress, OwnAddressVariables, PrivateApiListen,
        interface_addresses,
    },
    private_api::{Tokens, self_test},
    replica::{PeerSettings, Port},
};

/// How long the published URL may take until it leads to this replica.
const SELF_TEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The peers' port, after its self-test.
pub(super) async fn peers(
    config: &Config,
    id: &ReplicaId,
) -> anyhow::Result<(Owner, Option<Port<PlainAcceptor, PeerSettings>>)> {
    let Some(peers) = config.private_api.as_ref().map(|it| &it.listen) else {
        let unpublished = Owner {
            replica: id.clone(),
            url: String::new(),
        };
        return Ok((unpublished, None));
    };
    let own = own_address(peers)?;
    if config.redis.is_some() {
        warn_of_loopback(&own.url);
    }
    if own.url.split(',').count() > MAX_URLS {
        tracing::warn!(
            url = own.url,
            "this machine has more than {MAX_URLS} addresses, and only the first {MAX_URLS} are dialled: \
             set OWN_PRIVATE_API_CIDR to the networks in which other replicas are"
        );
    }
    let me = Owner {
        replica: id.clone(),
        url: own.url.clone(),
    };
    let port = port(peers, own).await?;
    // GitLab's kas starts without asking, and a replica alone needs nobody to reach it.
    if let Err(error) = self_test(&me, &port, SELF_TEST_TIMEOUT).await {
        tracing::error!(
            url = me.url,
            error = %Causes(&error),
            "the self-test of the private API failed; starting all the same, but requests that come to other \
             replicas will not find this one's agents"
        );
    }
    tracing::info!(url = me.url, address = %port.listener, "listening for other replicas");
    Ok((me, Some(port)))
}

/// Where other replicas reach this one, by the environment and the section.
pub(crate) fn own_address(peers: &PrivateApiListen) -> anyhow::Result<OwnAddress> {
    let variables = OwnAddressVariables::read(|name| std::env::var(name).ok());
    let tls = peers.tls().is_some();
    OwnAddress::decide(&variables, &peers.socket(), tls, interface_addresses)
        .context("the private API's own address")
}

async fn port(
    peers: &PrivateApiListen,
    own: OwnAddress,
) -> anyhow::Result<Port<PlainAcceptor, PeerSettings>> {
    let settings = settings(peers, own)?;
    let server = match (identity(peers), peers.client_ca_certificate_file.clone()) {
        (Some(identity), Some(ca)) => Some(ServerTls::load_mutual(identity, ca, &[H2])?),
        (Some(identity), None) => Some(ServerTls::load(identity, &[H2])?),
        (None, _) => None,
    };
    let listener = listen(&peers.socket())
        .await
        .context("private_api.listen.address")?;
    Ok(Port {
        listener,
        acceptor: PlainAcceptor::new(server),
        settings,
    })
}

fn identity(peers: &PrivateApiListen) -> Option<Identity> {
    peers.tls().map(|files| Identity {
        certificate: files.certificate_file,
        key: files.key_file,
    })
}

/// How other replicas are dialled, by a replica that publishes its own address.
pub(crate) fn settings(peers: &PrivateApiListen, own: OwnAddress) -> anyhow::Result<PeerSettings> {
    let secret = Secret::read(&peers.authentication_secret_file)?;
    let spoken =
        urls(&own.url).any(|url| url.starts_with("grpcs:")) || peers.ca_certificate_file.is_some();
    let load = || {
        ClientTls::load(&ClientTlsOptions {
            ca_files: peers.ca_certificate_file.iter().cloned().collect(),
            server_name: own.tls_server_name,
            identity: (peers.client_ca_certificate_file.as_ref()).and(identity(peers)),
            ..ClientTlsOptions::default()
        })
    };
    // Without TLS the machine needs no root certificates.
    let tls = spoken.then(load).transpose()?;
    let dial = ConnectOptions {
        tls,
        ..ConnectOptions::default()
    };
    Ok(PeerSettings {
        tokens: if peers.gitlab_tokens {
            Tokens::unbound(secret)
        } else {
            Tokens::new(secret)
        },
        dial,
        own: own.url.into(),
    })
}

/// A replica that dials a loopback address, or a socket, reaches itself instead of the other.
fn warn_of_loopback(published: &str) {
    if urls(published).any(is_local) {
        tracing::warn!(
            url = published,
            "the published URL of the private API is local to this machine: replicas on other machines cannot reach \
             this one; set private_api.listen.address and OWN_PRIVATE_API_URL or OWN_PRIVATE_API_CIDR"
        );
    }
}

fn is_local(url: &str) -> bool {
    let Ok(target) = Target::parse(url) else {
        return url.starts_with("unix:");
    };
    let ip: Option<std::net::IpAddr> = target.host().parse().ok();
    ip.is_some_and(|ip| ip.is_loopback()) || target.host() == "localhost"
}
