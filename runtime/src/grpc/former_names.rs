//! Calls by the names that our own services had before, in both directions.

use std::task::{Context, Poll};

use http::{Request, Uri, uri::PathAndQuery};
use proto::former_names::{former, present};
use tower::Service;

/// A request with the present name of its method, whichever it came by.
#[must_use]
pub fn with_present_name<B>(mut request: Request<B>) -> Request<B> {
    rename(request.uri_mut(), |path| match present(path) {
        std::borrow::Cow::Owned(path) => Some(path),
        std::borrow::Cow::Borrowed(_) => None,
    });
    request
}

/// Calls methods by their former names: servers of before know no others.
#[derive(Debug, Clone)]
pub struct FormerNames<S>(pub S);

impl<B, S: Service<Request<B>>> Service<Request<B>> for FormerNames<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        rename(request.uri_mut(), |path| Some(former(path).into_owned()));
        self.0.call(request)
    }
}

fn rename(uri: &mut Uri, other: impl FnOnce(&str) -> Option<String>) {
    let Some(path) = other(uri.path()) else {
        return;
    };
    let mut parts = uri.clone().into_parts();
    let renamed = PathAndQuery::try_from(path).ok().and_then(|path| {
        parts.path_and_query = Some(path);
        Uri::from_parts(parts).ok()
    });
    // Names are plain text, so that there always is one.
    if let Some(renamed) = renamed {
        *uri = renamed;
    }
}
