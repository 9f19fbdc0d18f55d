//! Name, TCP and TLS, up to the first byte that an application would send.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::TlsConnector;

use super::{
    certificates::{self, CertificateFacts},
    remedies::Fault,
    report::{Finding, Report},
};
use crate::{
    connect::{ConnectError, ConnectOptions, Target, transport},
    telemetry::Causes,
    tls::{ClientTls, ClientTlsOptions, H2, HTTP_1_1, TlsError},
};

/// How long a name may take, and each address.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// Addresses of a name that are dialled.
const MAX_ADDRESSES: usize = 8;

/// What a server shows in its handshake.
#[derive(Debug)]
pub(super) struct TlsSeen {
    /// The protocol that it chose, if any.
    pub(super) alpn: Option<Vec<u8>>,
    chain: Vec<CertificateFacts>,
}

/// Looks at the way to a port; whether it leads there. With what TLS has shown, where that is spoken.
pub async fn check_network(
    report: &mut Report,
    target: &Target,
    options: &ConnectOptions,
    tls: &ClientTlsOptions,
) -> Option<Option<Vec<u8>>> {
    let hop = target.host_and_port();
    if let Some(proxy) = options.proxy.proxy_for(target) {
        let hop = format!("HTTP proxy {proxy}");
        let reached = timeout(STEP_TIMEOUT, transport(target, options)).await;
        let finding = match reached {
            Ok(Ok(_)) => Finding::ok(format!("it connects to {}", target.host_and_port())),
            Ok(Err(error)) => Finding::failed(Fault::Proxy, error.to_string()),
            Err(_) => Finding::failed(Fault::Proxy, format!("no answer within {STEP_TIMEOUT:?}")),
        };
        if !report.add(&hop, "CONNECT", finding) {
            return None;
        }
    } else {
        let addresses = resolve(report, target).await?;
        if !check_tcp(report, &hop, &addresses).await {
            return None;
        }
    }
    if !target.scheme().is_tls() {
        return Some(None);
    }
    check_tls(report, &hop, target, options, tls)
        .await
        .map(|seen| seen.alpn)
}

async fn resolve(report: &mut Report, target: &Target) -> Option<Vec<SocketAddr>> {
    let host = target.host();
    let began = Instant::now();
    let found = timeout(STEP_TIMEOUT, tokio::net::lookup_host((host, target.port()))).await;
    let addresses: Vec<_> = match found {
        Ok(Ok(found)) => found.take(MAX_ADDRESSES).collect(),
        Ok(Err(error)) => {
            report.add(
                "name service",
                "name",
                Finding::failed(Fault::UnknownName, format!("{host}: {error}")),
            );
            return None;
        }
        Err(_) => {
            let seen = format!("{host}: no answer within {STEP_TIMEOUT:?}");
            report.add(
                "name service",
                "name",
                Finding::failed(Fault::UnknownName, seen),
            );
            return None;
        }
    };
    let listed: Vec<_> = addresses.iter().map(|it| it.ip().to_string()).collect();
    let seen = format!("{host} is {} ({:?})", listed.join(", "), began.elapsed());
    report.add("name service", "name", Finding::ok(seen));
    Some(addresses)
}

/// Dials each address: a fleet uses all of them.
async fn check_tcp(report: &mut Report, hop: &str, addresses: &[SocketAddr]) -> bool {
    let (mut reached, mut failed) = (Vec::new(), Vec::new());
    for address in addresses {
        let began = Instant::now();
        match timeout(STEP_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(_)) => reached.push(format!("{address} in {:?}", began.elapsed())),
            Ok(Err(error)) => {
                let fault = match error.kind() {
                    std::io::ErrorKind::ConnectionRefused => Fault::NothingListens,
                    _ => Fault::Unreachable,
                };
                failed.push((fault, format!("{address}: {error}")));
            }
            Err(_) => failed.push((
                Fault::Unreachable,
                format!("{address}: no answer within {STEP_TIMEOUT:?}"),
            )),
        }
    }
    let fault = failed.first().map(|(fault, _)| *fault);
    let seen: Vec<_> = failed.into_iter().map(|(_, seen)| seen).collect();
    let finding = match fault {
        None => Finding::ok(reached.join(", ")),
        Some(fault) if reached.is_empty() => Finding::failed(fault, seen.join(", ")),
        // `localhost` is commonly two addresses, of which a program listens on one.
        Some(Fault::NothingListens) if addresses.iter().all(|it| it.ip().is_loopback()) => {
            Finding::ok(reached.join(", "))
        }
        Some(fault) => Finding::warning(fault, format!("only some addresses: {}", seen.join(", "))),
    };
    report.add(hop, "TCP", finding)
}

