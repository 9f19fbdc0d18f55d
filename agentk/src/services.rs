//! The table of services that kas can call through a tunnel.

use std::{borrow::Cow, fmt::Debug, sync::Arc};

use futures_util::future::BoxFuture;
use proto::agent::reverse_tunnel::info::{AgentDescriptor, Method, Service as ServiceDescriptor};
use tonic::Status;

use crate::call::{CallError, Inbound, Outbound};

/// Serves the calls of one method.
pub(crate) trait Service: Debug + Send + Sync {
    /// Serves a call up to its end or its failure. Dropping the future cancels the call.
    fn serve<'a>(
        &'a self,
        inbound: &'a mut Inbound,
        outbound: &'a mut Outbound,
    ) -> BoxFuture<'a, Result<(), CallError>>;
}

/// Services by the path of their method.
#[derive(Debug, Clone, Default)]
pub(crate) struct Services(Vec<(Cow<'static, str>, Arc<dyn Service>)>);

impl Services {
    /// Adds a service under a path, `/package.Service/Method`.
    pub(crate) fn add(
        &mut self,
        path: impl Into<Cow<'static, str>>,
        service: impl Service + 'static,
    ) {
        self.0.push((path.into(), Arc::new(service)));
    }

    /// The service of a path.
    ///
    /// # Errors
    /// UNIMPLEMENTED as a gRPC server says it.
    pub(crate) fn find(&self, path: &str) -> Result<&dyn Service, Status> {
        let found = self.0.iter().find(|(known, _)| *known == path);
        found
            .map(|(_, service)| service.as_ref())
            .ok_or_else(|| self.unimplemented(path))
    }

    fn unimplemented(&self, path: &str) -> Status {
        let (service, method) = split(path);
        if self.0.iter().any(|(known, _)| split(known).0 == service) {
            Status::unimplemented(format!("unknown method {method} for service {service}"))
        } else {
            Status::unimplemented(format!("unknown service {service}"))
        }
    }

    /// What kas learns of each tunnel.
    pub(crate) fn descriptor(&self) -> AgentDescriptor {
        let services = self.0.iter().map(|(path, _)| {
            let (service, method) = split(path);
            ServiceDescriptor {
                name: service.to_owned(),
                methods: vec![Method {
                    name: method.to_owned(),
                }],
            }
        });
        AgentDescriptor {
            services: services.collect(),
        }
    }
}

/// Service and method of a path.
fn split(path: &str) -> (&str, &str) {
    let path = path.trim_start_matches('/');
    path.rsplit_once('/').unwrap_or(("", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Nothing;

    impl Service for Nothing {
        fn serve<'a>(
            &'a self,
            _: &'a mut Inbound,
            _: &'a mut Outbound,
        ) -> BoxFuture<'a, Result<(), CallError>> {
            Box::pin(async { Ok(()) })
        }
    }

    #[test]
    fn a_path_that_is_not_in_the_table_is_unimplemented() {
        let mut services = Services::default();
        services.add("/a.Service/Known", Nothing);

        assert!(services.find("/a.Service/Known").is_ok());
        let message = |path: &str| {
            services
                .find(path)
                .map(drop)
                .unwrap_err()
                .message()
                .to_owned()
        };
        assert_eq!(
            message("/a.Service/Other"),
            "unknown method Other for service a.Service"
        );
        assert_eq!(message("/b.Service/Known"), "unknown service b.Service");
        let descriptor = services.descriptor();
        assert_eq!(descriptor.services[0].name, "a.Service");
        assert_eq!(descriptor.services[0].methods[0].name, "Known");
    }
}
