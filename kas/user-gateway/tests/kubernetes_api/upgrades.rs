//! Upgraded connections: exec, attach, port-forward.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use prometheus_client::registry::Registry;
use proto::agent::grpctool::{Segment, http_request};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};
use user_gateway::{SessionFilter, SessionKind, Settings};

use crate::{
    agent::{Agent, Asked, Next},
    proxy::{AGENT, LONG, Proxy},
    stage::Stage,
};

async fn expect_trailer(asked: &mut Asked) {
    let next = asked.next().await;
    assert!(
        matches!(next, Next::Http(http_request::Message::Trailer(_))),
        "{next:?}"
    );
}

/// Switches protocols and echoes until the client half-closes.
async fn echo(mut asked: Asked) -> Next {
    assert_eq!(asked.header("Upgrade"), ["SPDY/3.1"]);
    assert_eq!(asked.header("Connection"), ["upgrade"]);
    expect_trailer(&mut asked).await;
    asked
        .answer(101, &[("Upgrade", "SPDY/3.1"), ("Connection", "Upgrade")])
        .await;
    asked.trailer().await;
    loop {
        match asked.next().await {
            Next::Http(http_request::Message::UpgradeData(data)) => {
                asked.upgrade_data(data.data).await;
            }
            Next::CloseSend => return asked.end().await,
            other => return other,
        }
    }
}

async fn upgrade(proxy: &Proxy, first: &[u8]) -> TcpStream {
    upgrade_as("good", proxy, first).await
}

async fn upgrade_as(token: &str, proxy: &Proxy, first: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(proxy.address).await.unwrap();
    let head = format!(
        "GET /exec HTTP/1.1\r\nHost: kas\r\nAuthorization: Bearer pat:{AGENT}:{token}\r\n\
         Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n"
    );
    socket
        .write_all(&[head.as_bytes(), first].concat())
        .await
        .unwrap();
    socket
}

async fn head(socket: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap().to_ascii_lowercase()
}

