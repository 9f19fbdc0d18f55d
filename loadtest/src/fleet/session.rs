//! One connection of a simulated agent and everything on it, in one task.

use std::{future::poll_fn, pin::Pin, sync::Arc, time::Duration};

use anyhow::Context as _;
use futures_util::{StreamExt, stream::FuturesUnordered};
use prost::Message as _;
use proto::{
    agent::{
        agent_configuration::rpc::{ConfigurationRequest, ConfigurationResponse},
        agent_registrar::rpc::RegisterRequest,
    },
    frame::Frame,
};
use runtime::{backoff::Backoff, connect, grpc::SendRequest, io::ByteStream};
use tokio::time::sleep;

use super::{
    agent::Agent,
    answer,
    call::Call,
    pool::Pool,
    rpc::{self, Failure, Inbound},
    stats::Gauge,
    tunnel,
};

const REGISTER_PATH: &str = "/gitlab.agent.agent_registrar.rpc.AgentRegistrar/Register";
const CONFIGURATION_PATH: &str =
    "/gitlab.agent.agent_configuration.rpc.AgentConfiguration/GetConfiguration";
/// How often agentk registers again.
const REGISTER_INTERVAL: Duration = Duration::from_secs(300);
/// How long agentk waits after a failed call other than a tunnel.
const RETRY_BACKOFF: Duration = Duration::from_secs(10);

const UNAUTHENTICATED: i32 = 16;

type Work = FuturesUnordered<Pin<Box<dyn Future<Output = Step> + Send>>>;

/// Something on the connection that came to its next point.
#[derive(Debug)]
enum Step {
    /// An idle tunnel got a call, or ended.
    Tunnel(Result<Option<Call>, Failure>),
    /// A call was answered, or broke.
    Answered(Result<u64, Failure>),
    /// It is time to open a tunnel again.
    Reopen,
    /// The agent was registered, or not.
    Registered(Result<(), Failure>),
    /// The configuration stream ended.
    Configured(Result<(), Failure>),
}

/// An HTTP/2 connection to kas with an agent's calls on it.
pub(super) struct Session {
    agent: Arc<Agent>,
    send: SendRequest,
    connection: h2::client::Connection<ByteStream, Frame>,
    work: Work,
    pool: Pool,
    backoff: Backoff,
    leaving: bool,
}

/// Why a session no longer serves.
pub(super) enum End {
    /// The connection broke.
    Lost,
    /// kas asked to leave; what is in progress goes on.
    Leaving(Box<Session>),
}

impl Session {
    /// Dials kas and opens the first calls; tunnels after these delays, if any.
    pub(super) async fn open(
        agent: Arc<Agent>,
        attempt: usize,
        delays: Vec<Duration>,
    ) -> anyhow::Result<Self> {
        let fleet = &agent.fleet;
        let _permit = fleet.dialling.acquire().await?;
        let connected = connect::connect(agent.target(attempt), &agent.options).await?;
        let handshake = runtime::grpc::client_settings().handshake(connected.io);
        let (send, connection) = tokio::time::timeout(agent.options.timeout, handshake)
            .await
            .context("the HTTP/2 handshake took too long")??;
        let mut session = Self {
            pool: Pool::new(fleet.tunnels),
            agent: agent.clone(),
            send,
            connection,
            work: FuturesUnordered::new(),
            backoff: Backoff::new(Duration::from_secs(1), Duration::from_secs(20), 1.6),
            leaving: false,
        };
        let mut delays = delays.into_iter();
        for _ in 0..session.pool.initial() {
            match delays.next() {
                Some(delay) => session.reopen_after(delay),
                None => session.open_tunnel(),
            }
        }
        session.configure(Duration::ZERO);
        session.register(Duration::ZERO);
        Ok(session)
    }

    /// Serves until the connection breaks or kas asks to leave.
    pub(super) async fn run(mut self) -> End {
        let fleet = self.agent.fleet.clone();
        let _connected = Gauge::new(&fleet.stats.connected);
        let mut registered = None;
        while !self.leaving {
            let Some(step) = self.step().await else {
                return End::Lost;
            };
            if matches!(step, Step::Registered(Ok(()))) && registered.is_none() {
                registered = Some(Gauge::new(&fleet.stats.registered));
            }
            self.handle(step);
        }
        End::Leaving(Box::new(self))
    }

    /// Finishes the calls in progress after kas asked to leave.
    pub(super) async fn drain(mut self) {
        while let Some(step) = self.step().await {
            self.handle(step);
        }
    }

