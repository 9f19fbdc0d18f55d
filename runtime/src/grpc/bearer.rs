//! The bearer token of a gRPC call, refused in upstream's words.

use http::{HeaderMap, header::AUTHORIZATION};
use tonic::Status;

/// The token that the headers carry.
///
/// # Errors
/// UNAUTHENTICATED, when they carry none.
pub fn bearer(headers: &HeaderMap) -> Result<&str, Status> {
    let missing = || Status::unauthenticated("Request unauthenticated with bearer");
    let value = headers.get(AUTHORIZATION).ok_or_else(missing)?;
    let value = value.to_str().map_err(|_| missing())?;
    let (scheme, token) = value
        .split_once(' ')
        .ok_or_else(|| Status::unauthenticated("Bad authorization string"))?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(missing());
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())])
    }

    #[test]
    fn the_scheme_is_read_ignoring_case() {
        assert_eq!(bearer(&headers("bearer abc")).unwrap(), "abc");
        assert_eq!(bearer(&headers("Bearer abc")).unwrap(), "abc");
    }

    #[test]
    fn anything_else_is_refused_with_the_known_texts() {
        let message = |headers: &HeaderMap| bearer(headers).unwrap_err().message().to_owned();
        assert_eq!(
            message(&HeaderMap::new()),
            "Request unauthenticated with bearer"
        );
        assert_eq!(
            message(&headers("Basic abc")),
            "Request unauthenticated with bearer"
        );
        assert_eq!(message(&headers("abc")), "Bad authorization string");
    }
}
