//! Requests that change something, whose calls break.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use http::StatusCode;
use http_body_util::BodyExt as _;
use tokio::sync::Notify;

use crate::{
    agent::{Agent, Asked},
    proxy::{AGENT, Proxy, collect, empty, failure, full, request},
};

/// The name of a request.
fn id(asked: &Asked) -> Bytes {
    asked.head.keep.clone().unwrap().id
}

fn asks_for_an_answer(asked: &Asked) -> bool {
    asked.head.request.is_none()
}

#[tokio::test]
async fn the_answer_to_a_call_that_broke_is_asked_for_and_nothing_is_made_twice() {
    let proxy = Proxy::start().await;
    let made = Arc::new(Mutex::new(Vec::new()));
    let asking = made.clone();
    let _agent = Agent::connect_keeping(&proxy.registry, AGENT, move |mut asked| {
        let made = asking.clone();
        async move {
            if !asks_for_an_answer(&asked) {
                assert_eq!(asked.body().await, b"data");
                made.lock().unwrap().push(id(&asked));
                return asked.reset();
            }
            assert!(made.lock().unwrap().contains(&id(&asked)));
            assert_eq!(asked.head.keep.as_ref().unwrap().received, 0);
            asked.reply(201, &[("Content-Length", "4")], "made").await;
        }
    })
    .await;
    let mut client = proxy.client().await;

    for method in ["POST", "PATCH", "PUT", "DELETE"] {
        let answer = client
            .send(request(method, "/x", "good", full("data")))
            .await;
        assert_eq!(answer.status(), 201, "{method}");
        assert_eq!(collect(answer).await.unwrap(), "made");
    }

    let made = made.lock().unwrap();
    assert_eq!(made.len(), 4);
    assert!(made.iter().all(|it| it.len() == 16));
    assert!((1..4).all(|number| made[number] != made[number - 1]));
}

#[tokio::test]
async fn a_request_that_never_came_is_made_again_by_another_name() {
    let proxy = Proxy::start().await;
    let names = Arc::new(Mutex::new(Vec::new()));
    let asking = names.clone();
    let _agent = Agent::connect_keeping(&proxy.registry, AGENT, move |mut asked| {
        let names = asking.clone();
        async move {
            if asks_for_an_answer(&asked) {
                return asked.has_not_taken_it().await;
            }
            let first = {
                let mut names = names.lock().unwrap();
                names.push(id(&asked));
                names.len() == 1
            };
            if first {
                return asked.reset();
            }
            assert_eq!(asked.body().await, b"data");
            asked.reply(201, &[], "made").await;
        }
    })
    .await;
    let mut client = proxy.client().await;

    let answer = client
        .send(request("POST", "/x", "good", full("data")))
        .await;

    assert_eq!(answer.status(), 201);
    let names = names.lock().unwrap();
    assert_eq!(names.len(), 2);
    assert_ne!(names[0], names[1]);
}

#[tokio::test]
async fn whose_access_was_revoked_gets_no_answer() {
    let proxy = Proxy::start().await;
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let _agent = Agent::connect_keeping(&proxy.registry, AGENT, move |mut asked| {
        count.fetch_add(1, Ordering::Relaxed);
        async move {
            asked.body().await;
            asked.reset();
        }
    })
    .await;
    let mut client = proxy.client().await;

    let answer = client
        .send(request("POST", "/x", "once", full("data")))
        .await;

    let (code, _) = failure(answer).await;
    assert_eq!(code, StatusCode::UNAUTHORIZED);
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn what_the_agent_does_not_know_is_an_unknown_outcome() {
    let proxy = Proxy::start().await;
    let _agent = Agent::connect_keeping(&proxy.registry, AGENT, |mut asked| async move {
        if asks_for_an_answer(&asked) {
            asked.begin().await;
            return asked.fail(tonic::Code::NotFound, "no such answer").await;
        }
        asked.body().await;
        asked.reset();
    })
    .await;
    let mut client = proxy.client().await;

    let answer = client.send(request("DELETE", "/x", "good", empty())).await;

    let (code, message) = failure(answer).await;
    assert_eq!(code, StatusCode::BAD_GATEWAY);
    assert!(message.contains("the outcome is unknown"), "{message}");
}

#[tokio::test]
async fn an_answer_goes_on_behind_what_its_client_has() {
    let proxy = Proxy::start().await;
    let come = Arc::new(Notify::new());
    let passed_on = come.clone();
    let _agent = Agent::connect_keeping(&proxy.registry, AGENT, move |mut asked| {
        let passed_on = passed_on.clone();
        async move {
            if asks_for_an_answer(&asked) {
                assert_eq!(asked.head.keep.as_ref().unwrap().received, 4);
                return asked.reply(200, &[], "two").await;
            }
            asked.body().await;
            asked.answer(200, &[]).await;
            asked.data("one ").await;
            passed_on.notified().await;
            asked.reset();
        }
    })
    .await;
    let mut client = proxy.client().await;

    let answer = client
        .send(request("POST", "/x", "good", full("data")))
        .await;

    assert_eq!(answer.status(), 200);
    let mut body = answer.into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first, "one ");
    come.notify_one();
    assert_eq!(body.collect().await.unwrap().to_bytes(), "two");
}