    /// The next step, or `None` when the connection is over.
    async fn step(&mut self) -> Option<Step> {
        // Work first, so that all answers that are ready leave in one write.
        tokio::select! {
            biased;
            Some(step) = self.work.next(), if !self.work.is_empty() => Some(step),
            _ = poll_fn(|cx| Pin::new(&mut self.connection).poll(cx)) => None,
        }
    }

    fn handle(&mut self, step: Step) {
        match step {
            Step::Tunnel(Ok(Some(taken))) => {
                for _ in 0..self.pool.taken() {
                    self.open_tunnel();
                }
                self.answer(taken);
            }
            Step::Tunnel(Ok(None)) => {
                if self.pool.lost() {
                    self.open_tunnel();
                }
            }
            Step::Tunnel(Err(failure)) => {
                self.failed("tunnel", &failure);
                if self.pool.lost() {
                    self.reopen_later();
                }
            }
            Step::Answered(result) => {
                self.answered(result);
                self.pool.finished();
                self.open_tunnel();
            }
            Step::Reopen => self.open_tunnel(),
            Step::Registered(result) => {
                let after = self.pause("register", result, REGISTER_INTERVAL);
                self.register(after);
            }
            Step::Configured(result) => {
                let after = self.pause("configuration", result, Duration::ZERO);
                self.configure(after);
            }
        }
    }

    fn open_tunnel(&mut self) {
        if !self.leaving {
            let waiting = tunnel::wait(self.agent.clone(), self.send.clone());
            self.work
                .push(Box::pin(async { Step::Tunnel(waiting.await) }));
        }
    }

    fn reopen_later(&mut self) {
        let delay = self.backoff.next(rand::random());
        self.reopen_after(delay);
    }

    fn reopen_after(&mut self, delay: Duration) {
        self.work.push(Box::pin(async move {
            sleep(delay).await;
            Step::Reopen
        }));
    }

    fn answer(&mut self, taken: Call) {
        let fleet = self.agent.fleet.clone();
        self.work.push(Box::pin(async move {
            Step::Answered(match &fleet.backend {
                Some(backend) => backend.serve(taken).await,
                None => answer::serve(&fleet.script, taken).await,
            })
        }));
    }

    fn answered(&mut self, result: Result<u64, Failure>) {
        use std::sync::atomic::Ordering::Relaxed;
        match result {
            Ok(length) => {
                self.backoff.reset();
                let stats = &self.agent.fleet.stats;
                stats.requests.fetch_add(1, Relaxed);
                stats.body_bytes.fetch_add(length, Relaxed);
            }
            Err(failure) => self.failed("call", &failure),
        }
    }

    fn register(&mut self, after: Duration) {
        if self.leaving {
            return;
        }
        let (agent, send) = (self.agent.clone(), self.send.clone());
        self.work.push(Box::pin(async move {
            sleep(after).await;
            let request = Frame::message(&RegisterRequest {
                agent_meta: Some(agent.meta()),
                pod_id: agent.pod_id,
            });
            Step::Registered(rpc::unary(send, &agent.head, REGISTER_PATH, request).await)
        }));
    }

    fn configure(&mut self, after: Duration) {
        if !self.leaving {
            let (agent, send) = (self.agent.clone(), self.send.clone());
            self.work.push(Box::pin(async move {
                sleep(after).await;
                Step::Configured(configuration(&agent, send).await)
            }));
        }
    }

    /// How long to wait after a call that ended with `result`.
    fn pause(&mut self, call: &str, result: Result<(), Failure>, well: Duration) -> Duration {
        match result {
            Ok(()) => well,
            Err(failure) => {
                self.failed(call, &failure);
                RETRY_BACKOFF
            }
        }
    }

    fn failed(&mut self, call: &str, failure: &Failure) {
        if let Failure::GoingAway = failure {
            self.leaving = true;
        } else {
            let stats = &self.agent.fleet.stats;
            if matches!(failure, Failure::Status(UNAUTHENTICATED)) {
                stats
                    .refused
                    .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
            stats.failed(&format!("{call}: {failure}"));
        }
    }
}

/// Receives configurations until kas ends the stream.
async fn configuration(agent: &Agent, send: SendRequest) -> Result<(), Failure> {
    let request = Frame::message(&ConfigurationRequest {
        agent_meta: Some(agent.meta()),
        skip_register: true,
        ..Default::default()
    });
    let (response, _stream) =
        rpc::open(send, &agent.head, CONFIGURATION_PATH, request, true).await?;
    let mut inbound = Inbound::accept(response).await?;
    while let Some(message) = inbound.message().await? {
        ConfigurationResponse::decode(message)?;
        let received = &agent.fleet.stats.configurations;
        received.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
    Ok(())
}