#[tokio::test]
async fn bytes_pass_both_ways_until_the_client_ends() {
    let proxy = Proxy::start().await;
    let (ends, mut ended) = mpsc::channel(1);
    let _agent = Agent::connect(&proxy.registry, AGENT, 2, move |asked| {
        let ends = ends.clone();
        async move { ends.send(echo(asked).await).await.unwrap() }
    })
    .await;

    // The first bytes come right behind the head.
    let mut socket = upgrade(&proxy, b"early").await;
    let answer = head(&mut socket).await;
    assert!(answer.starts_with("http/1.1 101"), "{answer}");
    assert!(answer.contains("upgrade: spdy/3.1") && answer.contains("connection: upgrade"));
    let mut early = [0; 5];
    socket.read_exact(&mut early).await.unwrap();
    assert_eq!(&early, b"early");
    let sent: Vec<u8> = (0..3 << 20).map(|n: u32| n.to_le_bytes()[1]).collect();
    let (mut read, mut write) = socket.into_split();
    let bytes = sent.clone();
    let writer = tokio::spawn(async move {
        write.write_all(&bytes).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut received = Vec::new();
    tokio::time::timeout(LONG, read.read_to_end(&mut received))
        .await
        .unwrap()
        .unwrap();
    writer.await.unwrap();

    assert!(received == sent);
    assert_eq!(ended.recv().await.unwrap(), Next::End(tonic::Code::Ok));
    proxy.quiet().await;
}

#[tokio::test]
async fn the_agent_ends_the_connection() {
    let proxy = Proxy::start().await;
    let _agent = Agent::connect(&proxy.registry, AGENT, 2, |mut asked| async move {
        expect_trailer(&mut asked).await;
        asked
            .answer(101, &[("Upgrade", "SPDY/3.1"), ("Connection", "Upgrade")])
            .await;
        asked.trailer().await;
        asked.upgrade_data("bye").await;
        asked.end().await;
    })
    .await;

    let mut socket = upgrade(&proxy, b"").await;
    head(&mut socket).await;
    let mut rest = Vec::new();
    tokio::time::timeout(LONG, socket.read_to_end(&mut rest))
        .await
        .unwrap()
        .unwrap();

    assert_eq!(rest, b"bye");
    proxy.quiet().await;
}

#[tokio::test]
async fn a_vanished_client_cancels_the_call() {
    let proxy = Proxy::start().await;
    let (ends, mut ended) = mpsc::channel(1);
    let _agent = Agent::connect(&proxy.registry, AGENT, 2, move |mut asked| {
        let ends = ends.clone();
        async move {
            expect_trailer(&mut asked).await;
            asked
                .answer(101, &[("Upgrade", "SPDY/3.1"), ("Connection", "Upgrade")])
                .await;
            asked.trailer().await;
            ends.send(asked.over().await).await.unwrap();
        }
    })
    .await;

    let mut socket = upgrade(&proxy, b"").await;
    head(&mut socket).await;
    socket.set_zero_linger().unwrap();
    drop(socket);

    assert_eq!(
        ended.recv().await.unwrap(),
        Next::End(tonic::Code::Cancelled)
    );
    proxy.quiet().await;
}

#[tokio::test]
async fn a_refused_upgrade_is_a_normal_answer() {
    let proxy = Proxy::start().await;
    let _agent = Agent::connect(&proxy.registry, AGENT, 2, |mut asked| async move {
        expect_trailer(&mut asked).await;
        asked.answer(403, &[("Content-Length", "2")]).await;
        assert_eq!(asked.next().await, Next::CloseSend);
        asked.data("no").await;
        asked.trailer().await;
        asked.end().await;
    })
    .await;

    let mut socket = upgrade(&proxy, b"").await;
    let answer = head(&mut socket).await;

    assert!(answer.starts_with("http/1.1 403"), "{answer}");
    let mut body = [0; 2];
    socket.read_exact(&mut body).await.unwrap();
    assert_eq!(&body, b"no");
}

#[tokio::test]
async fn an_upgrade_that_breaks_is_not_made_again() {
    let proxy = Proxy::start().await;
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let _agent = Agent::connect(&proxy.registry, AGENT, 2, move |asked| {
        count.fetch_add(1, Ordering::Relaxed);
        async move { asked.reset() }
    })
    .await;

    let mut socket = upgrade(&proxy, b"").await;
    let answer = head(&mut socket).await;

    assert!(answer.starts_with("http/1.1 502"), "{answer}");
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn whoever_executes_is_told_behind_the_frame_on_its_way_that_an_operator_ended_it() {
    let proxy = Proxy::start().await;
    let (ends, mut ended) = mpsc::channel(1);
    let (more, rest) = mpsc::channel::<()>(1);
    let rest = Arc::new(tokio::sync::Mutex::new(rest));
    let _agent = Agent::connect(&proxy.registry, AGENT, 2, move |mut asked| {
        let (ends, rest) = (ends.clone(), rest.clone());
        async move {
            expect_trailer(&mut asked).await;
            let switched = [
                ("Upgrade", "websocket"),
                ("Connection", "Upgrade"),
                ("Sec-WebSocket-Protocol", "v5.channel.k8s.io"),
            ];
            asked.answer(101, &switched).await;
            asked.trailer().await;
            // A binary frame of five bytes, of which two come.
            asked.upgrade_data(&b"\x82\x05\x01a"[..]).await;
            rest.lock().await.recv().await;
            asked.upgrade_data(&b"bcd\x82\x05more"[..]).await;
            ends.send(asked.over().await).await.unwrap();
        }
    })
    .await;
    let mut socket = TcpStream::connect(proxy.address).await.unwrap();
    let asked = format!(
        "GET /api/v1/namespaces/a/pods/b/exec HTTP/1.1\r\nHost: kas\r\nAuthorization: Bearer pat:{AGENT}:good\r\n\
         Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    );
    socket.write_all(asked.as_bytes()).await.unwrap();
    head(&mut socket).await;
    let mut begun = [0; 4];
    socket.read_exact(&mut begun).await.unwrap();
    let sessions = proxy.metrics.sessions();
    let (open, ..) = sessions.find(&SessionFilter::default(), 9);
    assert_eq!(open[0].kind, SessionKind::Exec);

    assert!(sessions.end(open[0].id).is_some());
    more.send(()).await.unwrap();

    let mut said = Vec::new();
    tokio::time::timeout(LONG, socket.read_to_end(&mut said))
        .await
        .unwrap()
        .unwrap();
    let (frame, farewell) = said.split_at(3);
    assert_eq!(frame, b"bcd", "what was begun is whole");
    // Its length takes two bytes more.
    assert_eq!(farewell[..2], [0x82, 0x7E]);
    let length = usize::from(u16::from_be_bytes([farewell[2], farewell[3]]));
    let (status, close) = farewell[4..].split_at(length);
    assert_eq!(status[0], 3, "the channel for errors");
    let status: serde_json::Value = serde_json::from_slice(&status[1..]).unwrap();
    assert_eq!(status["code"], 403);
    assert!(status["message"].as_str().unwrap().contains("an operator"));
    assert_eq!(close[0], 0x88);
    assert_eq!(close[2..4], 1008_u16.to_be_bytes());
    drop(socket);
    assert_eq!(
        ended.recv().await.unwrap(),
        Next::End(tonic::Code::Cancelled)
    );
    proxy.quiet().await;
}

#[tokio::test]
async fn an_exec_that_breaks_or_ends_without_a_status_ends_by_a_failure() {
    for (breaks, told, said) in [
        (true, &b""[..], "the outcome is unknown"),
        (false, b"", "without saying how the command ended"),
        // A status on the channel for errors is the end, whatever comes of the connection.
        (true, b"\x82\x03\x03{}", ""),
    ] {
        let mut stage = Stage::set().await;
        let mut socket = TcpStream::connect(stage.proxy.address).await.unwrap();
        let asked = format!(
            "GET /api/v1/namespaces/a/pods/b/exec HTTP/1.1\r\nHost: kas\r\nAuthorization: Bearer pat:{AGENT}:good\r\n\
             Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        );
        socket.write_all(asked.as_bytes()).await.unwrap();
        let mut asked = stage.asked().await;
        expect_trailer(&mut asked).await;
        let switched = [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Protocol", "v5.channel.k8s.io"),
        ];
        asked.answer(101, &switched).await;
        asked.trailer().await;
        head(&mut socket).await;
        let sent = [b"\x82\x02\x01a", told].concat();
        asked.upgrade_data(sent.clone()).await;
        let mut received = vec![0; sent.len()];
        socket.read_exact(&mut received).await.unwrap();
        assert_eq!(received, sent);

        if breaks {
            asked.reset();
        } else {
            asked.end().await;
        }
        let mut rest = Vec::new();
        let read = socket.read_to_end(&mut rest);
        tokio::time::timeout(LONG, read).await.unwrap().unwrap();

        if said.is_empty() {
            assert_eq!(rest, b"");
            continue;
        }
        assert_eq!(rest[..2], [0x82, 0x7E]);
        let length = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
        let (status, close) = rest[4..].split_at(length);
        assert_eq!(status[0], 3, "the channel for errors");
        let status: serde_json::Value = serde_json::from_slice(&status[1..]).unwrap();
        assert_eq!(status["status"], "Failure");
        let message = status["message"].as_str().unwrap();
        assert!(message.contains(said), "{message}");
        assert_eq!(close[2..4], 1011_u16.to_be_bytes());
    }
}

/// Nothing happens for so long.
async fn silence(seconds: u64) {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(seconds)).await;
    tokio::time::resume();
}

/// Takes the next request as one for an upgrade to this protocol.
async fn switched(stage: &mut Stage, protocol: &str) -> Asked {
    let mut asked = stage.asked().await;
    expect_trailer(&mut asked).await;
    let headers = [("Upgrade", protocol), ("Connection", "Upgrade")];
    asked.answer(101, &headers).await;
    asked.trailer().await;
    asked
}

#[tokio::test]
async fn a_client_that_has_closed_its_side_gets_what_comes_much_later() {
    let mut stage = Stage::set().await;
    let mut socket = upgrade(&stage.proxy, b"").await;
    let mut asked = switched(&mut stage, "SPDY/3.1").await;
    head(&mut socket).await;
    socket.shutdown().await.unwrap();
    assert_eq!(asked.next().await, Next::CloseSend);

    silence(25).await;
    asked.upgrade_data("late").await;
    let mut late = [0; 4];
    socket.read_exact(&mut late).await.unwrap();
    silence(25).await;
    asked.upgrade_data("r").await;
    asked.end().await;
    let mut rest = Vec::new();
    socket.read_to_end(&mut rest).await.unwrap();

    assert_eq!([&late[..], &rest].concat(), b"later");
    stage.proxy.quiet().await;
}

#[tokio::test]
async fn what_breaks_when_its_client_has_closed_their_side_is_not_counted_as_broken() {
    for (closes, broken) in [(false, 1), (true, 0)] {
        let mut stage = Stage::set().await;
        let mut metrics = Registry::default();
        stage.proxy.metrics.register(&mut metrics);
        let mut socket = upgrade(&stage.proxy, b"").await;
        let mut asked = switched(&mut stage, "SPDY/3.1").await;
        head(&mut socket).await;
        if closes {
            socket.shutdown().await.unwrap();
            assert_eq!(asked.next().await, Next::CloseSend);
        }

        asked.reset();
        let mut rest = Vec::new();
        let read = socket.read_to_end(&mut rest);
        tokio::time::timeout(LONG, read).await.unwrap().unwrap();
        stage.proxy.quiet().await;

        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &metrics).unwrap();
        let name = "k8s_api_proxy_upgraded_connections_broken_total{";
        let lines = text.lines().filter(|line| line.starts_with(name));
        let counts = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u32>().ok());
        assert_eq!(counts.sum::<u32>(), broken, "{text}");
    }
}

#[tokio::test]
async fn a_client_that_pauses_gets_the_rest_when_it_reads_again() {
    const CHUNKS: usize = 256;
    let mut stage = Stage::set().await;
    let mut socket = upgrade(&stage.proxy, b"").await;
    let mut asked = switched(&mut stage, "SPDY/3.1").await;
    head(&mut socket).await;
    let (told, mut sent) = mpsc::channel(CHUNKS);
    let sender = tokio::spawn(async move {
        for _ in 0..CHUNKS {
            asked.upgrade_data(vec![7; 64 << 10]).await;
            told.send(()).await.unwrap();
        }
        asked.end().await
    });

    // Until nothing finds room any more, as when a pager shows the first page.
    let moment = Duration::from_millis(300);
    while let Ok(Some(())) = tokio::time::timeout(moment, sent.recv()).await {}
    silence(25).await;
    let mut rest = Vec::new();
    let read = socket.read_to_end(&mut rest);
    tokio::time::timeout(LONG, read).await.unwrap().unwrap();

    assert_eq!(rest.len(), CHUNKS * (64 << 10));
    assert_eq!(sender.await.unwrap(), Next::End(tonic::Code::Ok));
    stage.proxy.quiet().await;
}

#[tokio::test]
async fn a_quiet_client_is_sent_pings_of_its_protocol_between_frames() {
    const SPDY: [u8; 12] = [0x80, 3, 0, 6, 0, 0, 0, 4, 0x40, 0, 0, 0];
    // Two bytes in one frame, of which the second comes late.
    for (protocol, frame, ping) in [
        ("websocket", &[0x82, 2, 7, 7][..], &[0x89, 0][..]),
        ("SPDY/3.1", &[0, 0, 0, 1, 0, 0, 0, 2, 7, 7], &SPDY),
    ] {
        let mut stage = Stage::set().await;
        let mut socket = upgrade(&stage.proxy, b"").await;
        let mut asked = switched(&mut stage, protocol).await;
        head(&mut socket).await;
        let (first, second) = frame.split_at(frame.len() - 1);
        let mut bytes = vec![0; first.len()];

        asked.upgrade_data(first.to_vec()).await;
        socket.read_exact(&mut bytes).await.unwrap();
        silence(31).await;
        asked.upgrade_data(second.to_vec()).await;
        bytes.push(socket.read_u8().await.unwrap());
        assert_eq!(bytes, frame, "{protocol}");
        silence(31).await;
        bytes = vec![0; ping.len()];
        socket.read_exact(&mut bytes).await.unwrap();

        assert_eq!(bytes, ping, "{protocol}");
        asked.end().await;
    }
}

/// The next segment from kas.
async fn segment(asked: &mut Asked) -> Segment {
    match asked.next().await {
        Next::Http(http_request::Message::Segment(segment)) => segment,
        other => panic!("unexpected {other:?}"),
    }
}

fn said(offset: u64, acknowledged: u64, data: &'static str) -> Segment {
    Segment {
        offset,
        acknowledged,
        data: data.into(),
        ..Segment::default()
    }
}

#[tokio::test]
async fn a_connection_whose_tunnel_breaks_goes_on_in_another_where_it_was() {
    let mut stage = Stage::set().await;
    let mut socket = upgrade(&stage.proxy, b"").await;
    let mut first = stage.asked().await;
    let offer = first.head.resume.clone().unwrap();
    assert_eq!(
        (offer.id.len(), offer.attachment, offer.received),
        (16, 1, 0)
    );
    expect_trailer(&mut first).await;
    first.switch("echo", 0).await;
    head(&mut socket).await;
    socket.write_all(b"abc").await.unwrap();
    assert_eq!(segment(&mut first).await, said(0, 0, "abc"));
    first.segment(said(0, 0, "xy")).await;
    let mut come = [0; 2];
    socket.read_exact(&mut come).await.unwrap();
    assert_eq!(&come, b"xy");

    first.reset();
    let mut second = stage.asked().await;
    let again = second.head.resume.clone().unwrap();
    assert_eq!((again.id, again.received), (offer.id, 2));
    assert!(again.attachment > 1 && second.head.request.is_none());
    expect_trailer(&mut second).await;
    second.switch("", 1).await;
    assert_eq!(segment(&mut second).await, said(1, 2, "bc"));
    let last = Segment {
        end: true,
        ..said(2, 3, "z")
    };
    second.segment(last).await;
    let mut rest = Vec::new();
    let read = socket.read_to_end(&mut rest);
    tokio::time::timeout(LONG, read).await.unwrap().unwrap();

    assert_eq!(rest, b"z");
    assert_eq!(segment(&mut second).await.acknowledged, 4);
    assert!(segment(&mut second).await.over, "the client has left");
    assert_eq!(second.next().await, Next::CloseSend);
    second.end().await;
    stage.proxy.quiet().await;
}

#[tokio::test]
async fn whoever_may_not_go_on_is_cut_off_and_the_agent_is_told() {
    let mut stage = Stage::set().await;
    let mut socket = upgrade_as("once", &stage.proxy, b"").await;
    let mut first = stage.asked().await;
    let offer = first.head.resume.clone().unwrap();
    expect_trailer(&mut first).await;
    first.switch("echo", 0).await;
    head(&mut socket).await;

    first.reset();
    let mut last = stage.asked().await;
    assert_eq!(last.head.resume.clone().unwrap().id, offer.id);
    expect_trailer(&mut last).await;
    last.switch("", 0).await;

    assert!(segment(&mut last).await.over);
    assert_eq!(last.next().await, Next::CloseSend);
    last.end().await;
    let mut rest = Vec::new();
    let read = socket.read_to_end(&mut rest);
    // Cut or ended: its protocol has no place for words.
    drop(tokio::time::timeout(LONG, read).await.unwrap());
    assert!(rest.is_empty());
    stage.proxy.quiet().await;
}

#[tokio::test]
async fn a_connection_that_its_agent_does_not_have_any_more_breaks_at_once() {
    let mut stage = Stage::set().await;
    let mut socket = upgrade(&stage.proxy, b"").await;
    let mut first = stage.asked().await;
    expect_trailer(&mut first).await;
    first.switch("echo", 0).await;
    head(&mut socket).await;
    first.reset();

    let mut again = stage.asked().await;
    again.begin().await;
    again.fail(tonic::Code::NotFound, "not here").await;

    let mut rest = Vec::new();
    let read = socket.read_to_end(&mut rest);
    // Cut or ended: it has no place for words.
    drop(tokio::time::timeout(LONG, read).await.unwrap());
    assert!(rest.is_empty());
    stage.proxy.quiet().await;
}

#[tokio::test]
async fn without_time_to_be_resumed_nothing_is_offered() {
    let settings = Settings {
        resume: Duration::ZERO,
        ..Settings::default()
    };
    let mut stage = Stage::with(settings).await;
    let _socket = upgrade(&stage.proxy, b"").await;

    assert_eq!(stage.asked().await.head.resume, None);
}
