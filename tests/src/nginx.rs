//! nginx in front of kas.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};
use tokio::process::Command;

use crate::{certs::Certs, parts, ports, process::Process, wait::until_accepts};

/// A running nginx that ends TLS, for agents (WebSocket and gRPC) and users alike.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
    port: u16,
}

impl Nginx {
    /// Starts nginx in front of a port of loopback.
    ///
    /// # Errors
    /// When it refuses its configuration or does not listen.
    pub async fn start(target: u16, certs: &Certs, folder: &Path) -> Result<Self> {
        let port = ports::free();
        let home = folder.join(format!("nginx-{port}"));
        std::fs::create_dir_all(&home)?;
        let file = home.join("nginx.conf");
        std::fs::write(&file, configuration(port, target, certs, &home))?;
        let program = parts::program("nginx").context("no nginx")?;
        let mut command = Command::new(program);
        command.arg("-p").arg(&home).arg("-c").arg(&file);
        let process = Process::spawn(&format!("nginx-{port}"), &mut command, folder)?;
        let listens = until_accepts(port, Duration::from_secs(10)).await;
        listens.with_context(|| process.tail())?;
        Ok(Self { process, port })
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its last lines of log.
    #[must_use]
    pub fn tail(&self) -> String {
        self.process.tail()
    }
}

/// Connections that are silent for 60 s are cut, by nginx's own default; calls may last an hour.
fn configuration(port: u16, target: u16, certs: &Certs, home: &Path) -> String {
    let (certificate, key) = (certs.certificate.display(), certs.key.display());
    let home = home.display();
    format!(
        r#"daemon off;
worker_processes 1;
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
  server {{
    listen 127.0.0.1:{port} ssl http2;
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    location /gitlab.agent. {{
      grpc_pass grpc://127.0.0.1:{target};
      grpc_read_timeout 1h;
      grpc_send_timeout 1h;
      client_body_timeout 1h;
    }}
    location /api {{
      proxy_pass http://127.0.0.1:{target};
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
      proxy_pass http://127.0.0.1:{target};
      proxy_http_version 1.1;
      proxy_set_header Host $host;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
      proxy_buffering off;
      proxy_request_buffering off;
    }}
  }}
}}
"#
    )
}
