//! Each request has an id: in its answer, in the call to the agent, and nowhere else.

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::sync::mpsc;

use crate::{
    agent::Agent,
    proxy::{AGENT, Body, Proxy, empty, request},
};

const HEADER: &str = "x-request-id";

fn with_id(token: &str, id: &str) -> Request<Body> {
    let mut request = request("GET", "/api", token, empty());
    request.headers_mut().insert(HEADER, id.parse().unwrap());
    request
}

fn id(response: &Response<Incoming>) -> &str {
    response.headers()[HEADER].to_str().unwrap()
}

#[tokio::test]
async fn the_id_of_a_request_is_in_its_answer_and_in_the_call_to_the_agent() {
    let proxy = Proxy::start().await;
    let (seen, mut calls) = mpsc::channel(1);
    let _agent = Agent::connect(&proxy.registry, AGENT, 2, move |asked| {
        let seen = seen.clone();
        async move {
            let metadata = asked.metadata[HEADER].value.clone();
            let call = (metadata, asked.header("X-Request-Id"));
            seen.send(call).await.unwrap();
            asked.reply(200, &[], "").await;
        }
    })
    .await;
    let mut client = proxy.client().await;

    let made = client.get("/api").await;
    let (metadata, header) = calls.recv().await.unwrap();
    assert_eq!(id(&made).len(), 32);
    assert_eq!(metadata, [id(&made)]);
    assert!(header.is_empty(), "the cluster gets what was sent");

    let chosen = client.send(with_id("good", "my-id.1_")).await;
    let (metadata, header) = calls.recv().await.unwrap();
    assert_eq!(id(&chosen), "my-id.1_");
    assert_eq!(
        (metadata, header),
        (vec!["my-id.1_".to_owned()], vec!["my-id.1_".to_owned()])
    );

    let odd = client.send(with_id("good", "a b")).await;
    let (metadata, header) = calls.recv().await.unwrap();
    assert_eq!(metadata, [id(&odd)]);
    assert_eq!(header, ["a b"], "the cluster gets what was sent");
    assert_eq!(id(&odd).len(), 32);
}

#[tokio::test]
async fn refusals_and_preflights_have_an_id_too() {
    let proxy = Proxy::start().await;
    let mut client = proxy.client().await;

    let refused = client.send(with_id("bad", "mine")).await;
    assert_eq!((refused.status().as_u16(), id(&refused)), (401, "mine"));

    let preflight = client
        .send(request("OPTIONS", "/api", "good", empty()))
        .await;
    assert_eq!(preflight.status(), 200);
    assert_eq!(id(&preflight).len(), 32);
}
