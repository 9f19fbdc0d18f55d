//! `kas agent …`

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Subcommand;
use control_plane::standalone::{
    Editable,
    change::ChangeError,
    edit,
    file::AgentEntry,
    names::{AgentName, LabelText},
    registration,
    tokens::TokenKind,
    view,
};
use jiff::Timestamp;
use proto::clusters::rpc::Refusal;
use serde::Serialize;

use super::{
    CommandError, FileArg, FleetFilter, Output, ServerArgs, View,
    access::labels,
    connected::{Process, Server},
    duration, fleet,
    join::{JoinTokenArgs, join_token, revoke_join_tokens},
    new_token, now,
    output::{Format, JoinTokenView, TokenView, summary},
    receptive::KeyPairFiles,
};

/// `kas agent` subcommands.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Create an agent and print its token, which is shown only once
    Create {
        /// Name of the agent: lower-case letters, digits and `-`
        name: String,
        /// Id of the agent; by default the highest id in use plus one
        #[arg(long)]
        id: Option<i64>,
        /// URL at which kas dials the agent: grpc://, grpcs://, ws:// or wss://. Generates a key pair
        /// beside the file; agentk needs the public key
        #[arg(long, value_name = "URL")]
        receptive: Option<String>,
    },
    /// List agents: of the file if there is one, else of a running server
    List {
        /// Configuration file of a running server; lists each agent's connected processes as well
        #[arg(long, value_name = "FILE", conflicts_with_all = ["server", "context"])]
        configuration_file: Option<PathBuf>,
        /// The server to ask.
        #[command(flatten)]
        server: ServerArgs,
        /// Which agents.
        #[command(flatten)]
        filter: FleetFilter,
        /// Output format
        #[arg(short, long, value_enum, default_value_t)]
        output: View,
    },
    /// Show an agent: of the file if there is one, else of a running server
    Show {
        /// Name of the agent; of a running server its number too
        name: String,
        /// The server to ask.
        #[command(flatten)]
        server: ServerArgs,
        /// Output format
        #[arg(short, long, value_enum, default_value_t)]
        output: View,
    },
    /// List what happened to an agent's connections, the newest first, of a running server
    Records {
        /// Number or name of the agent
        agent: String,
        /// The server to ask.
        #[command(flatten)]
        server: ServerArgs,
        /// Output format
        #[arg(short, long, value_enum, default_value_t)]
        output: View,
    },
    /// Create a join token and print it, with the commands that install an agentk which obtains its own token by it
    JoinToken {
        /// Name of the agent
        name: String,
        /// How it is made.
        #[command(flatten)]
        args: JoinTokenArgs,
        /// Revoke the join token that the agent has, instead
        #[arg(long)]
        revoke: bool,
    },
    /// Create a new token and print it; the old one stays valid for a grace period
    RotateToken {
        /// Name of the agent
        name: String,
        /// How long the old token stays valid; 0 revokes it immediately
        #[arg(long, default_value = "24h", value_parser = duration::parse)]
        grace: Duration,
    },
    /// Pin an agent to a cluster, so that tunnels of other clusters are refused; the first cluster that connects is
    /// pinned by itself
    Pin {
        /// Name of the agent; its number if agents are registered in GitLab
        name: String,
        /// UID of the cluster's namespace kube-system
        cluster: String,
        /// Configuration file of a running server
        #[arg(long, value_name = "FILE")]
        configuration_file: PathBuf,
    },
    /// Remove an agent's pin: the next cluster that connects is pinned
    Unpin {
        /// Name of the agent; its number if agents are registered in GitLab
        name: String,
        /// Configuration file of a running server
        #[arg(long, value_name = "FILE")]
        configuration_file: PathBuf,
    },
    /// Set and remove labels of an agent, by which rules can choose it
    Label {
        /// Name of the agent
        name: String,
        /// Label to set; may be repeated
        #[arg(value_name = "KEY=VALUE", required_unless_present = "remove")]
        labels: Vec<String>,
        /// Label to remove; may be repeated
        #[arg(long, value_name = "KEY")]
        remove: Vec<String>,
    },
    /// Revoke all tokens of an agent, so that it cannot connect
    Revoke {
        /// Name of the agent
        name: String,
    },
}

