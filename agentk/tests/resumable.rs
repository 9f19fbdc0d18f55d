//! Upgraded connections that kas attaches calls to, one after the other.

#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    missing_debug_implementations,
    reason = "tests"
)]

mod double;

use double::{
    World,
    kas::{self, Call, http, info, request},
    world,
};
use prost::Message as _;
use proto::{
    agent::{
        grpctool::{HttpResponse, ResumeAnswer, ResumeOffer, Segment, http_request, http_response},
        kubernetes_api::rpc::{HeaderExtra, ImpersonationConfig},
        reverse_tunnel::rpc::{CloseSend, connect_request, connect_response::Msg},
    },
    metadata,
};
use tonic::Code;

const ID: [u8; 16] = [7; 16];

fn offer(attachment: u64, received: u64) -> http_request::Header {
    let mut header = request("POST", "/exec");
    for (name, value) in [("Upgrade", "SPDY/3.1"), ("Connection", "Upgrade")] {
        let entry = metadata::entry(name.to_owned(), [value.to_owned()]);
        header.request.as_mut().unwrap().header.push(entry);
    }
    header.resume = Some(ResumeOffer {
        id: ID.to_vec().into(),
        attachment,
        received,
        keep_seconds: 60,
    });
    header
}

fn segment(offset: u64, data: &'static str) -> Msg {
    http(http_request::Message::Segment(Segment {
        offset,
        data: data.into(),
        ..Segment::default()
    }))
}

/// What the agent answers to a call.
#[derive(Debug, PartialEq)]
enum Said {
    Head(i32, Option<ResumeAnswer>),
    Segment(Segment),
    Failed(Code),
    End,
}

async fn said(call: &mut Call) -> Said {
    loop {
        let message = match call.next().await {
            Some(connect_request::Msg::Message(message)) => message,
            Some(connect_request::Msg::Error(error)) => {
                return Said::Failed(error.status.unwrap().code.into());
            }
            Some(_) => continue,
            None => return Said::End,
        };
        match HttpResponse::decode(message.data).unwrap().message.unwrap() {
            http_response::Message::Header(header) => {
                return Said::Head(header.response.unwrap().status_code, header.resume);
            }
            http_response::Message::Segment(segment) => return Said::Segment(segment),
            http_response::Message::Trailer(_) => {}
            other => panic!("unexpected {other:?}"),
        }
    }
}

/// Reads segments until these bytes have come, from a position on.
async fn echoes(call: &mut Call, from: u64, text: &str) {
    let mut come = Vec::new();
    while come.len() < text.len() {
        match said(call).await {
            Said::Segment(segment) => {
                assert!(segment.data.is_empty() || segment.offset == from + come.len() as u64);
                come.extend(segment.data);
            }
            other => panic!("unexpected {other:?}"),
        }
    }
    assert_eq!(come, text.as_bytes());
}

/// A call to this method that begins with this header.
async fn call(world: &World, method: &str, header: http_request::Header) -> Call {
    let mut call = world.kas.tunnel().await.take();
    call.send(vec![
        info(method),
        http(http_request::Message::Header(header)),
        http(http_request::Message::Trailer(http_request::Trailer {})),
    ]);
    call
}

async fn opened(world: &World, header: http_request::Header) -> (Call, String) {
    let mut opened = call(world, kas::METHOD, header).await;
    let Said::Head(101, Some(answer)) = said(&mut opened).await else {
        panic!("it is not taken");
    };
    assert_eq!(answer.received, 0);
    assert!(answer.method.starts_with("/kas.kubernetes_api.rpc.Resume/"));
    (opened, answer.method)
}

