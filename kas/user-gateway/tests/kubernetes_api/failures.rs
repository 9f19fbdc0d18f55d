//! Every failure has its status and its reason, and disturbs nobody else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{Method, StatusCode};
use proto::agent::reverse_tunnel::rpc::{Header, Message, connect_request::Msg};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use user_gateway::Settings;

use crate::{
    agent::Agent,
    proxy::{AGENT, LONG, Proxy, collect, empty, failure, full, request},
};

#[tokio::test]
async fn refusals_say_why() {
    let proxy = Proxy::start().await;
    let mut client = proxy.client().await;
    let table = [
        ("", 401, "Unauthorized: Authorization header: empty token"),
        ("bad", 401, "Unauthorized: the token is not known"),
        ("stranger", 403, "user:stranger may not use agent agent-7"),
        ("lost", 404, "there is no agent with id 7"),
        ("late", 503, "asleep"),
    ];

    for (token, code, text) in table {
        let response = client.send(request("GET", "/x", token, empty())).await;
        let ours = response.headers().contains_key("gitlab-unauthorized");
        let server = response.headers()["server"].clone();
        let (status, message) = failure(response).await;
        assert_eq!(status, code);
        assert_eq!(ours, code == 401);
        assert!(server.to_str().unwrap().starts_with("kas/"));
        assert!(
            message.starts_with("GitLab Agent Server: ") && message.contains(text),
            "{message}"
        );
    }
}

#[tokio::test]
async fn an_agent_that_is_not_there_is_unavailable_for_now() {
    // A young replica holds requests, so the hold decides.
    let settings = Settings {
        hold: Duration::from_millis(50),
        ..Settings::default()
    };
    let proxy = Proxy::with(settings).await;

    let response = proxy.client().await.get("/x").await;

    assert!(response.headers().contains_key("retry-after"));
    let (code, message) = failure(response).await;
    assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
    assert!(message.contains("never connected"), "{message}");
}

