//! nginx with the locations of GitLab's Linux package: kas shares a host with GitLab, and whatever has another path
//! goes to GitLab.

use std::path::Path;

use anyhow::Result;

use super::Nginx;
use crate::{certs::Certs, ports};

/// The ports of kas, behind it.
#[derive(Debug, Clone, Copy)]
pub struct Site {
    /// Where agents connect.
    pub agents: u16,
    /// Where users connect; its prefix is `/`.
    pub users: u16,
    /// Where GitLab calls.
    pub api: u16,
}

/// A running nginx.
#[derive(Debug)]
pub struct PackageNginx {
    nginx: Nginx,
    plain: u16,
    internal: u16,
}

impl PackageNginx {
    /// Starts it.
    ///
    /// # Errors
    /// When it refuses its configuration or does not listen.
    pub async fn start(site: Site, certs: &Certs, folder: &Path) -> Result<Self> {
        let none = "return 404 \"GitLab has no such page\";";
        Self::beside(none, site, certs, folder).await
    }

    /// The same, with the files of a folder in the place of GitLab's pages.
    ///
    /// # Errors
    /// When it refuses its configuration or does not listen.
    pub async fn with_pages(
        pages: &Path,
        site: Site,
        certs: &Certs,
        folder: &Path,
    ) -> Result<Self> {
        let pages = format!(
            "root {}; types {{ text/html html; text/javascript js; }}",
            pages.display()
        );
        Self::beside(&pages, site, certs, folder).await
    }

    async fn beside(pages: &str, site: Site, certs: &Certs, folder: &Path) -> Result<Self> {
        let [port, plain, internal] = [(); 3].map(|()| ports::free());
        let (certificate, key) = (certs.certificate.display(), certs.key.display());
        let Site { agents, users, api } = site;
        let locations = format!(
            r#"    location /gitlab.agent. {{
      grpc_pass grpc://127.0.0.1:{agents};
      grpc_read_timeout 60s;
      grpc_send_timeout 60s;
    }}
    location = /-/kubernetes-agent/ {{
      proxy_pass http://127.0.0.1:{agents};
      proxy_http_version 1.1;
      proxy_set_header Host $host;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
    }}
    location /-/kubernetes-agent/k8s-proxy/ {{
      proxy_pass http://127.0.0.1:{users}/;
      proxy_http_version 1.1;
      proxy_set_header Host $host;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
      proxy_read_timeout 7200s;
      proxy_buffering off;
      proxy_request_buffering off;
    }}
    location / {{
      {pages}
    }}"#
        );
        let servers = format!(
            r#"  server {{
    listen 127.0.0.1:{port} ssl http2;
    ssl_certificate {certificate};
    ssl_certificate_key {key};
{locations}
  }}
  server {{
    listen 127.0.0.1:{plain};
{locations}
  }}
  server {{
    listen 127.0.0.1:{internal} http2;
    location /gitlab.agent. {{
      grpc_pass grpc://127.0.0.1:{api};
      grpc_read_timeout 60s;
      grpc_send_timeout 60s;
    }}
    location / {{
      return 404 "no such page";
    }}
  }}"#
        );
        Ok(Self {
            nginx: Nginx::serving(port, &servers, folder).await?,
            plain,
            internal,
        })
    }

    /// Its port with TLS, for HTTP/2 and HTTP/1.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.nginx.port()
    }

    /// Its port in clear, for HTTP/1.1.
    #[must_use]
    pub fn plain(&self) -> u16 {
        self.plain
    }

    /// The internal endpoint, where GitLab calls: HTTP/2 in clear.
    #[must_use]
    pub fn internal(&self) -> u16 {
        self.internal
    }

    /// Its last lines of log.
    #[must_use]
    pub fn tail(&self) -> String {
        self.nginx.tail()
    }
}