pub(super) async fn run(
    argument: &FileArg,
    action: Action,
    output: &mut Output<'_>,
) -> Result<(), CommandError> {
    let file = &*argument.path();
    match action {
        Action::List {
            configuration_file: None,
            server,
            filter,
            output: view,
        } if asks_server(argument, &server, &filter)? => {
            fleet::agents::list(&server, filter, view, output).await
        }
        Action::Show {
            name,
            server,
            output: view,
        } if asks_server(argument, &server, &FleetFilter::default())? => {
            fleet::agents::show(&server, name, view, output).await
        }
        Action::Records {
            agent,
            server,
            output: view,
        } => fleet::agents::records(&server, agent, view, output).await,
        Action::Create {
            name,
            id,
            receptive,
        } => match receptive {
            None => create(file, &name, id, output),
            Some(url) => create_receptive(file, &name, id, &url, output),
        },
        Action::List {
            output: format,
            configuration_file: None,
            ..
        } => list(&view(file)?, format.of_file(), output),
        Action::List {
            output: format,
            configuration_file: Some(server),
            ..
        } => list_connected(&server, format.of_file(), output).await,
        Action::Show {
            name,
            output: format,
            ..
        } => show(&view(file)?, &name, format.of_file(), output),
        Action::JoinToken {
            name, revoke: true, ..
        } => revoke_join_tokens(file, &name, output),
        Action::JoinToken { name, args, .. } => join_token(file, &name, args, output),
        Action::RotateToken { name, grace } => rotate(file, &name, grace, output),
        Action::Revoke { name } => revoke(file, &name, output),
        Action::Label {
            name,
            labels,
            remove,
        } => label(file, &name, &labels, &remove, output),
        Action::Pin {
            name,
            cluster,
            configuration_file,
        } => pin(&configuration_file, &name, &cluster, output).await,
        Action::Unpin {
            name,
            configuration_file,
        } => pin(&configuration_file, &name, "", output).await,
    }
}

/// Pins an agent, or removes its pin.
async fn pin(
    file: &Path,
    name: &str,
    cluster: &str,
    output: &mut Output<'_>,
) -> Result<(), CommandError> {
    let refuse = |error| CommandError::Server {
        file: file.to_owned(),
        error,
    };
    let server = Server::of(file).map_err(refuse)?;
    let id = server.agent_id(name).map_err(refuse)?;
    server.pin(id, cluster).await.map_err(refuse)?;
    output.hint(&match cluster {
        "" => {
            format!("Agent {name} is pinned to no cluster: the next one that connects is pinned.")
        }
        _ => format!("Agent {name} is pinned to cluster {cluster}; tunnels of others are refused."),
    })
}

/// Whether a running server is asked and not the file: if one is named, or there is no file. A file that is named wins.
fn asks_server(
    file: &FileArg,
    server: &ServerArgs,
    filter: &FleetFilter,
) -> Result<bool, CommandError> {
    match &file.file {
        Some(_) if filter.is_given() => Err(CommandError::Usage(
            "--state, --name and --label are for agents of a running server: leave --file out, or name no filter"
                .to_owned(),
        )),
        Some(_) => Ok(false),
        None => Ok(server.is_named() || filter.is_given() || !file.path().exists()),
    }
}

fn create(
    file: &Path,
    name: &str,
    id: Option<i64>,
    output: &mut Output<'_>,
) -> Result<(), CommandError> {
    let (token, entry) = new_token(TokenKind::Agent, now())?;
    let id = edit(file, |document: &mut Editable| {
        document.create_agent(name, id, entry)
    })?;
    output.result(token.expose())?;
    output.hint(&format!(
        "Agent {name} has id {id} in {}. Its token above is shown only once: write it to a \
         file and start `agentk --kas-address URL --token-file FILE`.",
        file.display()
    ))
}

fn label(
    file: &Path,
    name: &str,
    set: &[String],
    remove: &[String],
    output: &mut Output<'_>,
) -> Result<(), CommandError> {
    let set = labels(set)?;
    let remove = remove.iter().cloned().map(LabelText::try_from);
    let remove = remove.collect::<Result<Vec<_>, _>>()?;
    let now = edit(file, |document: &mut Editable| -> Result<_, ChangeError> {
        document.label_agent(name, set, &remove)?;
        Ok(document.agent(name)?.labels.clone())
    })?;
    let now = now
        .iter()
        .map(|(key, value)| format!("{}={}", key.as_str(), value.as_str()));
    let now: Vec<_> = now.collect();
    output.hint(&match now.is_empty() {
        true => format!("Agent {name} has no labels."),
        false => format!("Agent {name} has the labels {}.", now.join(", ")),
    })
}

