//! Requests and answers arrive as they were sent.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use proto::{agent::kubernetes_api::rpc::HeaderExtra, metadata};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};
use user_gateway::{Origins, Settings};

use crate::{
    agent::{Agent, entry},
    proxy::{AGENT, Body, Proxy, collect, empty, failure, full, request, until},
};

fn pattern(length: usize) -> Bytes {
    (0..length)
        .map(|n| u8::try_from(n % 251).unwrap())
        .collect()
}

fn chunked(bytes: Bytes) -> Body {
    let frames = bytes
        .chunks(100_000)
        .map(|c| Ok(Frame::data(Bytes::copy_from_slice(c))));
    let frames: Vec<_> = frames.collect();
    BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames)))
}

#[tokio::test]
async fn a_get_arrives_as_it_was_sent() {
    let proxy = Proxy::start().await;
    let (seen, mut requests) = mpsc::channel(1);
    let _agent = Agent::connect(&proxy.registry, AGENT, 2, move |mut asked| {
        let seen = seen.clone();
        async move {
            assert_eq!(asked.body().await, b"");
            seen.send((asked.head.clone(), asked.header("Via")))
                .await
                .unwrap();
            let headers = [
                ("Content-Type", "text/plain"),
                ("Via", "2.0 agentk/1"),
                ("Connection", "close"),
                ("Access-Control-Allow-Origin", "*"),
            ];
            asked.reply(200, &headers, "hello").await;
        }
    })
    .await;
    let mut request = request(
        "GET",
        "/api/v1/a%20b?x=1&x=2&gitlab-agent-id=3",
        "good",
        empty(),
    );
    request
        .headers_mut()
        .insert("x-stream-protocol-version", "v4".parse().unwrap());

    let response = proxy.client().await.send(request).await;

    let (head, via) = requests.recv().await.unwrap();
    let asked = head.request.unwrap();
    assert_eq!(
        (asked.method.as_str(), asked.url_path.as_str()),
        ("GET", "/api/v1/a b")
    );
    assert_eq!(asked.query.len(), 1);
    assert_eq!(asked.query["x"].value, ["1", "2"]);
    let names = asked.header.iter().map(|it| it.key.clone());
    let mut names: Vec<_> = names.collect();
    names.sort();
    assert_eq!(names, ["Via", "X-Stream-Protocol-Version"]);
    assert_eq!(via, [format!("gRPC/1.0 kas/{}", env!("CARGO_PKG_VERSION"))]);
    assert_eq!((head.content_length, head.extra), (Some(0), None));
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/plain");
    assert!(
        !response
            .headers()
            .contains_key("access-control-allow-origin")
    );
    assert_eq!(response.headers().get_all("via").iter().count(), 2);
    assert_eq!(collect(response).await.unwrap(), "hello");
}

#[tokio::test]
async fn a_header_of_an_answer_may_have_any_bytes() {
    let proxy = Proxy::start().await;
    let _agent = Agent::connect(&proxy.registry, AGENT, 2, |mut asked| async move {
        asked.body().await;
        let nameless = metadata::entry(&b"\xff\xfe"[..], ["x"]);
        let headers = vec![
            entry("Content-Type", b"text/plain"),
            entry("Content-Disposition", b"attachment; filename=caf\xe9"),
            entry("Trace-Bin", b"\xff\x00"),
            nameless,
        ];
        asked.answer_raw(200, headers).await;
        asked.data("hello").await;
        asked.trailer().await;
        asked.end().await;
    })
    .await;

    let response = proxy.client().await.get("/api").await;

    let named = response.headers()["content-disposition"].as_bytes();
    assert_eq!(named, b"attachment; filename=caf\xe9");
    assert_eq!(response.headers()["content-type"], "text/plain");
    assert_eq!(collect(response).await.unwrap(), "hello");
}

#[tokio::test]
async fn the_prefix_may_be_missing() {
    let settings = Settings {
        url_path_prefix: "/k8s-proxy/".to_owned(),
        ..Settings::default()
    };
    let proxy = Proxy::with(settings).await;
    let _agent = Agent::connect(&proxy.registry, AGENT, 2, |mut asked| async move {
        asked.body().await;
        let path = asked.request().url_path.clone();
        asked.reply(200, &[], path).await;
    })
    .await;
    let mut client = proxy.client().await;

    for (path, expected) in [
        ("/api", "/api"),
        ("/k8s-proxy", "/"),
        ("/k8s-proxy/api", "/api"),
    ] {
        assert_eq!(collect(client.get(path).await).await.unwrap(), expected);
    }
}

