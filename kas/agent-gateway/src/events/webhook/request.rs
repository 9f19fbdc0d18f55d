//! One signed request.

use http::{Request, StatusCode, header};
use http_body_util::Full;
use jiff::Timestamp;
use runtime::{
    connect::{ConnectOptions, ExchangeError, Target, status_of},
    jwt::{JwtError, Secret},
};

/// Where a webhook is, and what its requests are signed with.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) target: Target,
    pub(super) secret: Secret,
    pub(super) options: ConnectOptions,
}

/// Why a delivery failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    #[error(transparent)]
    Request(#[from] http::Error),
    #[error(transparent)]
    Signature(#[from] JwtError),
    #[error("the webhook answered {0}")]
    Refused(StatusCode),
}

impl Endpoint {
    /// Its host: the rest of a URL may be a secret.
    pub(super) fn host(&self) -> &str {
        self.target.host()
    }

    /// Sends a body under an id, which is the same for each attempt. The
    /// connection is used once.
    pub(super) async fn send(
        &self,
        id: &str,
        body: String,
        now: Timestamp,
    ) -> Result<(), SendError> {
        let request = self.request(id, body, now.as_second())?;
        match status_of(request, &self.target, &self.options).await? {
            status if status.is_success() => Ok(()),
            status => Err(SendError::Refused(status)),
        }
    }

    fn request(
        &self,
        id: &str,
        body: String,
        seconds: i64,
    ) -> Result<Request<Full<bytes::Bytes>>, SendError> {
        let signature = self.secret.hmac_base64(&format!("{id}.{seconds}.{body}"))?;
        let request = Request::post(self.target.path_and_query())
            .header(header::HOST, self.target.authority())
            .header(header::USER_AGENT, &self.options.user_agent)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONNECTION, "close")
            .header("webhook-id", id)
            .header("webhook-timestamp", seconds)
            .header("webhook-signature", format!("v1,{signature}"))
            .body(Full::from(body))?;
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Python's `hmac` makes of the same.
    #[test]
    fn requests_are_signed_as_specified() {
        let endpoint = Endpoint {
            target: Target::parse_http("https://hook.example/a?b=c").unwrap(),
            secret: Secret::new(vec![7; 32]),
            options: ConnectOptions::default(),
        };

        let request = endpoint.request("msg_1", "{}".to_owned(), 1_614_265_330);

        let request = request.unwrap();
        assert_eq!(request.uri(), "/a?b=c");
        assert_eq!(request.headers()["webhook-timestamp"], "1614265330");
        let signature = request.headers()["webhook-signature"].to_str().unwrap();
        assert_eq!(signature, "v1,XdmZr1Lw2QIrc46pU0n7/A0HcEX9oKQeg+B/wV3KFT0=");
    }
}
