//! nginx in front of kas.

mod package;

use std::{fmt::Write, path::Path};

use anyhow::{Context, Result};
use tokio::process::Command;

use crate::{certs::Certs, parts, ports, process::Process};
pub use package::{PackageNginx, Site};

/// A running nginx that ends TLS, for agents (WebSocket and gRPC) and users alike.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
    port: u16,
}

impl Nginx {
    /// Starts nginx in front of these ports of loopback, in turns.
    ///
    /// # Errors
    /// When it refuses its configuration or does not listen.
    pub async fn start(targets: &[u16], certs: &Certs, folder: &Path) -> Result<Self> {
        let port = ports::free();
        Self::serving(port, &proxy(port, targets, certs), folder).await
    }

    /// Starts nginx with these servers, of which one listens on the port.
    ///
    /// # Errors
    /// When it refuses its configuration or does not listen.
    pub async fn serving(port: u16, servers: &str, folder: &Path) -> Result<Self> {
        let home = folder.join(format!("nginx-{port}"));
        std::fs::create_dir_all(&home)?;
        let file = home.join("nginx.conf");
        std::fs::write(&file, configuration(servers, &home))?;
        let program = parts::program("nginx").context("no nginx")?;
        let mut command = Command::new(program);
        command.arg("-p").arg(&home).arg("-c").arg(&file);
        let name = format!("nginx-{port}");
        let process = Process::listening(&name, &mut command, port, folder).await?;
        Ok(Self { process, port })
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Starts new workers; what the old ones still carry after two seconds is cut.
    ///
    /// # Errors
    /// When it has ended.
    pub async fn reload(&self) -> Result<()> {
        self.process.signal("HUP").await
    }

    /// Its last lines of log.
    #[must_use]
    pub fn tail(&self) -> String {
        self.process.tail()
    }
}

impl Drop for Nginx {
    /// Its workers would outlive a master that is killed.
    fn drop(&mut self) {
        let Some(master) = self.process.id() else {
            return;
        };
        let script = format!("kill -STOP {master} && pkill -KILL -P {master}");
        let killed = std::process::Command::new("sh")
            .args(["-c", &script])
            .status();
        if !killed.is_ok_and(|status| status.success()) {
            crate::parts::say("nginx: its workers could not be ended");
        }
    }
}

/// What all servers have in common.
fn configuration(servers: &str, home: &Path) -> String {
    let home = home.display();
    format!(
        r#"daemon off;
worker_processes 1;
worker_shutdown_timeout 2s;
user root;
pid {home}/nginx.pid;
error_log stderr info;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {home}/body;
  proxy_temp_path {home}/proxy;
  fastcgi_temp_path {home}/fastcgi;
  uwsgi_temp_path {home}/uwsgi;
  scgi_temp_path {home}/scgi;
  http2_max_concurrent_streams 1000;
  keepalive_requests 100000;
  client_max_body_size 0;
  map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
{servers}
}}
"#
    )
}

/// Connections that are silent for 60 s are cut, by nginx's own default; calls may last an hour.
fn proxy(port: u16, targets: &[u16], certs: &Certs) -> String {
    let mut servers = String::new();
    for target in targets {
        // Writing to a string cannot fail.
        let _ = write!(
            servers,
            "server 127.0.0.1:{target} max_fails=1 fail_timeout=1s; "
        );
    }
    let (certificate, key) = (certs.certificate.display(), certs.key.display());
    format!(
        r#"  upstream kas {{ {servers}}}
  server {{
    listen 127.0.0.1:{port} ssl http2;
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    location /gitlab.agent. {{
      grpc_pass grpc://kas;
      grpc_read_timeout 1h;
      grpc_send_timeout 1h;
      client_body_timeout 1h;
    }}
    location /api {{
      proxy_pass http://kas;
      proxy_http_version 1.1;
      proxy_set_header Host $host;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
      proxy_buffering off;
      proxy_request_buffering off;
      proxy_read_timeout 1h;
      proxy_send_timeout 1h;
    }}
    location / {{
      proxy_pass http://kas;
      proxy_http_version 1.1;
      proxy_set_header Host $host;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
      proxy_buffering off;
      proxy_request_buffering off;
    }}
  }}"#
    )
}
