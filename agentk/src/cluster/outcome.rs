//! What an error says of a request that got no answer. Pure.

use std::error::Error;

use http::Method;
use hyper_util::client::legacy;

use super::BoxError;

/// A request got no answer from the API server.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    /// The API server has certainly not begun it: it can be made again, whatever it asks for.
    #[error(transparent)]
    NotTaken(BoxError),
    /// The connection was lost, and it may have been carried out.
    #[error(transparent)]
    Lost(BoxError),
    /// Another attempt is of no use.
    #[error(transparent)]
    Failed(BoxError),
}

impl RequestError {
    /// What an HTTP client's error means.
    ///
    /// HTTP/2 says what was not begun: a stream that is refused, or above the last one that a GOAWAY names (RFC 9113,
    /// 6.8 and 8.7). h2 gives the GOAWAY as the error of these streams only, and of requests that find a connection
    /// which had it before: `driver` sees to it that hyper has no third case. Streams up to the last one end with the
    /// connection, as an error of it.
    pub(super) fn of(error: BoxError) -> Self {
        if causes(&*error).any(is_not_taken) {
            Self::NotTaken(error)
        } else if causes(&*error).any(is_lost) {
            Self::Lost(error)
        } else {
            Self::Failed(error)
        }
    }

    /// Whether a request of this method can be made again.
    pub(super) fn can_be_repeated(&self, method: &Method) -> bool {
        match self {
            Self::NotTaken(_) => true,
            Self::Lost(_) => [Method::GET, Method::HEAD, Method::OPTIONS].contains(method),
            Self::Failed(_) => false,
        }
    }
}

fn causes<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| {
        let error: &'e (dyn Error + 'static) = *error;
        error.source()
    })
}

fn is_not_taken(error: &(dyn Error + 'static)) -> bool {
    if let Some(error) = error.downcast_ref::<legacy::Error>() {
        return error.is_connect();
    }
    if let Some(error) = error.downcast_ref::<hyper::Error>() {
        // What was queued for a connection when that ended.
        return error.is_canceled();
    }
    error.downcast_ref::<h2::Error>().is_some_and(|error| {
        let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
        error.is_remote() && (error.is_go_away() || refused)
    })
}

fn is_lost(error: &(dyn Error + 'static)) -> bool {
    if let Some(error) = error.downcast_ref::<hyper::Error>() {
        // hyper's word for a request that waited for its stream when the connection ended is one of its user's errors;
        // the other one of these is a body that broke off, of which the caller knows.
        let lost = error.is_incomplete_message() || error.is_closed() || error.is_timeout();
        return lost || error.is_user();
    }
    if let Some(error) = error.downcast_ref::<h2::Error>() {
        return error.is_io() || error.is_go_away();
    }
    error.is::<std::io::Error>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost() -> RequestError {
        RequestError::of(std::io::Error::from(std::io::ErrorKind::ConnectionReset).into())
    }

    #[test]
    fn what_may_have_been_carried_out_is_repeated_only_where_that_changes_nothing() {
        for (method, safe) in [
            (Method::GET, true),
            (Method::HEAD, true),
            (Method::OPTIONS, true),
            (Method::POST, false),
            (Method::PUT, false),
            (Method::PATCH, false),
            (Method::DELETE, false),
        ] {
            assert_eq!(lost().can_be_repeated(&method), safe, "{method}");
            assert!(RequestError::NotTaken("refused".into()).can_be_repeated(&method));
        }
    }

    #[test]
    fn an_error_that_is_about_no_connection_is_not_tried_again() {
        let error = RequestError::of("an answer that is none".into());

        assert!(!error.can_be_repeated(&Method::GET));
    }
}