#[tokio::test]
async fn a_path_outside_of_a_required_prefix_is_refused_before_its_caller_is_asked_about() {
    let settings = Settings {
        url_path_prefix: "/k8s-proxy/".to_owned(),
        prefix_required: true,
        ..Settings::default()
    };
    let proxy = Proxy::with(settings).await;
    let _agent = Agent::connect(&proxy.registry, AGENT, 2, |mut asked| async move {
        asked.body().await;
        let path = asked.request().url_path.clone();
        asked.reply(200, &[], path).await;
    })
    .await;
    let mut client = proxy.client().await;

    for (path, expected) in [("/k8s-proxy", "/"), ("/k8s-proxy/api", "/api")] {
        assert_eq!(collect(client.get(path).await).await.unwrap(), expected);
    }
    for path in ["/api", "/", "/graph", "/k8s-proxyx/api", "/K8s-proxy/api"] {
        let answer = client.send(request("GET", path, "bad", empty())).await;
        assert_eq!(answer.status(), 400, "{path}");
        assert!(!answer.headers().contains_key("gitlab-unauthorized"));
        let words = collect(answer).await.unwrap();
        let words = String::from_utf8_lossy(&words);
        let expected = "Bad request: URL does not start with expected prefix";
        assert!(words.contains(expected), "{words}");
    }
}

#[tokio::test]
async fn bodies_of_five_mebibytes_pass_both_ways_with_known_and_unknown_length() {
    let proxy = Proxy::start().await;
    let body = pattern(5 << 20);
    let _agent = Agent::connect(&proxy.registry, AGENT, 2, |mut asked| async move {
        let body = asked.body().await;
        let length = asked.head.content_length.unwrap();
        assert!(length == -1 || length == 5 << 20, "{length}");
        let announced = body.len().to_string();
        let headers = [("Content-Length", announced.as_str())];
        asked
            .reply(201, if length == -1 { &[] } else { &headers }, body)
            .await;
    })
    .await;
    let mut client = proxy.client().await;

    for body_of in [full as fn(Bytes) -> Body, chunked] {
        let response = client
            .send(request("POST", "/x", "good", body_of(body.clone())))
            .await;
        assert_eq!(response.status(), 201);
        assert!(collect(response).await.unwrap() == body);
    }
    proxy.quiet().await;
}

#[tokio::test]
async fn answers_without_a_body_have_none() {
    let proxy = Proxy::start().await;
    let _agent = Agent::connect(&proxy.registry, AGENT, 2, |mut asked| async move {
        asked.body().await;
        let status = if asked.request().method == "HEAD" {
            200
        } else {
            204
        };
        let headers: &[_] = if status == 200 {
            &[("Content-Length", "1234")]
        } else {
            &[]
        };
        asked.reply(status, headers, "").await;
    })
    .await;
    let mut client = proxy.client().await;

    let head = client.send(request("HEAD", "/x", "good", empty())).await;
    assert_eq!(head.headers()["content-length"], "1234");
    assert_eq!(collect(head).await.unwrap(), "");
    let delete = client.send(request("DELETE", "/x", "good", empty())).await;
    assert_eq!(delete.status(), StatusCode::NO_CONTENT);
    assert_eq!(collect(delete).await.unwrap(), "");
}

#[tokio::test]
async fn an_identity_travels_with_the_request() {
    let proxy = Proxy::start().await;
    let _agent = Agent::connect(&proxy.registry, AGENT, 2, |mut asked| async move {
        asked.body().await;
        let extra = asked.head.extra.clone().unwrap();
        assert_eq!(
            extra.type_url,
            "type.googleapis.com/gitlab.agent.kubernetes_api.rpc.HeaderExtra"
        );
        let config = HeaderExtra::decode(&extra.value[..])
            .unwrap()
            .imp_config
            .unwrap();
        asked.reply(200, &[], config.username).await;
    })
    .await;

    let response = proxy
        .client()
        .await
        .send(request("GET", "/x", "joe", empty()))
        .await;

    assert_eq!(collect(response).await.unwrap(), "joe");
}

#[tokio::test]
async fn thousands_of_requests_use_one_connection_of_the_agent() {
    let proxy = Proxy::start().await;
    let _agent = Agent::connect(&proxy.registry, AGENT, 3, |mut asked| async move {
        asked.body().await;
        asked
            .reply(200, &[("Content-Length", "4096")], vec![b'x'; 4096])
            .await;
    })
    .await;
    let mut client = proxy.client().await;

    for _ in 0..2000 {
        let response = client.get("/x").await;
        assert_eq!(response.status(), 200);
        assert_eq!(collect(response).await.unwrap().len(), 4096);
    }
}

