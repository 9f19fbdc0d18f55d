//! The heads of a module's request and of GitLab's answer, between the wire and HTTP.

use control_plane::gitlab::{ModuleBody, ModulePath, ModuleRequest};
use http::{HeaderMap, HeaderName, header, response::Parts};
use prost::Message as _;
use proto::{
    agent::{
        gitlab_access::rpc::HeaderExtra,
        grpctool::{http_request, http_response},
        prototool,
    },
    metadata,
};
use tonic::Status;

const EXTRA: &str = "gitlab.agent.gitlab_access.rpc.HeaderExtra";
/// Headers of an answer that speak of kas's own connection to GitLab.
const OF_THE_CONNECTION: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::SET_COOKIE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// A request whose body is still to come.
#[derive(Debug)]
pub(super) struct RequestHead {
    method: String,
    path: ModulePath,
    headers: HeaderMap,
}

/// Reads a request's header.
///
/// # Errors
/// The refusal, when it is none that a module may make.
pub(super) fn read(header: http_request::Header) -> Result<RequestHead, Status> {
    let extra = header.extra.ok_or_else(|| invalid("it names no module"))?;
    if extra.type_url.rsplit('/').next() != Some(EXTRA) {
        return Err(invalid("it names no module"));
    }
    let extra = HeaderExtra::decode(extra.value.as_slice())
        .map_err(|_| invalid("its extra is not understood"))?;
    let request = header.request.ok_or_else(|| invalid("it is empty"))?;
    let headers = metadata::to_headers(request.header);
    if headers.contains_key(header::UPGRADE) {
        return Err(Status::unavailable(
            "gRPC -> HTTP: connection upgrade is not supported",
        ));
    }
    let mut query: Vec<_> = request
        .query
        .into_iter()
        .flat_map(|(key, values)| values.value.into_iter().map(move |it| (key.clone(), it)))
        .collect();
    // Maps have no order, and requests that mean the same should look the same.
    query.sort();
    let path = ModulePath::parse(&extra.module_name, &request.url_path, query);
    Ok(RequestHead {
        method: request.method,
        path: path.map_err(|error| invalid(&error.to_string()))?,
        headers,
    })
}

impl RequestHead {
    /// The request with its body.
    ///
    /// # Errors
    /// The refusal, when it is none that a module may make.
    pub(super) fn with(self, body: ModuleBody) -> Result<ModuleRequest, Status> {
        let request = ModuleRequest::new(&self.method, self.path, &self.headers, body);
        request.map_err(|error| invalid(&error.to_string()))
    }
}

/// The first message of an answer.
pub(super) fn of_answer(head: &Parts) -> http_response::Message {
    let mut headers = head.headers.clone();
    for name in &OF_THE_CONNECTION {
        headers.remove(name);
    }
    let response = prototool::HttpResponse {
        status_code: i32::from(head.status.as_u16()),
        status: head.status.to_string(),
        header: metadata::raw_from_headers(&headers, metadata::canonical),
    };
    http_response::Message::Header(http_response::Header {
        response: Some(response),
        resume: None,
    })
}

fn invalid(why: &str) -> Status {
    Status::invalid_argument(format!(
        "the request of an agent's module cannot be made: {why}"
    ))
}

#[cfg(test)]
mod tests {
    use http::Response;
    use prost_types::Any;
    use tonic::Code;

    use super::*;

    fn header(module: &str, path: &str) -> http_request::Header {
        let extra = HeaderExtra {
            module_name: module.to_owned(),
        };
        http_request::Header {
            request: Some(prototool::HttpRequest {
                method: "GET".to_owned(),
                url_path: path.to_owned(),
                ..prototool::HttpRequest::default()
            }),
            extra: Some(Any {
                type_url: format!("type.googleapis.com/{EXTRA}"),
                value: extra.encode_to_vec(),
            }),
            ..http_request::Header::default()
        }
    }

    #[test]
    fn what_is_no_request_of_a_module_is_refused_with_the_reason() {
        let other = Any {
            type_url: "type.googleapis.com/gitlab.agent.kubernetes_api.rpc.HeaderExtra".to_owned(),
            value: Vec::new(),
        };
        let with = |change: fn(&mut http_request::Header)| {
            let mut header = header("m", "/a");
            change(&mut header);
            header
        };
        let mut upgrading = header("m", "/a");
        let request = upgrading.request.as_mut().unwrap();
        request
            .header
            .push(metadata::entry("Upgrade", ["websocket"]));
        let mut of_another = header("m", "/a");
        of_another.extra = Some(other);
        for (header, code, words) in [
            (header("", "/a"), Code::InvalidArgument, "a module's name"),
            (header("m", "/../a"), Code::InvalidArgument, "`..`"),
            (
                with(|it| it.extra = None),
                Code::InvalidArgument,
                "it names no module",
            ),
            (of_another, Code::InvalidArgument, "it names no module"),
            (
                with(|it| it.request = None),
                Code::InvalidArgument,
                "it is empty",
            ),
            (upgrading, Code::Unavailable, "upgrade is not supported"),
        ] {
            let refused = read(header).unwrap_err();
            assert_eq!(refused.code(), code, "{words}");
            assert!(refused.message().contains(words), "{refused:?}");
        }
        assert!(read(self::header("m", "/a")).is_ok());
    }

    #[test]
    fn an_answer_says_what_gitlab_said_but_of_its_connection() {
        let answer = Response::builder()
            .status(404)
            .header("content-type", "application/json")
            .header("connection", "close")
            .header("set-cookie", "a=b");
        let (head, ()) = answer.body(()).unwrap().into_parts();

        let http_response::Message::Header(message) = of_answer(&head) else {
            panic!("a header comes first")
        };

        let response = message.response.unwrap();
        assert_eq!(
            (response.status_code, response.status.as_str()),
            (404, "404 Not Found")
        );
        let names: Vec<_> = response.header.iter().map(|it| &it.key[..]).collect();
        assert_eq!(names, [b"Content-Type"]);
    }
}
