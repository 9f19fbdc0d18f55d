//! Answers that go on for long, in either direction.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use proto::agent::grpctool::http_request;
use tokio::sync::mpsc;
use user_gateway::Settings;

use crate::{
    agent::{Agent, Next},
    proxy::{AGENT, Proxy, collect, request, until},
};

/// A body that a test feeds bit by bit.
fn fed() -> (mpsc::Sender<Bytes>, crate::proxy::Body) {
    let (feed, frames) = mpsc::channel::<Bytes>(1);
    let stream = futures_util::stream::unfold(frames, |mut frames| async move {
        let data = frames.recv().await?;
        Some((Ok(Frame::data(data)), frames))
    });
    (
        feed,
        BodyExt::boxed(Sync(StreamBody::new(Box::pin(stream)))),
    )
}

/// Streams are polled by one task at a time.
struct Sync<T>(T);

impl<T: http_body::Body + Unpin> http_body::Body for Sync<T> {
    type Data = T::Data;
    type Error = T::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<T::Data>, T::Error>>> {
        std::pin::Pin::new(&mut self.0).poll_frame(cx)
    }
}

#[tokio::test]
async fn each_event_of_a_watch_arrives_at_once() {
    let proxy = Proxy::start().await;
    let (events, source) = mpsc::channel::<Bytes>(1);
    let source = Arc::new(tokio::sync::Mutex::new(source));
    let _agent = Agent::connect(&proxy.registry, AGENT, 2, move |mut asked| {
        let source = source.clone();
        async move {
            asked.body().await;
            asked.answer(200, &[]).await;
            while let Some(event) = source.lock().await.recv().await {
                asked.data(event).await;
            }
            asked.trailer().await;
            asked.end().await;
        }
    })
    .await;

    let mut response = proxy.client().await.get("/pods?watch=true").await;

    for n in 0..5 {
        let event = Bytes::from(format!("event {n}\n"));
        events.send(event.clone()).await.unwrap();
        let frame = response.body_mut().frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), event);
    }
    drop(events);
    assert!(response.body_mut().frame().await.is_none());
}

#[tokio::test]
async fn an_answer_may_come_while_the_body_is_still_sent() {
    let proxy = Proxy::start().await;
    let _agent = Agent::connect(&proxy.registry, AGENT, 2, |mut asked| async move {
        asked.answer(200, &[]).await;
        loop {
            match asked.next().await {
                Next::Http(http_request::Message::Data(data)) => asked.data(data.data).await,
                Next::CloseSend => break,
                _ => {}
            }
        }
        asked.trailer().await;
        asked.end().await;
    })
    .await;
    let (feed, body) = fed();

    let mut response = proxy
        .client()
        .await
        .send(request("POST", "/echo", "good", body))
        .await;

    for n in 0..5 {
        let data = Bytes::from(format!("line {n}\n"));
        feed.send(data.clone()).await.unwrap();
        let frame = response.body_mut().frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), data);
    }
    drop(feed);
    assert!(response.body_mut().frame().await.is_none());
    proxy.quiet().await;
}

#[tokio::test]
async fn an_early_refusal_of_an_upload_reaches_the_client() {
    let proxy = Proxy::start().await;
    let _agent = Agent::connect(&proxy.registry, AGENT, 2, |mut asked| async move {
        asked.answer(413, &[("Content-Length", "3")]).await;
        asked.data("no!").await;
        asked.trailer().await;
        asked.over().await;
    })
    .await;
    let (_feed, body) = fed();

    let response = proxy
        .client()
        .await
        .send(request("POST", "/x", "good", body))
        .await;

    assert_eq!(response.status(), 413);
    assert_eq!(collect(response).await.unwrap(), "no!");
    proxy.quiet().await;
}

#[tokio::test]
async fn a_client_that_leaves_in_mid_body_cancels_the_call() {
    let proxy = Proxy::start().await;
    let (ends, mut ended) = mpsc::channel(1);
    let (begins, mut begun) = mpsc::channel(1);
    let _agent = Agent::connect(&proxy.registry, AGENT, 2, move |mut asked| {
        let (begins, ends) = (begins.clone(), ends.clone());
        async move {
            begins.send(()).await.unwrap();
            if asked.request().url_path == "/answered" {
                asked.answer(200, &[]).await;
                asked.data("begun").await;
            }
            ends.send(asked.over().await).await.unwrap();
        }
    })
    .await;

    let mut client = proxy.client().await;
    let mut response = client.get("/answered").await;
    response.body_mut().frame().await.unwrap().unwrap();
    begun.recv().await.unwrap();
    client.vanish();
    assert_eq!(
        ended.recv().await.unwrap(),
        Next::End(tonic::Code::Cancelled)
    );

    let mut client = proxy.client().await;
    tokio::select! {
        _ = client.get("/unanswered") => panic!("there is no answer"),
        asked = begun.recv() => asked.unwrap(),
    }
    client.vanish();
    assert_eq!(
        ended.recv().await.unwrap(),
        Next::End(tonic::Code::Cancelled)
    );
    proxy.quiet().await;
}

