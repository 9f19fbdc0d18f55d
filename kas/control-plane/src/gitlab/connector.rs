//! Connections to GitLab for hyper's pool: direct, or through the proxy of this link.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use runtime::{
    connect::{ConnectError, ConnectOptions, Target, connect_http},
    io::ByteStream,
};
use tower::Service;

/// Dials GitLab, whatever the request's URL says.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    route: Arc<Route>,
}

#[derive(Debug)]
struct Route {
    target: Target,
    options: ConnectOptions,
    /// Whether requests go to a proxy as they are.
    absolute: bool,
}

impl Connector {
    pub(super) fn new(target: Target, options: ConnectOptions, absolute: bool) -> Self {
        Self {
            route: Arc::new(Route {
                target,
                options,
                absolute,
            }),
        }
    }
}

impl Service<Uri> for Connector {
    type Response = Link;
    type Error = ConnectError;
    type Future = BoxFuture<'static, Result<Link, ConnectError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let route = self.route.clone();
        Box::pin(async move {
            let io = connect_http(&route.target, &route.options).await?;
            Ok(Link {
                io: TokioIo::new(io),
                absolute: route.absolute,
            })
        })
    }
}

/// A connection, and what hyper must know of it.
pub(super) struct Link {
    io: TokioIo<ByteStream>,
    absolute: bool,
}

impl Connection for Link {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.absolute)
    }
}

impl Read for Link {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl Write for Link {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
