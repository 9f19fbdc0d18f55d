//! An HTTP server that gets records in batches.

use std::{io, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::Full;
use jiff::Timestamp;
use runtime::{
    connect::{ExchangeError, status_of},
    tls::ClientTlsOptions,
};
use serde::Deserialize;
use serde_json::json;
use tokio::time::timeout;

use super::{WriteError, client::Client};
use crate::{
    Identity, OpenError,
    config::{HttpFormat, HttpSection},
};

/// How long one attempt may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
/// `SEVERITY_NUMBER_INFO` of OTLP.
const OTLP_INFO: u8 = 9;

/// An HTTP server. Each batch has a connection of its own.
#[derive(Debug)]
pub(crate) struct HttpOutput {
    client: Client,
    authorization: Option<HeaderValue>,
    format: HttpFormat,
    identity: Identity,
}

/// Why a batch was not taken.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    #[error(transparent)]
    Request(#[from] http::Error),
    #[error("the server answered {0}")]
    Status(StatusCode),
}

#[derive(Deserialize)]
struct Timed {
    time: Timestamp,
}

impl HttpOutput {
    pub(super) fn new(
        section: &HttpSection,
        at: &str,
        identity: &Identity,
    ) -> Result<Self, OpenError> {
        let key = format!("{at}.http");
        let ca = section.ca_certificate_file.iter();
        let tls = ClientTlsOptions {
            ca_files: ca.map(|it| it.to_path_buf()).collect(),
            ..ClientTlsOptions::default()
        };
        let client = Client::new(&section.url.0, &tls, (&key, identity), ATTEMPT_TIMEOUT)?;
        let authorization = section.token_file.as_deref().map(|file| {
            let token = std::fs::read_to_string(file)?;
            let mut value = HeaderValue::try_from(format!("Bearer {}", token.trim()))
                .map_err(io::Error::other)?;
            value.set_sensitive(true);
            Ok(value)
        });
        let authorization = authorization
            .transpose()
            .map_err(|source| OpenError::Token {
                key,
                file: section
                    .token_file
                    .as_deref()
                    .map(Into::into)
                    .unwrap_or_default(),
                source,
            })?;
        Ok(Self {
            client,
            authorization,
            format: section.format,
            identity: identity.clone(),
        })
    }

    pub(super) async fn write(&self, lines: &[String]) -> Result<(), WriteError> {
        let error = match timeout(ATTEMPT_TIMEOUT, self.send(lines)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error,
            Err(_) => {
                let limit = ATTEMPT_TIMEOUT.as_secs();
                return Err(WriteError::Retry(format!("no answer within {limit} s")));
            }
        };
        let host = self.client.target.host();
        let text = format!("{host}: {error}");
        Err(match error {
            SendError::Status(status) if is_final(status) => WriteError::Refused(text),
            _ => WriteError::Retry(text),
        })
    }

    async fn send(&self, lines: &[String]) -> Result<(), SendError> {
        let request = self.request(lines)?;
        let Client { target, options } = &self.client;
        match status_of(request, target, options).await? {
            status if status.is_success() => Ok(()),
            status => Err(SendError::Status(status)),
        }
    }

    fn request(&self, lines: &[String]) -> Result<Request<Full<Bytes>>, http::Error> {
        let (kind, body) = match self.format {
            HttpFormat::JsonLines => ("application/x-ndjson", lines.join("\n") + "\n"),
            HttpFormat::Otlp => ("application/json", self.otlp(lines)),
        };
        let Client { target, options } = &self.client;
        let mut request = Request::post(target.path_and_query())
            .header(header::HOST, target.authority())
            .header(header::USER_AGENT, &options.user_agent)
            .header(header::CONTENT_TYPE, kind)
            .header(header::CONNECTION, "close");
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        request.body(Full::from(body))
    }

    /// Lines as OTLP's logs.
    fn otlp(&self, lines: &[String]) -> String {
        let nanoseconds = |time: Timestamp| time.as_nanosecond().to_string();
        let now = Timestamp::now();
        let attribute =
            |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
        let record = |line: &String| {
            let time = serde_json::from_str::<Timed>(line).map_or(now, |it| it.time);
            json!({
                "timeUnixNano": nanoseconds(time),
                "observedTimeUnixNano": nanoseconds(now),
                "severityNumber": OTLP_INFO,
                "severityText": "INFO",
                "body": {"stringValue": line},
            })
        };
        let records: Vec<_> = lines.iter().map(record).collect();
        json!({"resourceLogs": [{
            "resource": {"attributes": [
                attribute("service.name", "kas"),
                attribute("service.version", &self.identity.version),
                attribute("service.instance.id", &self.identity.replica),
            ]},
            "scopeLogs": [{"scope": {"name": "kas.audit"}, "logRecords": records}],
        }]})
        .to_string()
    }
}

/// Whether asking again would not help.
fn is_final(status: StatusCode) -> bool {
    let later = matches!(
        status,
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS | StatusCode::TOO_EARLY
    );
    // A token or a route that is wrong may be mended.
    let mended = matches!(
        status,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND
    );
    status.is_client_error() && !later && !mended
}
