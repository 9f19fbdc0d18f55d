//! An agent of our own making that tells objects as it likes.

use std::{future::poll_fn, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use bytes::Bytes;
use h2::SendStream;
use prost::Message as _;
use proto::{
    agent::reverse_tunnel::{
        info::{AgentDescriptor, Method, Service},
        rpc::{ConnectRequest, Descriptor, Header, Message, connect_request::Msg},
    },
    graph::rpc::{Object, Update},
};
use tokio::task::JoinSet;

use crate::wire::{Wire, framed};

const CONNECT: &str = "/gitlab.agent.reverse_tunnel.rpc.ReverseTunnel/Connect";
/// How often something changes.
const CHANGE_INTERVAL: Duration = Duration::from_millis(500);
/// Tunnels on one connection: no more calls are let in at once before kas knows whose they are.
const OF_A_STRANGER: usize = 8;
/// How soon another tunnel is opened.
const AGAIN_INTERVAL: Duration = Duration::from_millis(100);
/// Bytes of an object that takes room.
const LARGE_BYTES: usize = 64 << 10;
/// Objects of one message.
const TOGETHER: usize = 15;

/// What an agent tells those who watch.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Tells {
    /// One object, which changes again and again.
    Changes,
    /// Objects without end, and never that these are all.
    WithoutEnd,
}

/// Tunnels for watches, open as long as this lives.
#[derive(Debug)]
pub(crate) struct GraphAgent {
    _tunnels: JoinSet<()>,
}

impl GraphAgent {
    /// Connects with so many tunnels, each of which serves one watch after the other.
    pub(crate) async fn connect(
        port: u16,
        token: &str,
        tells: Tells,
        count: usize,
    ) -> Result<Self> {
        let mut tunnels = JoinSet::new();
        let mut wire = Arc::new(Wire::open(port).await?);
        for number in 1..=count {
            if number % OF_A_STRANGER == 0 {
                wire = Arc::new(Wire::open(port).await?);
            }
            let (wire, token) = (wire.clone(), token.to_owned());
            tunnels.spawn(async move {
                while !wire.is_closed() {
                    let served = open(&wire, &token, tells).await;
                    served.err();
                    tokio::time::sleep(AGAIN_INTERVAL).await;
                }
            });
        }
        Ok(Self { _tunnels: tunnels })
    }
}

/// Opens a tunnel, waits for a call, and answers until nobody hears.
async fn open(wire: &Wire, token: &str, tells: Tells) -> Result<()> {
    let mut tunnel = wire.call(CONNECT, token).await?;
    tunnel.send.send_data(encoded(descriptor()), false)?;
    let mut asked = tunnel.response.await?.into_body();
    asked.data().await.context("no call")??;
    let mut send = tunnel.send;
    let header = Header { meta: Vec::new() };
    tell(&mut send, Msg::Header(header)).await?;
    for number in 1.. {
        let update = match tells {
            Tells::Changes => {
                if number > 1 {
                    tokio::time::sleep(CHANGE_INTERVAL).await;
                }
                Update {
                    changed: vec![object(0, number, 0)],
                    synced: true,
                    version: number.to_string(),
                    ..Update::default()
                }
            }
            Tells::WithoutEnd => {
                let each = |at| object(number * TOGETHER + at, 1, LARGE_BYTES);
                Update {
                    changed: (0..TOGETHER).map(each).collect(),
                    ..Update::default()
                }
            }
        };
        let data = update.encode_to_vec().into();
        tell(&mut send, Msg::Message(Message { data })).await?;
    }
    Ok(())
}

fn object(uid: usize, version: usize, bytes: usize) -> Object {
    Object {
        kind: "ConfigMap".into(),
        name: format!("name-{uid}"),
        uid: format!("uid-{uid}"),
        resource_version: version.to_string(),
        json: vec![b'x'; bytes].into(),
        ..Object::default()
    }
}

fn descriptor() -> Msg {
    let service = Service {
        name: "gitlab.agent.kas_graph.rpc.Source".into(),
        methods: vec![Method {
            name: "Watch".into(),
        }],
    };
    Msg::Descriptor(Descriptor {
        agent_descriptor: Some(AgentDescriptor {
            services: vec![service],
        }),
    })
}

async fn tell(send: &mut SendStream<Bytes>, msg: Msg) -> Result<()> {
    let mut bytes = encoded(msg);
    while !bytes.is_empty() {
        send.reserve_capacity(bytes.len());
        let granted = poll_fn(|cx| send.poll_capacity(cx)).await;
        let granted = granted.context("nobody hears")??.min(bytes.len());
        send.send_data(bytes.split_to(granted), false)?;
    }
    Ok(())
}

fn encoded(msg: Msg) -> Bytes {
    let message = ConnectRequest { msg: Some(msg) };
    framed(false, &message.encode_to_vec())
}