#[tokio::test]
async fn a_connection_goes_on_where_it_was_with_the_newest_call() {
    let world = world().await;
    let (mut first, method) = opened(&world, offer(1, 0)).await;
    first.send(vec![segment(0, "one ")]);
    echoes(&mut first, 0, "one ").await;

    // The tunnel breaks; that what came has come is not known to the agent.
    first.send.send_reset(h2::Reason::CANCEL);
    let mut second = call(&world, &method, offer(3, 2)).await;
    let Said::Head(101, Some(answer)) = said(&mut second).await else {
        panic!("it is not attached");
    };
    assert_eq!(answer.received, 4);
    second.send(vec![segment(4, "two ")]);
    echoes(&mut second, 2, "e two ").await;

    // One that comes late does not get it, and one that is newer does while the other seems to live.
    let mut late = call(&world, &method, offer(2, 8)).await;
    assert_eq!(said(&mut late).await, Said::Failed(Code::Aborted));
    let mut third = call(&world, &method, offer(4, 8)).await;
    assert!(matches!(said(&mut third).await, Said::Head(101, Some(_))));
    while let Said::Segment(segment) = said(&mut second).await {
        assert!(segment.data.is_empty(), "an acknowledgement at most");
    }
    third.send(vec![segment(8, "three")]);
    echoes(&mut third, 8, "three").await;

    // The client leaves.
    let over = Segment {
        over: true,
        ..Segment::default()
    };
    third.send(vec![
        http(http_request::Message::Segment(over)),
        Msg::CloseSend(CloseSend {}),
    ]);
    while let Said::Segment(_) = said(&mut third).await {}
    let mut gone = call(&world, &method, offer(5, 13)).await;
    assert_eq!(said(&mut gone).await, Said::Failed(Code::NotFound));
}

#[tokio::test]
async fn its_end_is_told_until_it_is_acknowledged() {
    let world = world().await;
    let (mut first, method) = opened(&world, offer(1, 0)).await;
    let last = Segment {
        data: "x".into(),
        end: true,
        ..Segment::default()
    };
    first.send(vec![http(http_request::Message::Segment(last))]);
    echoes(&mut first, 0, "x bye").await;
    first.send.send_reset(h2::Reason::CANCEL);

    let mut second = call(&world, &method, offer(2, 5)).await;
    assert!(matches!(said(&mut second).await, Said::Head(101, Some(_))));
    let ends = loop {
        match said(&mut second).await {
            Said::Segment(segment) if segment.end => break segment,
            Said::Segment(_) => {}
            other => panic!("unexpected {other:?}"),
        }
    };
    assert_eq!((ends.offset, ends.data.len()), (5, 0));
    let acknowledged = Segment {
        acknowledged: 6,
        offset: 2,
        ..Segment::default()
    };
    second.send(vec![http(http_request::Message::Segment(acknowledged))]);

    while let Said::Segment(_) = said(&mut second).await {}
    let mut gone = call(&world, &method, offer(3, 6)).await;
    assert_eq!(said(&mut gone).await, Said::Failed(Code::NotFound));
}

#[tokio::test]
async fn nobody_else_is_given_it() {
    let world = world().await;
    let acting = |name: &str, mut header: http_request::Header| {
        let config = ImpersonationConfig {
            username: name.into(),
            ..ImpersonationConfig::default()
        };
        let extra = HeaderExtra {
            imp_config: Some(config),
        };
        header.extra = Some(prost_types::Any {
            type_url: "type.googleapis.com/gitlab.agent.kubernetes_api.rpc.HeaderExtra".into(),
            value: extra.encode_to_vec(),
        });
        header
    };
    let (first, method) = opened(&world, acting("ana", offer(1, 0))).await;
    let mut first = first;
    first.send.send_reset(h2::Reason::CANCEL);

    let mut guess = offer(2, 0);
    guess.resume.as_mut().unwrap().id = vec![8; 16].into();
    for header in [
        offer(2, 0),
        acting("bob", offer(2, 0)),
        acting("ana", guess),
    ] {
        let mut other = call(&world, &method, header).await;
        assert_eq!(said(&mut other).await, Said::Failed(Code::NotFound));
    }
    // What cannot be ends it.
    let mut wrong = call(&world, &method, acting("ana", offer(2, 100))).await;
    assert_eq!(said(&mut wrong).await, Said::Failed(Code::InvalidArgument));
    let mut gone = call(&world, &method, acting("ana", offer(3, 0))).await;
    assert_eq!(said(&mut gone).await, Said::Failed(Code::NotFound));
}
