//! `kas top`: fleet, replicas and requests of a running server, on a terminal, asked again every two seconds.

mod screen;

use std::{io::IsTerminal as _, time::Duration};

use admin::{
    Client,
    v1::{
        GetStatusRequest, ListAgentsRequest, ListAgentsResponse, ListReplicasRequest,
        ListReplicasResponse, ListRequestsRequest, ListRequestsResponse,
    },
};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval},
};

use super::{CommandError, server::ServerArgs};
use screen::{Picture, Screen, Tab};

/// How often the server is asked.
const INTERVAL: Duration = Duration::from_secs(2);
/// How long it may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the keyboard's task looks whether it is still wanted.
const KEY_POLL: Duration = Duration::from_millis(200);
/// Keys that wait to be read.
const KEYS: usize = 16;
/// Rows of each list.
const ROWS: u32 = 200;

/// Runs until `q`.
pub(super) async fn run(server: &ServerArgs) -> Result<(), CommandError> {
    if !std::io::stdout().is_terminal() {
        return Err(CommandError::Usage(
            "kas top needs a terminal (`kubectl exec -it …`); elsewhere use `kas agent list` and `kas request list`"
                .to_owned(),
        ));
    }
    let mut client = server.connect().await?;
    let mut screen = Screen::default();
    screen.show(ask(&mut client, Tab::Fleet).await);
    let mut terminal = ratatui::try_init().map_err(CommandError::Output)?;
    let shown = follow(&mut terminal, &mut screen, &mut client, server).await;
    ratatui::restore();
    shown
}

async fn follow(
    terminal: &mut ratatui::DefaultTerminal,
    screen: &mut Screen,
    client: &mut Client,
    server: &ServerArgs,
) -> Result<(), CommandError> {
    let (pressed, mut keys) = mpsc::channel(KEYS);
    // Reading the keyboard blocks; the thread ends when nobody hears it any more.
    std::thread::spawn(move || read_keys(&pressed));
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        terminal
            .draw(|frame| screen.draw(frame))
            .map_err(CommandError::Output)?;
        tokio::select! {
            key = keys.recv() => match key {
                None => return Ok(()),
                Some(key) if is_end(&key) => return Ok(()),
                Some(key) => if screen.press(key.code) {
                    screen.show(ask(client, screen.tab()).await);
                },
            },
            _ = ticks.tick() => {
                let answer = ask(client, screen.tab()).await;
                // The replica that answered may have left.
                if answer.is_err() && let Ok(again) = server.connect().await {
                    *client = again;
                }
                screen.show(answer);
            }
        }
    }
}

fn read_keys(pressed: &mpsc::Sender<KeyEvent>) {
    while !pressed.is_closed() {
        match event::poll(KEY_POLL) {
            Ok(false) => {}
            Ok(true) => match event::read() {
                Ok(Event::Key(key)) if key.kind == KeyEventKind::Press => {
                    if pressed.blocking_send(key).is_err() {
                        return;
                    }
                }
                Ok(_) => {}
                Err(_) => return,
            },
            Err(_) => return,
        }
    }
}

fn is_end(key: &KeyEvent) -> bool {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    matches!(key.code, KeyCode::Char('q') | KeyCode::Esc)
        || (control && key.code == KeyCode::Char('c'))
}

/// What a tab shows.
async fn ask(client: &mut Client, tab: Tab) -> Result<Picture, CommandError> {
    let asked = async {
        let status = client
            .grpc()
            .get_status(GetStatusRequest {})
            .await?
            .into_inner();
        let mut picture = Picture {
            status,
            at: Some(Instant::now()),
            ..Picture::default()
        };
        match tab {
            Tab::Fleet => picture.agents = agents(client).await?,
            Tab::Replicas => picture.replicas = replicas(client).await?,
            Tab::Requests => picture.requests = requests(client).await?,
        }
        Ok(picture)
    };
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, asked).await;
    answer.unwrap_or_else(|_| {
        let words = format!("no answer within {ANSWER_TIMEOUT:?}");
        Err(tonic::Status::deadline_exceeded(words).into())
    })
}

/// Those that are away come first.
async fn agents(client: &mut Client) -> Result<ListAgentsResponse, CommandError> {
    let of = |state: &str| ListAgentsRequest {
        state: state.to_owned(),
        page_size: ROWS,
        ..ListAgentsRequest::default()
    };
    let mut all = client
        .grpc()
        .list_agents(of("disconnected"))
        .await?
        .into_inner();
    let connected = client
        .grpc()
        .list_agents(of("connected"))
        .await?
        .into_inner();
    all.agents.extend(connected.agents);
    all.total += connected.total;
    Ok(all)
}

async fn replicas(client: &mut Client) -> Result<ListReplicasResponse, CommandError> {
    let asked = client.grpc().list_replicas(ListReplicasRequest {});
    Ok(asked.await?.into_inner())
}

async fn requests(client: &mut Client) -> Result<ListRequestsResponse, CommandError> {
    let asked = client.grpc().list_requests(ListRequestsRequest {
        agent_id: 0,
        limit: ROWS,
    });
    Ok(asked.await?.into_inner())
}
