//! Opens a tunnel.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header, uri::PathAndQuery};
use proto::frame::Frame;
use tonic::Status;

use super::{Inbound, Outbound};
use crate::grpc::{SendRequest, status_from};

/// The method by which tunnels are opened.
pub const PATH: &str = "/gitlab.agent.reverse_tunnel.rpc.ReverseTunnel/Connect";

/// Opens a tunnel that offers what the [framed descriptor](super::framed_descriptor) lists.
///
/// # Errors
/// When the connection takes no more streams.
pub async fn open(
    requests: SendRequest,
    origin: &Uri,
    metadata: HeaderMap,
    descriptor: Bytes,
) -> Result<(Inbound, Outbound), Status> {
    let failed = |error: h2::Error| status_from(&error);
    let mut requests = requests.ready().await.map_err(failed)?;
    let request = request(origin, metadata);
    let (response, mut stream) = requests.send_request(request, false).map_err(failed)?;
    let descriptor = Frame::raw(descriptor);
    stream.send_data(descriptor, false).map_err(failed)?;
    Ok((Inbound::new(response), Outbound::new(stream)))
}

fn request(origin: &Uri, metadata: HeaderMap) -> Request<()> {
    let mut parts = origin.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::from_static(PATH));
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.version_mut() = http::Version::HTTP_2;
    *request.uri_mut() = Uri::from_parts(parts).expect("an origin and a path make a URI");
    *request.headers_mut() = metadata;
    let headers = request.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, "application/grpc"),
        (header::TE, "trailers"),
        (
            http::HeaderName::from_static("grpc-accept-encoding"),
            "identity,gzip",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    request
}
