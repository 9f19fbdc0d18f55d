//! One Redis: in a container where a container engine runs, else a local process. Which of them is said aloud.
//! `TEST_REDIS_IMAGE` names another image than Redis' own.

use std::{io::Write as _, time::Duration};

use cluster_state::redis::{Address, RedisOptions, Servers};
use testcontainers::{
    ContainerAsync, GenericImage, ImageExt as _,
    core::{IntoContainerPort as _, WaitFor, client::docker_client_instance},
    runners::AsyncRunner as _,
};

use crate::server::Server;

const IMAGE: &str = "redis:7.2";
const PORT: u16 = 6379;
/// How long an engine may take to say that it is there.
const PROBE: Duration = Duration::from_secs(3);
/// How long an image may take to be fetched and started.
const START: Duration = Duration::from_secs(90);

/// A running Redis; dropping it ends it.
pub(crate) enum Single {
    Container(Box<ContainerAsync<GenericImage>>, Address),
    Process(Server),
}

impl Single {
    /// An empty one, for the test of this name.
    pub(crate) async fn start(test: &str) -> Self {
        match in_container().await {
            Ok((container, address)) => {
                say(&format!(
                    "{test}: Redis is the container {}",
                    container.id()
                ));
                Self::Container(Box::new(container), address)
            }
            Err(why) => {
                say(&format!("{test}: Redis is a local redis-server: {why}"));
                Self::Process(Server::start(&[]))
            }
        }
    }

    pub(crate) fn options(&self) -> RedisOptions {
        match self {
            Self::Container(_, address) => RedisOptions::new(Servers::Single(address.clone())),
            Self::Process(server) => server.options(),
        }
    }

    /// It answers nobody, and its connections stay open.
    pub(crate) async fn freeze(&self) {
        match self {
            Self::Container(container, _) => container.pause().await.unwrap(),
            Self::Process(server) => server.signal("-STOP"),
        }
    }

    /// It goes on.
    pub(crate) async fn thaw(&self) {
        match self {
            Self::Container(container, _) => container.unpause().await.unwrap(),
            Self::Process(server) => server.signal("-CONT"),
        }
    }
}

/// The error says what is lacking.
async fn in_container() -> Result<(ContainerAsync<GenericImage>, Address), String> {
    if std::env::var_os("REDIS_SERVER").is_some() {
        return Err("REDIS_SERVER names one".to_owned());
    }
    let probe = async {
        let engine = docker_client_instance()
            .await
            .map_err(|error| error.to_string())?;
        engine.ping().await.map_err(|error| error.to_string())
    };
    let probed = tokio::time::timeout(PROBE, probe).await;
    let probed = probed.unwrap_or_else(|_| Err(format!("no answer within {PROBE:?}")));
    probed.map_err(|why| format!("no container engine answers ({why})"))?;
    let image = std::env::var("TEST_REDIS_IMAGE").unwrap_or_else(|_| IMAGE.to_owned());
    let started = tokio::time::timeout(START, start(&image)).await;
    let started = started.unwrap_or_else(|_| Err(format!("not within {START:?}")));
    started.map_err(|why| format!("the container engine could not start {image} ({why})"))
}

async fn start(image: &str) -> Result<(ContainerAsync<GenericImage>, Address), String> {
    let text = |error: testcontainers::TestcontainersError| error.to_string();
    let (name, tag) = image.rsplit_once(':').unwrap_or((image, "latest"));
    let container = GenericImage::new(name, tag)
        .with_exposed_port(PORT.tcp())
        .with_wait_for(WaitFor::message_on_stdout("Ready to accept connections"))
        .with_cmd([
            "redis-server",
            "--bind",
            "0.0.0.0",
            "--protected-mode",
            "no",
            "--save",
            "",
        ])
        .start()
        .await
        .map_err(text)?;
    let address = Address {
        host: container.get_host().await.map_err(text)?.to_string(),
        port: container.get_host_port_ipv4(PORT).await.map_err(text)?,
    };
    Ok((container, address))
}

/// Writes a line past the capture of the test runner.
fn say(line: &str) {
    writeln!(std::io::stderr().lock(), "{line}").ok();
}
