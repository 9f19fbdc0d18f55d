//! An agent that a test scripts: it opens tunnels and answers calls.

use std::{future::poll_fn, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use http::Request;
use prost::Message as _;
use proto::{
    agent::{
        grpctool::{HttpRequest, HttpResponse, ResumeAnswer, Segment, http_request, http_response},
        prototool::{self, RawEntry},
        reverse_tunnel::rpc::{
            ConnectRequest, ConnectResponse, Error, Header, Message, Trailer, connect_request::Msg,
            connect_response,
        },
    },
    frame::{Deframer, Encoding, Frame},
    google::rpc::Status,
    metadata::{self, Meta, RawMeta},
};
use router::{
    AgentId, Registry,
    tunnel::{Offer, Stream},
};
use runtime::grpc::{SendRequest, SendStream, send_frame};
use tokio::{io::DuplexStream, task::JoinHandle};

const METHOD: &str = "/gitlab.agent.kubernetes_api.rpc.KubernetesApi/MakeRequest";

/// The method by which an upgraded connection is attached to again.
pub(crate) const RESUME: &str = "/kas.kubernetes_api.rpc.Resume/me";

/// The method by which it is asked for answers that it has kept.
pub(crate) const ANSWERS: &str = "/kas.kubernetes_api.rpc.Answers/me";

type Script = Arc<dyn Fn(Asked) -> BoxFuture<'static, ()> + Send + Sync>;

/// A connected agent. Dropping it does not disconnect it; [`Self::cut`] does.
pub(crate) struct Agent(JoinHandle<()>);

impl Agent {
    pub(crate) async fn connect<F, R>(
        registry: &Arc<Registry>,
        id: i64,
        tunnels: usize,
        script: F,
    ) -> Self
    where
        F: Fn(Asked) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let script: Script = Arc::new(move |asked| Box::pin(script(asked)));
        Self::dial((registry, id, &[METHOD, RESUME]), tunnels, true, script).await
    }

    /// The same of an agent that keeps answers.
    pub(crate) async fn connect_keeping<F, R>(registry: &Arc<Registry>, id: i64, script: F) -> Self
    where
        F: Fn(Asked) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let script: Script = Arc::new(move |asked| Box::pin(script(asked)));
        Self::dial((registry, id, &[METHOD, ANSWERS]), 2, true, script).await
    }

    pub(crate) async fn connect_old(registry: &Arc<Registry>, id: i64) -> Self {
        Self::dial(
            (registry, id, &[METHOD, RESUME]),
            1,
            false,
            Arc::new(|_| Box::pin(std::future::ready(()))),
        )
        .await
    }

    async fn dial(
        (registry, id, methods): (&Arc<Registry>, i64, &[&str]),
        tunnels: usize,
        impersonates: bool,
        script: Script,
    ) -> Self {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let offer = Offer {
            agent: AgentId(id),
            methods: methods.iter().map(|it| Arc::from(*it)).collect(),
            impersonates,
            upgrades: true,
        };
        tokio::spawn(serve_agent(registry.clone(), offer, theirs));
        let (send, connection) = runtime::grpc::client_settings()
            .handshake(ours)
            .await
            .unwrap();
        let connection = tokio::spawn(async move {
            let _ = connection.await;
        });
        for _ in 0..tunnels {
            tokio::spawn(offer_tunnels(send.clone(), script.clone()));
        }
        while registry.tunnels(AgentId(id)).idle < tunnels {
            tokio::task::yield_now().await;
        }
        Self(connection)
    }

    pub(crate) fn cut(&self) {
        self.0.abort();
    }
}

/// The side of kas: its agents' port, without authentication.
async fn serve_agent(registry: Arc<Registry>, offer: Offer, stream: DuplexStream) {
    let mut http2: runtime::grpc::ServerConnection<_> = runtime::grpc::server_settings()
        .handshake(stream)
        .await
        .unwrap();
    let mut idle = FuturesUnordered::new();
    loop {
        tokio::select! {
            accepted = http2.accept() => {
                let Some(Ok((request, respond))) = accepted else { break };
                let deframer = Deframer::new(Encoding::Identity);
                let stream = Stream { recv: request.into_body(), deframer, respond };
                idle.push(registry.park(offer.clone(), stream));
            }
            Some(_) = idle.next(), if !idle.is_empty() => {}
        }
    }
    while idle.next().await.is_some() {}
}

