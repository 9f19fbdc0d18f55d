//! A real OpenID provider, and a person who logs in there as a browser would.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Request, Response, header};
use serde_json::json;
use tests::{go, http::send, ports, process::Process};
use tokio::process::Command;

pub(crate) const PERSON: &str = "alice";
pub(crate) const EMAIL: &str = "alice@example.com";
pub(crate) const DEVICE_SECRET: &str = "device-secret";
const PASSWORD: &str = "verysecure";

/// The provider; dropping it stops it.
pub(crate) struct Provider {
    pub(crate) url: String,
    _process: Process,
}

impl Provider {
    /// Starts it; its ID tokens live so long.
    pub(crate) async fn start(folder: &Path, lifetime: Duration) -> Result<Self> {
        let program = go::build("oidc").await?;
        let users = folder.join("users.json");
        let person = json!({"ID": PERSON, "Username": PERSON, "Password": PASSWORD, "FirstName": "Alice",
            "LastName": "A", "Email": EMAIL, "EmailVerified": true, "PreferredLanguage": "en"});
        std::fs::write(&users, json!({ PERSON: person }).to_string())?;
        let port = ports::free();
        let mut command = Command::new(program);
        command
            .args(["-port", &port.to_string(), "-users"])
            .arg(&users)
            .arg(format!("-id-token-lifetime={}s", lifetime.as_secs()));
        Ok(Self {
            url: format!("http://localhost:{port}"),
            _process: Process::listening("provider", &mut command, port, folder).await?,
        })
    }

    /// Follows the URL that `kas login` printed, fills in the form, and goes where the browser is sent.
    pub(crate) async fn log_in(&self, url: &str) -> Result<()> {
        let form = location(&get(url).await?)?;
        let id = form.split("authRequestID=").nth(1).context(form.clone())?;
        let fields = format!("id={id}&username={PERSON}&password={PASSWORD}");
        let callback = location(&self.post("/login/username", fields).await?)?;
        let back = location(&get(&self.absolute(&callback)).await?)?;
        ensure!(back.starts_with("http://localhost:"), "{back}");
        // Somebody who does not know the state is nobody.
        let stranger = back.replace("state=", "state=x");
        ensure!(get(&stranger).await?.status() == 404);
        let page = get(&back).await?;
        ensure!(page.status().is_success(), "{page:?}");
        Ok(())
    }

    /// Enters the code of a device and allows it.
    pub(crate) async fn allow_device(&self, code: &str) -> Result<()> {
        let fields = format!("user_code={code}&username={PERSON}&password={PASSWORD}");
        let page = self.post("/device/login", fields).await?;
        let cookie = page.headers().get(header::SET_COOKIE);
        let cookie = cookie.with_context(|| format!("{page:?}"))?.to_str()?;
        let cookie = cookie.split(';').next().unwrap_or_default();
        let request = Request::get(self.absolute("/device/confirm?action=allowed"))
            .header(header::COOKIE, cookie)
            .body(Bytes::new())?;
        let page = send(request).await?;
        ensure!(page.status().is_success(), "{page:?}");
        Ok(())
    }

    async fn post(&self, path: &str, fields: String) -> Result<Response<Bytes>> {
        let request = Request::post(self.absolute(path))
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(fields.into())?;
        send(request).await
    }

    fn absolute(&self, path: &str) -> String {
        match path.starts_with('/') {
            true => format!("{}{path}", self.url),
            false => path.to_owned(),
        }
    }
}

async fn get(url: &str) -> Result<Response<Bytes>> {
    send(Request::get(url).body(Bytes::new())?).await
}

fn location(answer: &Response<Bytes>) -> Result<String> {
    let location = answer.headers().get(header::LOCATION);
    let location = location.with_context(|| format!("no redirect: {answer:?}"))?;
    Ok(location.to_str()?.to_owned())
}
