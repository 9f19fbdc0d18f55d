//! The kas of the tests: takes tunnels and makes calls through them.

use std::{future::poll_fn, sync::Arc};

use bytes::Bytes;
use http::HeaderMap;
use prost::Message as _;
use proto::{
    ProcessMethod,
    agent::{
        grpctool::{HttpRequest, HttpResponse, http_request, http_response},
        prototool,
        reverse_tunnel::rpc::{
            self, CloseSend, ConnectRequest, ConnectResponse, RequestInfo, connect_request,
            connect_response::Msg,
        },
    },
    frame::{Deframer, Encoding, Frame, FrameBuilder},
    sequence::{CONNECT_REQUEST, END, FieldNumber, HTTP, Sequence},
};
use runtime::grpc::{self, SendResponse, SendStream};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Mutex, mpsc},
    task::JoinSet,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::Status;

pub struct Kas {
    pub address: String,
    tunnels: Arc<Mutex<mpsc::Receiver<Tunnel>>>,
    ends: Ends,
    _listening: AbortOnDropHandle<()>,
}

/// How each connection, by its number, is told to end.
type Ends = Arc<std::sync::Mutex<Vec<End>>>;

#[derive(Clone, Default)]
struct End {
    leave: CancellationToken,
    cut: CancellationToken,
}

pub struct Tunnel {
    pub headers: HeaderMap,
    recv: h2::RecvStream,
    deframer: Deframer,
    order: Sequence,
    respond: SendResponse,
    pub connection: usize,
    /// The method by which the agent is asked for its answers.
    pub answers: String,
}

impl Kas {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("grpc://{}", listener.local_addr().unwrap());
        let (found, tunnels) = mpsc::channel(1000);
        let ends = Ends::default();
        let known = ends.clone();
        let listening = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            for number in 0.. {
                let (socket, _) = listener.accept().await.unwrap();
                let end = End::default();
                known.lock().unwrap().push(end.clone());
                let found = found.clone();
                connections.spawn(async move {
                    tokio::select! {
                        () = connection(socket, number, found, end.leave) => {}
                        () = end.cut.cancelled() => {}
                    }
                });
            }
        });
        Self {
            address,
            tunnels: Arc::new(Mutex::new(tunnels)),
            ends,
            _listening: AbortOnDropHandle::new(listening),
        }
    }

    /// Says on a connection that it will end.
    pub fn leave(&self, connection: usize) {
        self.ends.lock().unwrap()[connection].leave.cancel();
    }

    /// Cuts all connections that there are.
    pub fn cut_all(&self) {
        for end in self.ends.lock().unwrap().iter() {
            end.cut.cancel();
        }
    }

    /// Cuts a connection.
    pub fn cut(&self, connection: usize) {
        self.ends.lock().unwrap()[connection].cut.cancel();
    }

    /// An idle tunnel.
    pub async fn tunnel(&self) -> Tunnel {
        super::within(async { self.tunnels.lock().await.recv().await.unwrap() }).await
    }

    /// An idle tunnel for each of so many connections, those newer than `after`.
    pub async fn tunnels_on(&self, connections: usize, after: Option<usize>) -> Vec<Tunnel> {
        let mut found: Vec<Tunnel> = Vec::new();
        while found.len() < connections {
            let tunnel = self.tunnel().await;
            let new = after.is_none_or(|after| tunnel.connection > after);
            if new && found.iter().all(|it| it.connection != tunnel.connection) {
                found.push(tunnel);
            }
        }
        found
    }

    /// Begins a call.
    pub async fn call(&self, header: http_request::Header) -> Call {
        let mut call = self.tunnel().await.take();
        call.send(vec![
            info(METHOD),
            http(http_request::Message::Header(header)),
        ]);
        call
    }
}

/// Bytes of an answer that are sent before any is read: fewer than a real kas takes, and than an agent keeps.
pub const WINDOW: u32 = 1 << 18;

pub const METHOD: &str = "/gitlab.agent.kubernetes_api.rpc.KubernetesApi/MakeRequest";

async fn connection(
    socket: TcpStream,
    number: usize,
    found: mpsc::Sender<Tunnel>,
    leave: CancellationToken,
) {
    let mut settings = grpc::server_settings();
    settings.initial_window_size(WINDOW);
    let mut http2: h2::server::Connection<_, Frame> = settings.handshake(socket).await.unwrap();
    loop {
        let accepted = tokio::select! {
            accepted = http2.accept() => accepted,
            () = leave.cancelled(), if !leave.is_cancelled() => { http2.graceful_shutdown(); continue }
        };
        let Some(Ok((request, respond))) = accepted else {
            return;
        };
        let (head, recv) = request.into_parts();
        if !head.uri.path().ends_with("/Connect") {
            grpc::refuse(respond, &Status::unimplemented("not here")).unwrap();
            continue;
        }
        let tunnel = Tunnel {
            headers: head.headers,
            recv,
            deframer: Deframer::new(Encoding::Identity),
            order: Sequence::new(CONNECT_REQUEST),
            respond,
            connection: number,
            answers: String::new(),
        };
        let found = found.clone();
        tokio::spawn(async move {
            let mut tunnel = tunnel;
            if let Some(connect_request::Msg::Descriptor(offered)) = tunnel.message().await {
                let services = offered.agent_descriptor.unwrap().services;
                let mut paths = services
                    .iter()
                    .map(|it| format!("/{}/{}", it.name, it.methods[0].name));
                tunnel.answers = paths.find(|it| ProcessMethod::Answers.is(it)).unwrap();
                let _ = found.send(tunnel).await;
            }
        });
    }
}