async fn offer_tunnels(send: SendRequest, script: Script) {
    loop {
        let Ok(mut send) = send.clone().ready().await else {
            return;
        };
        let request = Request::post("http://kas/Connect").body(()).unwrap();
        let Ok((response, send)) = send.send_request(request, false) else {
            return;
        };
        let Ok(response) = response.await else { return };
        let mut asked = Asked {
            head: http_request::Header::default(),
            metadata: Meta::new(),
            send,
            recv: response.into_body(),
            deframer: Deframer::new(Encoding::Identity),
        };
        match asked.next().await {
            Next::Info(metadata) => asked.metadata = metadata,
            _ => return,
        }
        let Next::Http(http_request::Message::Header(head)) = asked.next().await else {
            panic!("a request begins with its header")
        };
        asked.head = head;
        script(asked).await;
    }
}

/// What kas sends on a tunnel.
#[allow(clippy::large_enum_variant, reason = "one at a time")]
#[derive(Debug, PartialEq)]
pub(crate) enum Next {
    Info(Meta),
    Http(http_request::Message),
    CloseSend,
    End(tonic::Code),
    Broken,
}

/// A request that kas made.
pub(crate) struct Asked {
    pub(crate) head: http_request::Header,
    /// That of the call.
    pub(crate) metadata: Meta,
    send: SendStream,
    recv: h2::RecvStream,
    deframer: Deframer,
}