fn create_receptive(
    file: &Path,
    name: &str,
    id: Option<i64>,
    url: &str,
    output: &mut Output<'_>,
) -> Result<(), CommandError> {
    let pair = KeyPairFiles::of(file, &AgentName::try_from(name.to_owned())?);
    let public = pair.create()?;
    let (token, entry) = new_token(TokenKind::Agent, now())?;
    let id = edit(file, |document: &mut Editable| {
        let id = document.create_agent(name, id, entry)?;
        document.receive_agent(name, pair.entry(url))?;
        Ok::<_, ChangeError>(id)
    });
    let id = id.inspect_err(|_| pair.remove())?;
    output.result(token.expose())?;
    output.hint(&format!(
        "Agent {name} has id {id} in {}, and kas dials it at {url}. Its token above is shown only \
         once: write it to a file, {public} to another (a copy is in {}), and start `agentk \
         --token-file FILE --api-jwt-file OTHER`. {} is for kas alone.",
        file.display(),
        pair.public.display(),
        pair.private.display(),
    ))
}

fn list(document: &Editable, format: Format, output: &mut Output<'_>) -> Result<(), CommandError> {
    let now = now();
    let agents = document.agents.iter().map(|it| &it.value);
    match format {
        Format::Json => {
            let views: Vec<AgentView<'_>> = agents.map(|it| AgentView::of(it, now)).collect();
            output.json(&views)
        }
        Format::Table if document.agents.is_empty() => {
            output.hint("There are no agents: create one with `kas agent create NAME`.")
        }
        Format::Table => {
            let row = |it: &AgentEntry<_>| {
                let dialled = it.receptive.as_ref().map(|it| it.url.clone());
                [
                    it.id.to_string(),
                    it.name.as_str().to_owned(),
                    summary(&it.tokens, now),
                    dialled.unwrap_or_default(),
                ]
            };
            let rows: Vec<_> = agents.map(row).collect();
            output.table(["ID", "NAME", "TOKENS", "DIALLED AT"], &rows)
        }
    }
}

/// Lists the agents of a running server, one line per process.
async fn list_connected(
    file: &Path,
    format: Format,
    output: &mut Output<'_>,
) -> Result<(), CommandError> {
    let refuse = |error| CommandError::Server {
        file: file.to_owned(),
        error,
    };
    let server = Server::of(file).map_err(refuse)?;
    let document = view(server.agents().map_err(refuse)?)?;
    let ids: Vec<_> = document.agents.iter().map(|it| it.value.id).collect();
    let processes = server.connected(&ids).await.map_err(refuse)?;
    let clusters = server.clusters(&ids).await.map_err(refuse)?;
    let now = now();
    let agents = document.agents.iter().map(|it| {
        let own = processes.iter().filter(|one| one.agent == it.value.id);
        let connected = Some(own.cloned().collect());
        let cluster = clusters.iter().find(|one| one.agent_id == it.value.id);
        AgentView {
            connected,
            cluster: cluster
                .map(|it| it.pinned.clone())
                .filter(|it| !it.is_empty()),
            refused: cluster.and_then(|it| it.refusal.as_ref()).map(Refused::of),
            ..AgentView::of(&it.value, now)
        }
    });
    let agents: Vec<_> = agents.collect();
    match format {
        Format::Json => output.json(&agents),
        Format::Table => {
            let rows: Vec<_> = agents.iter().flat_map(AgentView::rows).collect();
            let head = [
                "ID",
                "NAME",
                "VERSION",
                "POD",
                "KUBERNETES",
                "CLUSTER",
                "CONNECTED SINCE",
            ];
            output.table(head, &rows)
        }
    }
}

fn show(
    document: &Editable,
    name: &str,
    format: Format,
    output: &mut Output<'_>,
) -> Result<(), CommandError> {
    let agent = document.agent(name)?;
    let view = AgentView::of(agent, now());
    match format {
        Format::Json => output.json(&view),
        Format::Table => {
            let project = view.project.map_or("none", |it| it.as_str());
            output.result(&format!(
                "id:       {}\nname:     {}\nproject:  {project}",
                view.id, view.name
            ))?;
            let config = if agent.config.is_some() {
                "in the file"
            } else {
                "none"
            };
            let dialled = view.dialled_at.map_or("no, it dials", String::as_str);
            output.result(&format!("dialled:  {dialled}\nconfig:   {config}\n"))?;
            let rows: Vec<_> = view.tokens.iter().map(TokenView::row).collect();
            output.table(["TOKEN CREATED", "EXPIRES", "STATE"], &rows)?;
            if view.join_tokens.is_empty() {
                return Ok(());
            }
            let rows: Vec<_> = view.join_tokens.iter().map(JoinTokenView::row).collect();
            output.result("")?;
            output.table(["JOIN TOKEN CREATED", "EXPIRES", "STATE"], &rows)
        }
    }
}