impl Tunnel {
    /// What the agent says next; none at the end.
    pub async fn message(&mut self) -> Option<connect_request::Msg> {
        loop {
            if let Some(message) = self.deframer.next_message().unwrap() {
                let msg = ConnectRequest::decode(message).unwrap().msg.unwrap();
                self.order.step(msg.field_number()).unwrap();
                return Some(msg);
            }
            let data = poll_fn(|cx| self.recv.poll_data(cx)).await?;
            let data = data.ok()?;
            let _ = self.recv.flow_control().release_capacity(data.len());
            self.deframer.push(data);
        }
    }

    pub fn take(mut self) -> Call {
        let send = self
            .respond
            .send_response(grpc::response_headers(), false)
            .unwrap();
        Call { tunnel: self, send }
    }

    /// Ends it with a status before any call.
    pub fn end(mut self, status: &Status) {
        let mut send = self
            .respond
            .send_response(grpc::response_headers(), false)
            .unwrap();
        send.send_trailers(grpc::trailers(status)).unwrap();
    }
}

pub struct Call {
    tunnel: Tunnel,
    pub send: SendStream,
}

/// All that came back.
#[derive(Debug, Default)]
pub struct Answer {
    pub head: Option<prototool::HttpResponse>,
    pub body: Vec<u8>,
    pub upgrade: Vec<u8>,
    pub error: Option<proto::google::rpc::Status>,
}

impl Call {
    pub fn send(&mut self, messages: Vec<Msg>) {
        let builder = messages
            .into_iter()
            .fold(FrameBuilder::default(), |builder, msg| {
                builder.message(&ConnectResponse { msg: Some(msg) })
            });
        self.send.send_data(builder.build(), false).unwrap();
    }

    /// Sends with backpressure; false when the agent is not interested any more.
    pub async fn feed(&mut self, message: Msg) -> bool {
        let frame = Frame::message(&ConnectResponse { msg: Some(message) });
        grpc::send_frame(&mut self.send, frame).await.is_ok()
    }

    /// The request is over.
    pub fn close(&mut self) {
        self.send(vec![
            http(http_request::Message::Trailer(http_request::Trailer {})),
            Msg::CloseSend(CloseSend {}),
        ]);
    }

    /// The next message of the answer.
    pub async fn next(&mut self) -> Option<connect_request::Msg> {
        super::within(self.tunnel.message()).await
    }

    /// Reads up to the agent's half-close; what is out of order panics.
    pub async fn answer(mut self) -> Answer {
        let answer = self.read().await;
        self.tunnel.order.step(END).unwrap();
        let _ = self.send.send_trailers(grpc::ok_trailers());
        answer
    }

    pub async fn read(&mut self) -> Answer {
        let mut answer = Answer::default();
        let mut order = Sequence::new(HTTP);
        while let Some(msg) = self.next().await {
            match msg {
                connect_request::Msg::Message(rpc::Message { data }) => {
                    let message = HttpResponse::decode(data).unwrap().message.unwrap();
                    order.step(message.field_number()).unwrap();
                    match message {
                        http_response::Message::Header(header) => answer.head = header.response,
                        http_response::Message::Data(data) => answer.body.extend(data.data),
                        http_response::Message::UpgradeData(data) => {
                            answer.upgrade.extend(data.data)
                        }
                        http_response::Message::Trailer(_) | http_response::Message::Segment(_) => {
                        }
                    }
                }
                connect_request::Msg::Error(error) => answer.error = error.status,
                _ => {}
            }
        }
        answer
    }
}

pub fn info(method: &str) -> Msg {
    Msg::RequestInfo(RequestInfo {
        method_name: method.to_owned(),
        ..RequestInfo::default()
    })
}

pub fn http(message: http_request::Message) -> Msg {
    let request = HttpRequest {
        message: Some(message),
    };
    Msg::Message(rpc::Message {
        data: request.encode_to_vec().into(),
    })
}

pub fn data(bytes: Bytes) -> Msg {
    http(http_request::Message::Data(http_request::Data {
        data: bytes,
    }))
}

pub fn upgrade_data(bytes: Bytes) -> Msg {
    http(http_request::Message::UpgradeData(
        http_request::UpgradeData { data: bytes },
    ))
}

/// The head of a request without a body.
pub fn request(method: &str, path: &str) -> http_request::Header {
    http_request::Header {
        request: Some(prototool::HttpRequest {
            method: method.to_owned(),
            url_path: path.to_owned(),
            ..prototool::HttpRequest::default()
        }),
        extra: None,
        content_length: Some(0),
        resume: None,
        keep: None,
    }
}
