//! `kas top`: fleet, replicas, sessions and requests of a running server, on a terminal, asked again every two seconds.

mod columns;
mod rows;
mod screen;

use std::{io::IsTerminal as _, time::Duration};

use admin::{
    Client,
    v1::{
        GetStatusRequest, ListAgentsRequest, ListAgentsResponse, ListReplicasRequest,
        ListRequestsRequest, ListSessionsRequest,
    },
};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use runtime::signal::Termination;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval},
};

use super::{CommandError, server::ServerArgs};
use screen::{List, Picture, Screen, Tab};

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

type Answer = Result<Picture, CommandError>;

/// Runs until `q`, Ctrl-C or a signal; the terminal is then as it was.
pub(super) async fn run(server: &ServerArgs) -> Result<(), CommandError> {
    if !std::io::stdout().is_terminal() {
        return Err(CommandError::Usage(
            "kas top needs a terminal (`kubectl exec -it …`); elsewhere use `kas agent list` and `kas request list`"
                .to_owned(),
        ));
    }
    // A server that is not there is said on the terminal as it was.
    let client = server.connect().await?;
    let mut signals = Termination::listen().map_err(CommandError::Output)?;
    let (wanted, tab) = watch::channel(Tab::default());
    let (answered, mut answers) = mpsc::channel(1);
    let mut terminal = ratatui::try_init().map_err(CommandError::Output)?;
    let ended = tokio::select! {
        ended = show(&mut terminal, &mut answers, &wanted) => ended,
        () = keep_asking(server, client, tab, &answered) => Ok(()),
        _ = signals.next() => Ok(()),
    };
    ratatui::restore();
    ended
}

/// Draws what is answered and what is chosen, until somebody leaves.
async fn show(
    terminal: &mut ratatui::DefaultTerminal,
    answers: &mut mpsc::Receiver<Answer>,
    wanted: &watch::Sender<Tab>,
) -> Result<(), CommandError> {
    let mut screen = Screen::default();
    let (pressed, mut events) = mpsc::channel(KEYS);
    // Reading the keyboard blocks; the thread ends when nobody hears it any more.
    std::thread::spawn(move || read_keyboard(&pressed));
    loop {
        terminal
            .draw(|frame| screen.draw(frame))
            .map_err(CommandError::Output)?;
        tokio::select! {
            event = events.recv() => match event {
                None => return Ok(()),
                Some(Event::Key(key)) if is_end(&key) => return Ok(()),
                Some(Event::Key(key)) => {
                    screen.press(key.code);
                    wanted.send_if_modified(|tab| std::mem::replace(tab, screen.tab()) != screen.tab());
                }
                // Its size is another one, perhaps.
                Some(_) => {}
            },
            Some(answer) = answers.recv() => screen.show(answer),
        }
    }
}

/// Asks for what is shown, at intervals and when something else is to be shown.
async fn keep_asking(
    server: &ServerArgs,
    mut client: Client,
    mut tab: watch::Receiver<Tab>,
    answered: &mpsc::Sender<Answer>,
) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let there = tokio::select! {
            _ = ticks.tick() => Ok(()),
            changed = tab.changed() => changed,
        };
        let wanted = *tab.borrow_and_update();
        let answer = ask(&mut client, wanted).await;
        // The replica that answered may have left.
        if answer.is_err()
            && let Ok(again) = server.connect().await
        {
            client = again;
        }
        if there.is_err() || answered.send(answer).await.is_err() {
            return;
        }
    }
}

fn read_keyboard(pressed: &mpsc::Sender<Event>) {
    while !pressed.is_closed() {
        match event::poll(KEY_POLL) {
            Ok(false) => {}
            Ok(true) => match event::read() {
                Ok(Event::Key(key)) if key.kind != KeyEventKind::Press => {}
                Ok(event @ (Event::Key(_) | Event::Resize(..))) => {
                    if pressed.blocking_send(event).is_err() {
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
async fn ask(client: &mut Client, tab: Tab) -> Answer {
    let asked = async {
        let status = client.grpc().get_status(GetStatusRequest {}).await?;
        let list = match tab {
            Tab::Fleet => List::Agents(agents(client).await?),
            Tab::Replicas => {
                let asked = client.grpc().list_replicas(ListReplicasRequest {});
                List::Replicas(asked.await?.into_inner())
            }
            Tab::Sessions => {
                let asked = client.grpc().list_sessions(ListSessionsRequest {
                    page_size: ROWS,
                    ..ListSessionsRequest::default()
                });
                List::Sessions(asked.await?.into_inner())
            }
            Tab::Requests => {
                let asked = client.grpc().list_requests(ListRequestsRequest {
                    agent_id: 0,
                    limit: ROWS,
                });
                List::Requests(asked.await?.into_inner())
            }
        };
        Ok(Picture {
            status: status.into_inner(),
            at: Instant::now(),
            list,
        })
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