#[tokio::test]
async fn thousands_of_clients_may_vanish_and_the_agents_connection_stays() {
    let proxy = Proxy::start().await;
    let cancelled = Arc::new(AtomicUsize::new(0));
    let count = cancelled.clone();
    let _agent = Agent::connect(&proxy.registry, AGENT, 3, move |mut asked| {
        let count = count.clone();
        async move {
            if asked.request().url_path == "/last" {
                return asked.reply(200, &[], "still here").await;
            }
            asked.answer(200, &[]).await;
            for _ in 0..64 {
                asked.data(vec![b'x'; 16 << 10]).await;
            }
            asked.over().await;
            count.fetch_add(1, Ordering::Relaxed);
        }
    })
    .await;

    for _ in 0..1500 {
        let mut client = proxy.client().await;
        let mut response = client.get("/stream").await;
        response.body_mut().frame().await.unwrap().unwrap();
        client.vanish();
        drop(response);
    }

    until(|| cancelled.load(Ordering::Relaxed) == 1500).await;
    let response = proxy.client().await.get("/last").await;
    assert_eq!(collect(response).await.unwrap(), "still here");
}

#[tokio::test]
async fn http2_is_served_on_the_same_port() {
    let proxy = Proxy::start().await;
    let _agent = Agent::connect(&proxy.registry, AGENT, 4, |mut asked| async move {
        let body = asked.body().await;
        assert!(asked.header("Host").is_empty());
        asked.reply(200, &[], body).await;
    })
    .await;
    let socket = TcpStream::connect(proxy.address).await.unwrap();
    let handshake =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket));
    let (mut client, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    let body = pattern(1 << 20);

    for _ in 0..3 {
        let mut request = request("POST", "/x", "good", full(body.clone()));
        *request.uri_mut() = "http://kas.example.com/x".parse().unwrap();
        request.headers_mut().remove("host");
        let response = client.send_request(request).await.unwrap();
        assert!(collect(response).await.unwrap() == body);
    }
}

#[tokio::test]
async fn browsers_of_the_allowed_origin_may_call_and_others_may_not() {
    let settings = Settings {
        origins: Origins::These(vec!["https://gitlab".into()]),
        ..Settings::default()
    };
    let proxy = Proxy::with(settings).await;
    let mut client = proxy.client().await;
    let from = |origin: &str, method| {
        let mut request = request(method, "/x", "bad", empty());
        request
            .headers_mut()
            .insert("origin", origin.parse().unwrap());
        request
    };

    let preflight = client.send(from("https://gitlab", "OPTIONS")).await;
    assert_eq!(preflight.status(), 200);
    assert_eq!(
        preflight.headers()["access-control-allow-origin"],
        "https://gitlab"
    );
    assert_eq!(collect(preflight).await.unwrap(), "");
    let refused = client.send(from("https://gitlab", "GET")).await;
    assert_eq!(refused.status(), 401);
    assert_eq!(refused.headers()["vary"], "Origin");
    collect(refused).await.unwrap();
    let foreign = client.send(from("https://evil", "GET")).await;
    assert_eq!(foreign.status(), 401);
    assert!(
        !foreign
            .headers()
            .contains_key("access-control-allow-origin")
    );
    collect(foreign).await.unwrap();
    let mut page = from("https://evil", "OPTIONS");
    page.headers_mut().remove("authorization");
    let (code, message) = failure(client.send(page).await).await;
    assert_eq!(code, 403);
    assert!(message.contains("allowed_origins"), "{message}");
}

#[tokio::test]
async fn a_body_that_waits_for_100_continue_is_asked_for() {
    let proxy = Proxy::start().await;
    let _agent = Agent::connect(&proxy.registry, AGENT, 2, |mut asked| async move {
        let body = asked.body().await;
        asked.reply(200, &[("Content-Length", "5")], body).await;
    })
    .await;
    let mut socket = TcpStream::connect(proxy.address).await.unwrap();
    let head = format!(
        "PUT /x HTTP/1.1\r\nHost: kas\r\nAuthorization: Bearer pat:{AGENT}:good\r\n\
         Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    );

    socket.write_all(head.as_bytes()).await.unwrap();
    let mut go_on = [0; 25];
    socket.read_exact(&mut go_on).await.unwrap();
    socket.write_all(b"hello").await.unwrap();

    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    let mut answer = Vec::new();
    while !answer.ends_with(b"hello") {
        answer.push(socket.read_u8().await.unwrap());
    }
    assert!(answer.starts_with(b"HTTP/1.1 200"));
}