async fn check_tls(
    report: &mut Report,
    hop: &str,
    target: &Target,
    options: &ConnectOptions,
    tls: &ClientTlsOptions,
) -> Option<TlsSeen> {
    let lenient = ClientTlsOptions {
        insecure_skip_verify: true,
        ..tls.clone()
    };
    let seen = match handshake(target, options, &lenient).await {
        Ok(seen) => seen,
        Err(failed) => {
            report.add(
                hop,
                "TLS",
                Finding::failed(failed.fault(), failed.to_string()),
            );
            return None;
        }
    };
    let verified = if tls.insecure_skip_verify {
        let seen = "certificates are not verified, as --kas-insecure-skip-tls-verify says";
        Finding::warning(Fault::NotVerified, seen)
    } else {
        match handshake(target, options, tls).await {
            Ok(_) => Finding::ok(format!("the chain is trusted: {}", shown(&seen.chain))),
            Err(failed) => {
                Finding::failed(failed.fault(), format!("{failed}; {}", shown(&seen.chain)))
            }
        }
    };
    if !report.add(hop, "TLS certificate", verified) {
        return None;
    }
    if let Some(end) = certificates::first_end(&seen.chain) {
        report.add(hop, "certificate's end", certificates::ends(end));
    }
    let chosen = seen.alpn.as_deref().map(String::from_utf8_lossy);
    let chosen = chosen.unwrap_or("none".into());
    report.add(
        hop,
        "ALPN",
        Finding::ok(format!("offered h2 and http/1.1, chosen: {chosen}")),
    );
    Some(seen)
}

fn shown(chain: &[CertificateFacts]) -> String {
    let shown: Vec<_> = chain.iter().map(ToString::to_string).collect();
    shown.join("; ")
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
enum HandshakeFailed {
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] TlsError),
    #[error("{0}")]
    Connect(#[from] ConnectError),
    #[error("TLS handshake: {}", Causes(.0))]
    Tls(#[source] std::io::Error),
    #[error("TLS handshake: no end within {STEP_TIMEOUT:?}")]
    Timeout,
}

impl HandshakeFailed {
    fn fault(&self) -> Fault {
        use rustls::{CertificateError as Certificate, Error};
        let Self::Tls(error) = self else {
            return match self {
                Self::Setup(_) => Fault::WrongCa,
                _ => Fault::NotTls,
            };
        };
        let inner = error.get_ref().and_then(|it| it.downcast_ref::<Error>());
        match inner {
            Some(Error::InvalidCertificate(
                Certificate::Expired | Certificate::ExpiredContext { .. },
            )) => Fault::Expired,
            Some(Error::InvalidCertificate(
                Certificate::NotValidYet | Certificate::NotValidYetContext { .. },
            )) => Fault::NotYetValid,
            Some(Error::InvalidCertificate(
                Certificate::NotValidForName | Certificate::NotValidForNameContext { .. },
            )) => Fault::WrongName,
            Some(Error::InvalidCertificate(_)) => Fault::WrongCa,
            Some(Error::NoApplicationProtocol) => Fault::NoHttp2,
            Some(_) | None => Fault::NotTls,
        }
    }
}

async fn handshake(
    target: &Target,
    options: &ConnectOptions,
    tls: &ClientTlsOptions,
) -> Result<TlsSeen, HandshakeFailed> {
    let tls = ClientTls::load(tls)?;
    let name = tls.server_name(target.host())?;
    let (io, _) = transport(target, options).await?;
    let connector = TlsConnector::from(tls.config(&[H2, HTTP_1_1]));
    let connected = timeout(STEP_TIMEOUT, connector.connect(name, io)).await;
    let stream = connected
        .map_err(|_| HandshakeFailed::Timeout)?
        .map_err(HandshakeFailed::Tls)?;
    let (_, session) = stream.get_ref();
    let chain = session.peer_certificates().unwrap_or_default();
    Ok(TlsSeen {
        alpn: session.alpn_protocol().map(<[u8]>::to_vec),
        chain: chain
            .iter()
            .filter_map(|it| CertificateFacts::read(it))
            .collect(),
    })
}