fn rotate(
    file: &Path,
    name: &str,
    grace: Duration,
    output: &mut Output<'_>,
) -> Result<(), CommandError> {
    let made = registration::rotate_token(file, name, grace, now())?;
    output.result(made.token.expose())?;
    output.hint(&rotated("Agent", name, made.ended, grace))
}

/// Describes what a rotation did to the old tokens.
pub(super) fn rotated(kind: &str, name: &str, ended: usize, grace: Duration) -> String {
    let grace_text = duration::show(grace);
    let old = match (ended, grace.is_zero()) {
        (0, _) => format!("the previous token, if any, stays valid for {grace_text}"),
        (_, true) => "older tokens are no longer accepted".to_owned(),
        (_, false) => format!(
            "of two older tokens the oldest is no longer accepted, the other stays valid for at most {grace_text}"
        ),
    };
    format!("{kind} {name} has the new token above, which is shown only once; {old}.")
}

fn revoke(file: &Path, name: &str, output: &mut Output<'_>) -> Result<(), CommandError> {
    let count = registration::revoke(file, name)?;
    output.hint(&format!(
        "Revoked {count} token(s) of agent {name}, which can no longer connect: `kas agent rotate-token {name}` creates a new one."
    ))
}

#[derive(Serialize)]
struct AgentView<'a> {
    id: i64,
    name: &'a str,
    project: Option<&'a String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dialled_at: Option<&'a String>,
    tokens: Vec<TokenView>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    join_tokens: Vec<JoinTokenView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connected: Option<Vec<Process>>,
    /// The UID of the cluster that it is pinned to.
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<Refused>,
}

/// What was refused lately.
#[derive(Serialize)]
struct Refused {
    at: Timestamp,
    reason: String,
    remote_addr: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    cluster: String,
}

impl Refused {
    fn of(refusal: &Refusal) -> Self {
        Self {
            at: Timestamp::from_millisecond(refusal.at_ms).unwrap_or_default(),
            reason: refusal.reason.clone(),
            remote_addr: refusal.remote_addr.clone(),
            cluster: refusal.cluster.clone(),
        }
    }
}

impl<'a> AgentView<'a> {
    fn of<C>(agent: &'a AgentEntry<C>, now: Timestamp) -> Self {
        Self {
            id: agent.id,
            name: agent.name.as_str(),
            project: agent.project.as_ref().map(|it| &it.path),
            dialled_at: agent.receptive.as_ref().map(|it| &it.url),
            tokens: TokenView::of(&agent.tokens, now),
            join_tokens: JoinTokenView::of(&agent.join_tokens, now),
            connected: None,
            cluster: None,
            refused: None,
        }
    }

    /// One line per process, or a single one for an agent without any; and one for what was refused lately.
    fn rows(&self) -> Vec<[String; 7]> {
        let cluster = self.cluster.as_deref().unwrap_or_default();
        let row = |[version, pod, kubernetes, cluster, since]: [&str; 5]| {
            let rest = [version, pod, kubernetes, cluster, since].map(str::to_owned);
            let [version, pod, kubernetes, cluster, since] = rest;
            let (id, name) = (self.id.to_string(), self.name.to_owned());
            [id, name, version, pod, kubernetes, cluster, since]
        };
        let of = |it: &Process| {
            let since = it.since.to_string();
            row([&it.version, &it.pod, &it.kubernetes, cluster, &since])
        };
        let mut rows: Vec<_> = match self.connected.as_deref().unwrap_or_default() {
            [] => vec![row(["", "", "", cluster, "not connected"])],
            processes => processes.iter().map(of).collect(),
        };
        if let Some(refused) = &self.refused {
            let at = refused.at.strftime("%Y-%m-%dT%H:%M:%SZ");
            let why = format!(
                "refused {at} from {}: {}",
                refused.remote_addr, refused.reason
            );
            rows.push(row(["", "", "", &refused.cluster, &why]));
        }
        rows
    }
}
