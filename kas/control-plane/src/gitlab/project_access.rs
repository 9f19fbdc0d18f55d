//! `verify_project_access`: whether an agent may read a project.

use futures_util::FutureExt;

use super::{
    super::{AuthError, Token},
    GitLab, cache_keys,
    call::{Call, Endpoint, Expect},
    client::Client,
    error::CallError,
};

const PATH: &str = "/api/v4/internal/kubernetes/verify_project_access";

impl GitLab {
    /// Whether the agent of a token may read the project of this path. An
    /// answer counts for five minutes, a no too.
    ///
    /// # Errors
    /// When GitLab cannot say.
    pub async fn may_read_project(&self, token: &Token, path: &str) -> Result<bool, AuthError> {
        let ask = |_| {
            let (inner, token, path) = (self.0.clone(), token.clone(), path.to_owned());
            async move {
                let answer = verify(&inner.client, &token, &path).await;
                answer.map_err(|error| AuthError::Unavailable(error.to_string()))
            }
            .boxed()
        };
        let key = cache_keys::of_project(token, path);
        self.0.projects.get(key, ask).await
    }
}

async fn verify(client: &Client, token: &Token, path: &str) -> Result<bool, CallError> {
    let call = Call {
        query: Some(("id", path.to_owned())),
        expect: Expect::Nothing,
        retried: false,
        ..Call::get(Endpoint::VerifyProjectAccess, PATH)
    };
    match client.call(&call.for_agent(token)).await {
        Ok(_) => Ok(true),
        Err(error) if error.refusal().is_some() => Ok(false),
        Err(error) => Err(error),
    }
}
