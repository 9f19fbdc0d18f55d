//! Heads as long as an API server takes them, and what no head may do.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use h2::RecvStream;
use http::Request;
use prost::Message as _;
use proto::agent::{
    grpctool::{HttpResponse, http_response},
    prototool,
    reverse_tunnel::{
        info::{AgentDescriptor, Method, Service},
        rpc::{self, ConnectRequest, connect_request::Msg},
    },
};
use proto::metadata::entry;
use tests::{http::Socket, rig::Rig};

use crate::{
    http1::{authorization, send},
    memory::{keeps_nothing, peak_kib, resident_kib},
    raw_api::{RawApi, ok},
    wire::{Wire, framed},
};

const CONNECT: &str = "/gitlab.agent.reverse_tunnel.rpc.ReverseTunnel/Connect";
const LIMIT: Duration = Duration::from_secs(60);

/// How many lines of `x-line` there were and whether in order, and how long `x-long` was; or what the
/// path asks for.
fn answer(target: &str, lines: &[String]) -> Vec<u8> {
    match target {
        "/warnings" => {
            let lines: String = (0..150)
                .map(|it| format!("warning: 299 - \"{it}\"\r\n"))
                .collect();
            format!("HTTP/1.1 201 Created\r\n{lines}content-length: 2\r\n\r\n{{}}").into_bytes()
        }
        "/names" => {
            let lines: String = (0..3000).map(|it| format!("x-{it}: 1\r\n")).collect();
            format!("HTTP/1.1 201 Created\r\n{lines}content-length: 2\r\n\r\n{{}}").into_bytes()
        }
        "/both" => b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n".to_vec(),
        "/999" => b"HTTP/1.1 999 Odd\r\ncontent-length: 2\r\n\r\n{}".to_vec(),
        "/evil" => {
            let lines = "Set-Cookie: a=b\r\nClear-Site-Data: \"*\"\r\nService-Worker-Allowed: /\r\n\
                Strict-Transport-Security: max-age=1\r\nRefresh: 0\r\nGitlab-Unauthorized: true\r\n\
                Access-Control-Allow-Origin: *\r\nUpgrade: h2c\r\nAudit-Id: 7\r\n";
            format!("HTTP/1.1 200 OK\r\n{lines}content-length: 2\r\n\r\n{{}}").into_bytes()
        }
        _ => {
            let all = || lines.iter().filter_map(|line| line.split_once(": "));
            let numbers: Vec<_> = all().filter(|(name, _)| *name == "x-line").collect();
            let in_order = (numbers.iter().enumerate()).all(|(at, (_, it))| *it == at.to_string());
            let long = all().find(|(name, _)| *name == "x-long");
            let long = long.map_or(0, |(_, value)| value.len());
            ok(&format!("{} {in_order} {long}", numbers.len()))
        }
    }
}