#[tokio::test]
async fn a_slow_reader_slows_the_agent() {
    const CHUNK: usize = 32 << 10;
    const CHUNKS: usize = 2048;
    let proxy = Proxy::start().await;
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    let _agent = Agent::connect(&proxy.registry, AGENT, 2, move |mut asked| {
        let count = count.clone();
        async move {
            asked.body().await;
            asked.answer(200, &[]).await;
            for _ in 0..CHUNKS {
                asked.data(vec![b'x'; CHUNK]).await;
                count.fetch_add(CHUNK, Ordering::Relaxed);
            }
            asked.trailer().await;
            asked.end().await;
        }
    })
    .await;

    let response = proxy.client().await.get("/big").await;

    let mut before = usize::MAX;
    while before != sent.load(Ordering::Relaxed) {
        before = sent.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(
        before < CHUNK * CHUNKS / 2,
        "{before} bytes were taken from the agent"
    );
    assert_eq!(collect(response).await.unwrap().len(), CHUNK * CHUNKS);
}

#[tokio::test]
async fn a_slow_agent_slows_the_client() {
    let proxy = Proxy::start().await;
    let (go, may_read) = tokio::sync::watch::channel(false);
    let _agent = Agent::connect(&proxy.registry, AGENT, 2, move |mut asked| {
        let mut may_read = may_read.clone();
        async move {
            may_read.wait_for(|go| *go).await.unwrap();
            let length = asked.body().await.len();
            asked.reply(200, &[], length.to_string()).await;
        }
    })
    .await;
    let sent = Arc::new(AtomicUsize::new(0));
    let (feed, body) = fed();
    let count = sent.clone();
    let feeder = tokio::spawn(async move {
        for _ in 0..1024 {
            feed.send(vec![b'x'; 64 << 10].into()).await.unwrap();
            count.fetch_add(64 << 10, Ordering::Relaxed);
        }
    });
    let mut client = proxy.client().await;
    let answer =
        tokio::spawn(async move { client.send(request("PUT", "/big", "good", body)).await });

    let mut before = usize::MAX;
    while before != sent.load(Ordering::Relaxed) {
        before = sent.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(
        before < 32 << 20,
        "{before} bytes were taken from the client"
    );
    go.send(true).unwrap();

    let response = answer.await.unwrap();
    assert_eq!(collect(response).await.unwrap(), (64 << 20).to_string());
    feeder.await.unwrap();
}

#[tokio::test]
async fn silence_in_mid_answer_has_a_limit() {
    let settings = Settings {
        idle: Duration::from_millis(100),
        ..Settings::default()
    };
    let proxy = Proxy::with(settings).await;
    let _agent = Agent::connect(&proxy.registry, AGENT, 2, |mut asked| async move {
        asked.body().await;
        asked.answer(200, &[]).await;
        asked.data("begun").await;
        asked.over().await;
    })
    .await;

    let response = proxy.client().await.get("/logs?follow=true").await;

    collect(response).await.unwrap_err();
    proxy.quiet().await;
}

#[tokio::test]
async fn a_drain_waits_for_answers_and_then_closes() {
    let proxy = Proxy::start().await;
    let (go, may_end) = tokio::sync::watch::channel(false);
    let _agent = Agent::connect(&proxy.registry, AGENT, 2, move |mut asked| {
        let mut may_end = may_end.clone();
        async move {
            asked.body().await;
            asked.answer(200, &[]).await;
            asked.data("begun, ").await;
            may_end.wait_for(|go| *go).await.unwrap();
            asked.data("ended").await;
            asked.trailer().await;
            asked.end().await;
        }
    })
    .await;
    let response = proxy.client().await.get("/x").await;

    proxy.drain.start();
    assert!(!proxy.drain.finished(Duration::from_millis(50)).await);
    go.send(true).unwrap();

    assert_eq!(collect(response).await.unwrap(), "begun, ended");
    assert!(proxy.drain.finished(Duration::from_secs(30)).await);
    until(|| proxy.metrics.in_flight() == 0).await;
}