#[tokio::test]
async fn the_callers_own_timeout_shortens_the_hold() {
    let proxy = Proxy::start().await;

    let response = tokio::time::timeout(LONG / 2, async {
        proxy.client().await.get("/x?timeout=20ms").await
    });

    assert_eq!(
        response.await.unwrap().status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
}

#[tokio::test]
async fn an_agent_too_old_to_impersonate_is_not_asked_to() {
    let proxy = Proxy::start().await;
    let _agent = Agent::connect_old(&proxy.registry, AGENT).await;

    let response = proxy
        .client()
        .await
        .send(request("GET", "/x", "joe", empty()))
        .await;

    let (code, message) = failure(response).await;
    assert_eq!(code, StatusCode::FORBIDDEN);
    assert!(
        message.contains("does not support impersonation"),
        "{message}"
    );
}

#[tokio::test]
async fn errors_of_the_agent_are_passed_on() {
    let proxy = Proxy::start().await;
    let _agent = Agent::connect(&proxy.registry, AGENT, 2, |mut asked| async move {
        let nested = asked.request().url_path == "/nested";
        asked.say(Msg::Header(Header::default())).await;
        let text = if nested {
            "gRPC -> HTTP: nested impersonation is not supported"
        } else {
            "gRPC -> HTTP: connection refused"
        };
        asked.fail(tonic::Code::Unavailable, text).await;
    })
    .await;
    let mut client = proxy.client().await;

    let (code, message) = failure(client.get("/x").await).await;
    assert_eq!(code, StatusCode::BAD_GATEWAY);
    assert!(
        message.contains("code = Unavailable desc = gRPC -> HTTP: connection refused"),
        "{message}"
    );
    let (code, _) = failure(client.get("/nested").await).await;
    assert_eq!(code, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_broken_get_is_made_again_and_a_broken_post_is_not() {
    let proxy = Proxy::start().await;
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let _agent = Agent::connect(&proxy.registry, AGENT, 4, move |mut asked| {
        let turn = count.fetch_add(1, Ordering::Relaxed);
        async move {
            asked.body().await;
            if turn < 2 || asked.request().method == "POST" {
                return asked.reset();
            }
            asked.reply(200, &[], "at last").await;
        }
    })
    .await;
    let mut client = proxy.client().await;

    let response = client.get("/x").await;
    assert_eq!(response.status(), 200);
    assert_eq!(collect(response).await.unwrap(), "at last");
    assert_eq!(calls.load(Ordering::Relaxed), 3);
    let response = client
        .send(request("POST", "/x", "good", full("data")))
        .await;
    let (code, message) = failure(response).await;
    assert_eq!(code, StatusCode::BAD_GATEWAY);
    assert!(message.contains("the outcome is unknown"), "{message}");
    assert_eq!(calls.load(Ordering::Relaxed), 4);
}

#[tokio::test]
async fn a_stream_that_ends_in_order_before_the_answer_is_a_broken_one() {
    let proxy = Proxy::start().await;
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let _agent = Agent::connect(&proxy.registry, AGENT, 4, move |mut asked| {
        let turn = count.fetch_add(1, Ordering::Relaxed);
        async move {
            asked.body().await;
            match (turn, &*asked.request().method) {
                (0, _) | (_, "POST") => asked.end_early(),
                (1, _) => {
                    asked.say(Msg::Header(Header::default())).await;
                    asked.end_early();
                }
                _ => asked.reply(200, &[], "at last").await,
            }
        }
    })
    .await;
    let mut client = proxy.client().await;

    let response = client.get("/x").await;
    assert_eq!(response.status(), 200);
    assert_eq!(collect(response).await.unwrap(), "at last");
    let response = client
        .send(request("POST", "/x", "good", full("data")))
        .await;
    let (code, message) = failure(response).await;
    assert_eq!(code, StatusCode::BAD_GATEWAY);
    assert!(message.contains("the outcome is unknown"), "{message}");
    assert_eq!(calls.load(Ordering::Relaxed), 4);
}

#[tokio::test]
async fn a_call_on_a_tunnel_that_the_agent_gives_back_is_made_again_whatever_it_does() {
    let proxy = Proxy::start().await;
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let _agent = Agent::connect(&proxy.registry, AGENT, 4, move |mut asked| {
        let turn = count.fetch_add(1, Ordering::Relaxed);
        async move {
            asked.body().await;
            if turn == 0 {
                return asked.give_back();
            }
            asked.reply(200, &[], "gone").await;
        }
    })
    .await;

    let asked = request("DELETE", "/x", "good", empty());
    let response = proxy.client().await.send(asked).await;

    assert_eq!(response.status(), 200);
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_get_that_always_breaks_is_given_up() {
    let proxy = Proxy::start().await;
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let _agent = Agent::connect(&proxy.registry, AGENT, 4, move |asked| {
        count.fetch_add(1, Ordering::Relaxed);
        async move { asked.reset() }
    })
    .await;

    let (code, _) = failure(proxy.client().await.get("/x").await).await;

    assert_eq!(code, StatusCode::BAD_GATEWAY);
    assert_eq!(calls.load(Ordering::Relaxed), 6);
}

#[tokio::test]
async fn an_agent_that_breaks_the_protocol_is_not_asked_again() {
    let proxy = Proxy::start().await;
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let _agent = Agent::connect(&proxy.registry, AGENT, 4, move |mut asked| {
        count.fetch_add(1, Ordering::Relaxed);
        async move {
            match asked.request().url_path.as_str() {
                // Data ahead of the header.
                "/order" => {
                    asked.say(Msg::Header(Header::default())).await;
                    asked.data("too early").await;
                }
                // A message ahead of the call's header.
                "/call" => asked.say(Msg::Message(Message::default())).await,
                // An answer without content.
                "/empty" => {
                    asked.say(Msg::Header(Header::default())).await;
                    asked.say(Msg::Message(Message::default())).await;
                }
                _ => asked.answer(77, &[]).await,
            }
            asked.over().await;
        }
    })
    .await;
    let mut client = proxy.client().await;

    for path in ["/order", "/call", "/empty", "/status"] {
        let (code, message) = failure(client.get(path).await).await;
        assert_eq!(code, StatusCode::BAD_GATEWAY, "{path}: {message}");
    }
    assert_eq!(calls.load(Ordering::Relaxed), 4);
}

#[tokio::test]
async fn an_answer_that_is_cut_short_does_not_look_whole() {
    let proxy = Proxy::start().await;
    let _agent = Agent::connect(&proxy.registry, AGENT, 4, |mut asked| async move {
        let length = asked.request().url_path == "/length";
        let headers: &[_] = if length {
            &[("Content-Length", "1000000")]
        } else {
            &[]
        };
        asked.answer(200, headers).await;
        asked.data(vec![b'x'; 100_000]).await;
        asked
            .fail(tonic::Code::Unavailable, "the cluster is gone")
            .await;
    })
    .await;

    for path in ["/length", "/chunked"] {
        // With all of it here already, a clean error is possible too.
        let Ok(response) = proxy
            .client()
            .await
            .try_send(request("GET", path, "good", empty()))
            .await
        else {
            continue;
        };
        if response.status() == 200 {
            collect(response).await.unwrap_err();
        } else {
            assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
        }
    }
}

#[tokio::test]
async fn too_many_requests_and_too_long_heads_are_refused_clearly() {
    let settings = Settings {
        max_in_flight: 0,
        ..Settings::default()
    };
    let (code, _) = failure(Proxy::with(settings).await.client().await.get("/x").await).await;
    assert_eq!(code, StatusCode::TOO_MANY_REQUESTS);

    let proxy = Proxy::start().await;
    let mut request = request("GET", "/x", "good", empty());
    request
        .headers_mut()
        .insert("x-long", "x".repeat((1 << 20) + (6 << 10)).parse().unwrap());
    let (code, message) = failure(proxy.client().await.send(request).await).await;
    assert_eq!(code, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    assert!(message.contains("bytes"), "{message}");
}

#[tokio::test]
async fn a_path_that_cannot_be_decoded_is_a_bad_request() {
    let proxy = Proxy::start().await;

    let (code, _) = failure(proxy.client().await.get("/api/%zz").await).await;

    assert_eq!(code, StatusCode::BAD_REQUEST);
    let connect = http::Request::builder()
        .method(Method::CONNECT)
        .uri("host:80")
        .body(empty());
    let response = proxy.client().await.send(connect.unwrap()).await;
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn a_client_that_says_nothing_is_left() {
    let settings = Settings {
        first_request: Duration::from_millis(50),
        ..Settings::default()
    };
    let proxy = Proxy::with(settings).await;
    let mut silent = TcpStream::connect(proxy.address).await.unwrap();
    let mut slow = TcpStream::connect(proxy.address).await.unwrap();
    slow.write_all(b"P").await.unwrap();

    let mut rest = Vec::new();
    let left = async {
        let _ = silent.read_to_end(&mut rest).await;
        let _ = slow.read_to_end(&mut rest).await;
    };

    tokio::time::timeout(LONG, left).await.unwrap();
}

#[tokio::test]
async fn a_client_that_stalls_in_mid_body_is_told_and_left() {
    let settings = Settings {
        body_pause: Duration::from_millis(50),
        ..Settings::default()
    };
    let proxy = Proxy::with(settings).await;
    let _agent = Agent::connect(&proxy.registry, AGENT, 2, |mut asked| async move {
        asked.over().await;
    })
    .await;
    let mut socket = TcpStream::connect(proxy.address).await.unwrap();
    let head = format!(
        "POST /x HTTP/1.1\r\nHost: kas\r\nAuthorization: Bearer pat:{AGENT}:good\r\n\
         Content-Length: 100\r\n\r\nonly this"
    );

    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(LONG, socket.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();

    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("did not go on"), "{answer}");
    proxy.quiet().await;
}

#[tokio::test]
async fn a_get_survives_the_end_of_the_agents_connection() {
    let proxy = Proxy::start().await;
    let (begins, mut begun) = tokio::sync::mpsc::channel(1);
    let first = Agent::connect(&proxy.registry, AGENT, 2, move |mut asked| {
        let begins = begins.clone();
        async move {
            begins.send(()).await.unwrap();
            asked.over().await;
        }
    })
    .await;
    let mut client = proxy.client().await;
    let answer = tokio::spawn(async move { client.get("/x").await });
    begun.recv().await.unwrap();

    first.cut();
    let _second = Agent::connect(&proxy.registry, AGENT, 2, |mut asked| async move {
        asked.body().await;
        asked.reply(200, &[], "from the other side").await;
    })
    .await;

    let response = answer.await.unwrap();
    assert_eq!(collect(response).await.unwrap(), "from the other side");
}

/// Answers each GET in a way that breaks off twice, once by the tunnel and once by the agent, and then holds.
async fn breaking(length: &'static str) -> (Proxy, Agent, Arc<AtomicUsize>) {
    let proxy = Proxy::start().await;
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let agent = Agent::connect(&proxy.registry, AGENT, 4, move |mut asked| {
        let turn = count.fetch_add(1, Ordering::Relaxed);
        async move {
            asked.body().await;
            asked.answer(200, &[("Content-Length", length)]).await;
            asked.data("at ").await;
            match turn {
                0 => asked.reset(),
                1 => {
                    let lost = "gRPC -> HTTP: connection reset by peer";
                    asked.fail(tonic::Code::Unavailable, lost).await;
                }
                _ => {
                    asked.data("last").await;
                    asked.trailer().await;
                    asked.end().await;
                }
            }
        }
    });
    let agent = agent.await;
    (proxy, agent, calls)
}

#[tokio::test]
async fn a_short_answer_that_breaks_off_in_its_body_is_asked_for_again() {
    let (proxy, _agent, calls) = breaking("7").await;

    let answer = proxy.client().await.get("/x").await;

    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(collect(answer).await.unwrap(), "at last");
    assert_eq!(calls.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn an_answer_to_a_post_that_breaks_off_is_not_asked_for_again() {
    let (proxy, _agent, calls) = breaking("7").await;

    let posted = request("POST", "/x", "good", full("what"));
    let answer = proxy.client().await.try_send(posted).await;

    let whole = match answer {
        Ok(answer) => answer.status() == StatusCode::OK && collect(answer).await.is_ok(),
        Err(_) => false,
    };
    assert!(!whole);
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn the_head_of_a_long_answer_waits_for_nothing() {
    let proxy = Proxy::start().await;
    let (go_on, may) = tokio::sync::mpsc::channel::<()>(1);
    let may = Arc::new(tokio::sync::Mutex::new(may));
    let _agent = Agent::connect(&proxy.registry, AGENT, 2, move |mut asked| {
        let may = may.clone();
        async move {
            asked.body().await;
            let headers: &[_] = match asked.request().url_path.as_str() {
                "/long" => &[("Content-Length", "100000")],
                _ => &[],
            };
            asked.answer(200, headers).await;
            may.lock().await.recv().await;
            asked.data(vec![b'x'; 60_000]).await;
            asked.data(vec![b'x'; 40_000]).await;
            asked.trailer().await;
            asked.end().await;
        }
    })
    .await;

    // The second has no length, and may be a stream.
    for path in ["/long", "/stream"] {
        let answer = proxy.client().await.get(path).await;
        go_on.send(()).await.unwrap();
        assert_eq!(collect(answer).await.unwrap().len(), 100_000, "{path}");
    }
}