impl Asked {
    pub(crate) fn request(&self) -> &prototool::HttpRequest {
        self.head.request.as_ref().unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Vec<String> {
        let values = metadata::values(&self.request().header, name);
        values
            .map(|value| String::from_utf8(value.to_vec()).unwrap())
            .collect()
    }

    pub(crate) async fn next(&mut self) -> Next {
        loop {
            if let Some(message) = self.deframer.next_message().unwrap() {
                return match ConnectResponse::decode(message).unwrap().msg.unwrap() {
                    connect_response::Msg::RequestInfo(info) => {
                        assert!([METHOD, RESUME, ANSWERS].contains(&&*info.method_name));
                        Next::Info(info.meta)
                    }
                    connect_response::Msg::Message(message) => {
                        Next::Http(HttpRequest::decode(message.data).unwrap().message.unwrap())
                    }
                    connect_response::Msg::CloseSend(_) => Next::CloseSend,
                };
            }
            match poll_fn(|cx| self.recv.poll_data(cx)).await {
                Some(Ok(data)) => {
                    let _ = self.recv.flow_control().release_capacity(data.len());
                    self.deframer.push(data);
                }
                Some(Err(_)) => return Next::Broken,
                None => {
                    let trailers = self
                        .recv
                        .trailers()
                        .await
                        .ok()
                        .flatten()
                        .unwrap_or_default();
                    let status = tonic::Status::from_header_map(&trailers);
                    return Next::End(status.map_or(tonic::Code::Unknown, |s| s.code()));
                }
            }
        }
    }

    /// The whole body, up to the half-close.
    pub(crate) async fn body(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            match self.next().await {
                Next::Http(http_request::Message::Data(data)) => {
                    assert!(data.data.len() <= 64 << 10);
                    body.extend_from_slice(&data.data);
                }
                Next::Http(http_request::Message::Trailer(_)) => {
                    assert_eq!(self.next().await, Next::CloseSend);
                    return body;
                }
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    pub(crate) async fn answer(&mut self, status: i32, headers: &[(&str, &str)]) {
        let headers = headers.iter();
        let headers = headers.map(|(name, value)| entry(name, value.as_bytes()));
        self.answer_raw(status, headers.collect()).await;
    }

    /// Switches to this protocol on a connection that can be resumed, of which so much was received.
    pub(crate) async fn switch(&mut self, protocol: &str, received: u64) {
        let headers = [("Upgrade", protocol), ("Connection", "Upgrade")];
        let headers = headers.map(|(name, value)| entry(name, value.as_bytes()));
        let method = RESUME.to_owned();
        let resume = ResumeAnswer { method, received };
        self.answer_with(101, headers.to_vec(), Some(resume)).await;
        self.trailer().await;
    }

    pub(crate) async fn segment(&mut self, segment: Segment) {
        self.http(http_response::Message::Segment(segment)).await;
    }

    /// The same with headers of any bytes.
    pub(crate) async fn answer_raw(&mut self, status: i32, header: RawMeta) {
        self.answer_with(status, header, None).await;
    }

    async fn answer_with(&mut self, status: i32, header: RawMeta, resume: Option<ResumeAnswer>) {
        self.say(Msg::Header(Header::default())).await;
        let response = prototool::HttpResponse {
            status_code: status,
            status: String::new(),
            header,
        };
        let header = http_response::Header {
            response: Some(response),
            resume,
        };
        self.http(http_response::Message::Header(header)).await;
    }

    pub(crate) async fn data(&mut self, data: impl Into<Bytes>) {
        let data = http_response::Data { data: data.into() };
        self.http(http_response::Message::Data(data)).await;
    }

    pub(crate) async fn upgrade_data(&mut self, data: impl Into<Bytes>) {
        let data = http_response::UpgradeData { data: data.into() };
        self.http(http_response::Message::UpgradeData(data)).await;
    }

    pub(crate) async fn trailer(&mut self) {
        self.http(http_response::Message::Trailer(http_response::Trailer {}))
            .await;
    }

    /// Ends the call well and waits until kas does so too.
    pub(crate) async fn end(mut self) -> Next {
        self.say(Msg::Trailer(Trailer::default())).await;
        let _ = self.send.send_data(Frame::default(), true);
        self.over().await
    }

    /// Begins an answer that has no head.
    pub(crate) async fn begin(&mut self) {
        self.say(Msg::Header(Header::default())).await;
    }

    /// Ends the call with an error.
    pub(crate) async fn fail(self, code: tonic::Code, message: &str) {
        self.fail_with(code, message, vec![]).await;
    }

    /// The same of a request that was not taken.
    pub(crate) async fn has_not_taken_it(mut self) {
        self.begin().await;
        let details = vec![proto::not_taken::detail()];
        self.fail_with(tonic::Code::NotFound, "never came", details)
            .await;
    }

    async fn fail_with(mut self, code: tonic::Code, message: &str, details: Vec<prost_types::Any>) {
        self.say(Msg::Trailer(Trailer::default())).await;
        let message = message.to_owned();
        let status = Status {
            code: code as i32,
            message,
            details,
        };
        self.say(Msg::Error(Error {
            status: Some(status),
        }))
        .await;
        let _ = self.send.send_data(Frame::default(), true);
        self.over().await;
    }

    /// Says something that may be out of order.
    pub(crate) async fn say(&mut self, msg: Msg) {
        let _ = send_frame(
            &mut self.send,
            Frame::message(&ConnectRequest { msg: Some(msg) }),
        )
        .await;
    }

    /// Breaks the stream.
    pub(crate) fn reset(mut self) {
        self.send.send_reset(h2::Reason::INTERNAL_ERROR);
    }

    /// Ends its side of the stream in order, though the answer is not over: as load balancers do it.
    pub(crate) fn end_early(mut self) {
        let _ = self.send.send_data(Frame::default(), true);
    }

    /// Gives the stream back, as if nothing had come on it.
    pub(crate) fn give_back(mut self) {
        self.send.send_reset(h2::Reason::REFUSED_STREAM);
    }

    /// Waits for the end of the stream.
    pub(crate) async fn over(&mut self) -> Next {
        loop {
            if let end @ (Next::End(_) | Next::Broken) = self.next().await {
                return end;
            }
        }
    }

    async fn http(&mut self, message: http_response::Message) {
        let data = HttpResponse {
            message: Some(message),
        }
        .encode_to_vec()
        .into();
        self.say(Msg::Message(Message { data })).await;
    }

    /// Answers with this body, whole.
    pub(crate) async fn reply(
        mut self,
        status: i32,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) {
        let mut body = body.into();
        self.answer(status, headers).await;
        while !body.is_empty() {
            let chunk = body.split_to(body.len().min(32 << 10));
            self.data(chunk).await;
        }
        self.trailer().await;
        self.end().await;
    }
}

/// A header with one value.
pub(crate) fn entry(name: &str, value: &[u8]) -> RawEntry {
    metadata::entry(name.to_owned(), [value.to_vec()])
}
