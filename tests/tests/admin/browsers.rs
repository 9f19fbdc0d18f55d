//! Many browsers on the page: each listens and lists, a user's requests go on meanwhile, and whoever is one too many is told
//! so.

use anyhow::{Context, Result, bail, ensure};
use futures_util::future::try_join_all;
use tests::{
    http::{self as client, Socket},
    kas::Options,
    ports,
    rig::{Rig, RigAgent},
    wait::until,
};
use tokio::task::JoinSet;

use super::{LIMIT, admin_section};

const BROWSERS: usize = 100;
/// Listeners of one caller: all who are on this machine are one.
const MAX_LISTENERS: usize = 200;

/// A kas with an agent, and where its admin API is.
async fn rig() -> Result<(Rig, RigAgent, u16)> {
    let port = ports::free();
    let section = admin_section(port, "");
    let options = Options {
        more: &section,
        ..Options::default()
    };
    let rig = Rig::start_with_options(options).await?;
    let agent = rig.agent("prod").await?;
    Ok((rig, agent, port))
}

/// Listens to what changes; `None` if there are too many listeners.
async fn listen(port: u16) -> Result<Option<Socket>> {
    loop {
        let mut socket = Socket::open(port).await?;
        let asked = format!("GET /v1/events HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n");
        socket.write(asked.as_bytes()).await?;
        let head = socket.read_until("\r\n\r\n", LIMIT).await?;
        if head.starts_with("HTTP/1.1 200") {
            socket.read_until(": listening\n\n", LIMIT).await?;
            return Ok(Some(socket));
        }
        ensure!(head.starts_with("HTTP/1.1 429"), "{head}");
        let words = socket.read_until("}", LIMIT).await?;
        if words.contains("too many listeners of this caller (limit: 200)") {
            return Ok(None);
        }
        // All who are here share the requests of a second.
        ensure!(words.contains("too many requests"), "{words}");
    }
}

/// Listens, and lists until there is a list.
async fn browse(port: u16) -> Result<Socket> {
    let events = listen(port).await?.context("there is room")?;
    let url = format!("http://127.0.0.1:{port}/v1/agents?page_size=500");
    let listed = async || {
        let answer = client::get(&url, "").await.ok()?;
        answer.status().is_success().then_some(())
    };
    until("a list", LIMIT, listed).await?;
    Ok(events)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_browsers_listen_and_list_and_one_too_many_is_told_so() -> Result<()> {
    let (rig, agent, port) = rig().await?;

    let browsers = try_join_all((0..BROWSERS).map(|_| browse(port)));
    let user = async {
        for _ in 0..50 {
            let answer = rig.get(&agent, "/version").await?;
            ensure!(answer.status().is_success(), "{answer:?}");
        }
        anyhow::Ok(())
    };
    let (mut listening, ()) = tokio::try_join!(browsers, user)?;
    while let Some(events) = listen(port).await? {
        listening.push(events);
        if listening.len() > MAX_LISTENERS {
            bail!("{} listen", listening.len());
        }
    }
    ensure!(listening.len() == MAX_LISTENERS, "{}", listening.len());

    // Whoever is there hears what happens, and a user is served.
    let _other = rig.agent("other").await?;
    for events in &mut listening {
        events.read_until("event: agent.connected\n", LIMIT).await?;
    }
    let answer = rig.get(&agent, "/version").await?;
    ensure!(answer.status().is_success(), "{answer:?}");
    drop(listening.pop());
    let room = async || listen(port).await.ok()?;
    until("the place of who has left", LIMIT, room).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_who_ask_at_once_are_in_no_users_way() -> Result<()> {
    let (rig, agent, port) = rig().await?;
    let mut clients = JoinSet::new();
    for _ in 0..100 {
        clients.spawn(async move {
            let (mut answered, mut refused) = (0, 0);
            for _ in 0..20 {
                let url = format!("http://127.0.0.1:{port}/v1/agents?page_size=500");
                match client::get(&url, "").await?.status().as_u16() {
                    200 => answered += 1,
                    429 | 503 => refused += 1,
                    other => anyhow::bail!("{other}"),
                }
            }
            anyhow::Ok((answered, refused))
        });
    }

    for _ in 0..100 {
        let answer = rig.get(&agent, "/version").await?;
        ensure!(answer.status().is_success(), "{answer:?}");
    }

    let (mut answered, mut refused) = (0, 0);
    while let Some(client) = clients.join_next().await {
        let (well, not) = client??;
        (answered, refused) = (answered + well, refused + not);
    }
    ensure!(answered > 100, "{answered} answered, {refused} refused");
    Ok(())
}
