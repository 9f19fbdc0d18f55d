//! The methods that agents call.

use tonic::Status;

use super::Settings;

/// A method that is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Connect,
    GetConfiguration,
    Register,
    Unregister,
    Attach,
    ReconcileProjects,
    Report,
}

impl Method {
    /// The method of a path.
    ///
    /// # Errors
    /// UNIMPLEMENTED in grpc-go's words when it is not served here.
    pub(super) fn of(path: &str, settings: &Settings) -> Result<Self, Status> {
        match path {
            "/gitlab.agent.reverse_tunnel.rpc.ReverseTunnel/Connect" => Ok(Self::Connect),
            "/gitlab.agent.agent_configuration.rpc.AgentConfiguration/GetConfiguration" => {
                Ok(Self::GetConfiguration)
            }
            "/gitlab.agent.agent_registrar.rpc.AgentRegistrar/Register" => Ok(Self::Register),
            "/gitlab.agent.agent_registrar.rpc.AgentRegistrar/Unregister" => Ok(Self::Unregister),
            "/kas.receptive.rpc.Receptive/Attach" => Ok(Self::Attach),
            "/gitlab.agent.flux.rpc.GitLabFlux/ReconcileProjects" if settings.flux.is_some() => {
                Ok(Self::ReconcileProjects)
            }
            "/kas.events.rpc.Collector/Report" if settings.events.is_some() => Ok(Self::Report),
            path => Err(unknown(path)),
        }
    }

    /// Its name, for the log.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Connect => "Connect",
            Self::GetConfiguration => "GetConfiguration",
            Self::Register => "Register",
            Self::Unregister => "Unregister",
            Self::Attach => "Attach",
            Self::ReconcileProjects => "ReconcileProjects",
            Self::Report => "Report",
        }
    }
}

/// grpc-go's texts for methods that a server does not have.
fn unknown(path: &str) -> Status {
    let Some((service, method)) = path.trim_start_matches('/').rsplit_once('/') else {
        return Status::unimplemented(format!("malformed method name: {path:?}"));
    };
    match service {
        "gitlab.agent.reverse_tunnel.rpc.ReverseTunnel"
        | "gitlab.agent.agent_configuration.rpc.AgentConfiguration"
        | "gitlab.agent.agent_registrar.rpc.AgentRegistrar" => {
            Status::unimplemented(format!("unknown method {method} for service {service}"))
        }
        service => Status::unimplemented(format!("unknown service {service}")),
    }
}
