//! Dialling a plain HTTP/1.1 server, or one that speaks something else by TLS.

use super::{
    ConnectError, ConnectOptions, Target, in_time, tls_handshake, tls_with, transport, tunnel,
};
use crate::io::{ByteStream, Scheme};

/// Dials a target of [`Target::parse_http`], within the deadline.
///
/// A proxy in front of an `https` server is asked for a tunnel. For an `http`
/// server the connection is the proxy's own: requests on it must name the whole
/// URL, and carry the proxy's authorization.
///
/// # Errors
/// [`ConnectError`], which names the target. Cancelling closes what was open.
pub async fn connect_http(
    target: &Target,
    options: &ConnectOptions,
) -> Result<ByteStream, ConnectError> {
    // Boxed: the future of all handshakes is much larger than what is left.
    in_time(target, options, Box::pin(handshakes(target, options))).await
}

/// Dials a target with an `https` URL for a protocol that has no name in TLS (ALPN), within the deadline.
///
/// # Errors
/// [`ConnectError`], which names the target. Cancelling closes what was open.
pub async fn connect_tls(
    target: &Target,
    options: &ConnectOptions,
) -> Result<ByteStream, ConnectError> {
    let all = Box::pin(async {
        let (io, _) = transport(target, options).await?;
        tls_with(io, target, options, &[]).await
    });
    in_time(target, options, all).await.map(ByteStream::plain)
}

async fn handshakes(target: &Target, options: &ConnectOptions) -> Result<ByteStream, ConnectError> {
    if target.scheme() == Scheme::Http
        && let Some(proxy) = options.proxy.proxy_for(target)
    {
        let to = tunnel::to(proxy, options).await;
        return to
            .map(ByteStream::plain)
            .map_err(|error| ConnectError::Proxy {
                target: target.to_string(),
                proxy: proxy.to_string(),
                error,
            });
    }
    let (io, _) = transport(target, options).await?;
    let io = match target.scheme().is_tls() {
        true => tls_handshake(io, target, options).await?,
        false => io,
    };
    Ok(ByteStream::plain(io))
}