fn numbered(lines: usize) -> String {
    (0..lines).map(|it| format!("x-line: {it}\r\n")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_head_over_http1_arrives_or_is_refused_with_words() -> Result<()> {
    let rig = Rig::start().await?;
    let bystander = rig.agent("bystander").await?;
    let api = RawApi::start(&rig, "raw", answer).await?;
    let who = authorization(&api.bearer);
    let get = "GET /k8s-proxy/lines HTTP/1.1";

    let arrived = send(rig.kas.users, get, &(who.clone() + &numbered(1500)), b"").await?;
    ensure!(
        arrived.code == 200 && arrived.body == "1500 true 0",
        "{arrived:?}"
    );
    let long = format!("{who}x-long: {}\r\n", "x".repeat(900_000));
    let arrived = send(rig.kas.users, get, &long, b"").await?;
    ensure!(
        arrived.code == 200 && arrived.body == "0 false 900000" || arrived.body == "0 true 900000",
        "{arrived:?}"
    );

    let refused = send(rig.kas.users, get, &(who.clone() + &numbered(3000)), b"").await?;
    refused.says(431, "lines")?;
    let longer = format!("{who}x-long: {}\r\n", "x".repeat(1_200_000));
    let refused = send(rig.kas.users, get, &longer, b"").await?;
    refused.says(431, "bytes")?;
    rig.check_serves(&bystander).await
}

async fn unfinished(port: u16, count: usize) -> Result<Vec<Socket>> {
    let most = [
        "GET /k8s-proxy/api HTTP/1.1\r\nx-long: ",
        &"x".repeat(1 << 20),
    ]
    .concat();
    let mut sockets = Vec::new();
    for _ in 0..count {
        let mut socket = Socket::open(port).await?;
        // Refused before it is sent is as good.
        let write = socket.write(most.as_bytes());
        let _ = tokio::time::timeout(LIMIT, write).await?;
        sockets.push(socket);
    }
    Ok(sockets)
}

/// Heads of a MiB each that never end, of nobody that is known.
#[tokio::test(flavor = "multi_thread")]
async fn heads_that_never_end_hold_no_more_than_their_share() -> Result<()> {
    let rig = Rig::start().await?;
    let bystander = rig.agent("bystander").await?;
    // What a process that has served any keeps of them is not the attack's.
    drop(unfinished(rig.kas.users, 20).await?);
    rig.check_serves(&bystander).await?;
    let before = resident_kib(&rig.kas.process)?;

    let sockets = unfinished(rig.kas.users, 150).await?;
    rig.check_serves(&bystander).await?;

    let peak = peak_kib(&rig.kas.process)?;
    ensure!(
        peak < before + (100 << 10),
        "{before} KiB before, {peak} KiB then"
    );
    drop(sockets);
    keeps_nothing(&rig, &bystander, async || {
        unfinished(rig.kas.users, 20).await.map(drop)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_head_over_http2_does_not_end_the_connection() -> Result<()> {
    let rig = Rig::start().await?;
    let bystander = rig.agent("bystander").await?;
    let api = RawApi::start(&rig, "raw", answer).await?;
    let wire = Wire::open(rig.kas.users).await?;
    let get = async |long: usize| {
        let request = Request::get("http://kas/k8s-proxy/lines")
            .header("authorization", format!("Bearer {}", api.bearer))
            .header("x-long", "x".repeat(long));
        let mut call = wire.request(request.body(())?).await?;
        call.send.send_data(Bytes::new(), true)?;
        let answer = tokio::time::timeout(LIMIT, call.response).await??;
        let (head, mut body) = answer.into_parts();
        let mut text = Vec::new();
        while let Some(data) = body.data().await {
            text.extend_from_slice(&data?);
        }
        anyhow::Ok((head.status.as_u16(), String::from_utf8(text)?))
    };

    let (code, text) = get(300_000).await?;
    ensure!(code == 200 && text.ends_with(" 300000"), "{code} {text}");
    let (code, text) = get(1_500_000).await?;
    ensure!(
        code == 431 && text.contains("\"kind\":\"Status\""),
        "{code} {text}"
    );
    let (code, text) = get(10).await?;
    ensure!(code == 200 && text.ends_with(" 10"), "{code} {text}");
    ensure!(!wire.is_closed());
    rig.check_serves(&bystander).await
}

/// What was carried out is never an error for its head.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_keeps_its_meaning_whatever_its_head() -> Result<()> {
    let rig = Rig::start().await?;
    let bystander = rig.agent("bystander").await?;
    let api = RawApi::start(&rig, "raw", answer).await?;
    let who = authorization(&api.bearer);
    let get = async |path: &str| {
        let first = format!("GET /k8s-proxy{path} HTTP/1.1");
        send(rig.kas.users, &first, &who, b"").await
    };

    let created = get("/warnings").await?;
    ensure!(created.code == 201, "{created:?}");
    ensure!(created.values("warning").count() == 150, "{created:?}");
    let created = get("/names").await?;
    ensure!(created.code == 201, "{created:?}");
    let both = get("/both").await?;
    ensure!(both.code == 200 && both.body.contains("{}"), "{both:?}");
    get("/999").await?.says(502, "999")?;
    let evil = get("/evil").await?;
    ensure!(
        evil.code == 200 && evil.values("audit-id").eq(["7"]),
        "{evil:?}"
    );
    ensure!(
        evil.values("x-content-type-options").eq(["nosniff"]),
        "{evil:?}"
    );
    for name in [
        "set-cookie",
        "clear-site-data",
        "service-worker-allowed",
        "strict-transport-security",
        "refresh",
        "gitlab-unauthorized",
        "access-control-allow-origin",
        "upgrade",
    ] {
        ensure!(evil.values(name).next().is_none(), "{name}: {evil:?}");
    }
    rig.check_serves(&bystander).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_understood_of_a_request_is_refused_with_words() -> Result<()> {
    let rig = Rig::start().await?;
    let bystander = rig.agent("bystander").await?;
    let who = authorization(&rig.bearer_for(&bystander));
    let post = "POST /k8s-proxy/echo HTTP/1.1";

    let coded = format!("{who}transfer-encoding: gzip, chunked\r\n");
    let refused = send(rig.kas.users, post, &coded, b"3\r\nabc\r\n0\r\n\r\n").await?;
    refused.says(501, "chunked")?;
    let expects = format!("{who}expect: the unexpected\r\ncontent-length: 3\r\n");
    let refused = send(rig.kas.users, post, &expects, b"abc").await?;
    refused.says(417, "100-continue")?;
    ensure!(
        rig.stub
            .seen()
            .posted
            .load(std::sync::atomic::Ordering::Relaxed)
            == 0
    );
    rig.check_serves(&bystander).await
}

/// An agent whose answer has more header names than a map of them has room for.
#[tokio::test(flavor = "multi_thread")]
async fn an_agents_answer_with_25000_header_names_hurts_nobody() -> Result<()> {
    let rig = Rig::start().await?;
    let bystander = rig.agent("bystander").await?;
    let token = rig.kas.create_agent("hostile").await?;
    let bearer = rig.bearer(&rig.kas.agent_id("hostile").await?);
    rig.check_serves(&bystander).await?;
    let before = resident_kib(&rig.kas.process)?;

    keeps_nothing(&rig, &bystander, async || {
        answers_25000_names(&rig, &token, &bearer).await
    })
    .await?;
    let peak = peak_kib(&rig.kas.process)?;
    ensure!(
        peak < before + (64 << 10),
        "{before} KiB before, {peak} KiB then"
    );
    Ok(())
}

async fn answers_25000_names(rig: &Rig, token: &str, bearer: &str) -> Result<()> {
    let wire = Wire::open(rig.kas.agents).await?;
    let mut call = wire.call(CONNECT, token).await?;
    call.send.send_data(framed(false, &descriptor()), false)?;
    let asking = rig.get_as(bearer, "/api");
    let answering = async {
        let mut asked: RecvStream = call.response.await?.into_body();
        asked.data().await.context("no call")??;
        for message in hostile_answer() {
            call.send.send_data(framed(false, &message), false)?;
        }
        // It may be cut off.
        call.send.send_data(Bytes::new(), true).ok();
        // Until kas has done with it.
        while let Some(Ok(data)) = asked.data().await {
            asked.flow_control().release_capacity(data.len())?;
        }
        anyhow::Ok(())
    };
    let both = async { tokio::join!(asking, answering) };
    let (answer, answered) = tokio::time::timeout(LIMIT, both).await?;
    answered?;
    let answer = answer?;
    ensure!(
        matches!(answer.status().as_u16(), 200 | 502),
        "{:?}",
        answer.status()
    );
    ensure!(answer.headers().len() < 1100, "{}", answer.headers().len());
    Ok(())
}

fn descriptor() -> Vec<u8> {
    let service = Service {
        name: "gitlab.agent.kubernetes_api.rpc.KubernetesApi".to_owned(),
        methods: vec![Method {
            name: "MakeRequest".to_owned(),
        }],
    };
    let agent_descriptor = Some(AgentDescriptor {
        services: vec![service],
    });
    connect(Msg::Descriptor(rpc::Descriptor { agent_descriptor }))
}

fn connect(msg: Msg) -> Vec<u8> {
    ConnectRequest { msg: Some(msg) }.encode_to_vec()
}

fn hostile_answer() -> Vec<Vec<u8>> {
    let response = prototool::HttpResponse {
        status_code: 200,
        status: "200 OK".to_owned(),
        header: (0..25_000)
            .map(|it| entry(format!("X-{it}"), ["1"]))
            .collect(),
    };
    let header = http_response::Message::Header(http_response::Header {
        response: Some(response),
        resume: None,
    });
    let trailer = http_response::Message::Trailer(http_response::Trailer {});
    let message = |message| {
        let data = HttpResponse {
            message: Some(message),
        };
        connect(Msg::Message(rpc::Message {
            data: data.encode_to_vec().into(),
        }))
    };
    vec![
        connect(Msg::Header(rpc::Header::default())),
        message(header),
        message(trailer),
        connect(Msg::Trailer(rpc::Trailer::default())),
    ]
}
