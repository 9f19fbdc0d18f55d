//! The page of `glab cluster graph`: pictures (SVG) that take each other's place while it is open.

use std::{collections::BTreeSet, fmt, path::Path};

use anyhow::{Context, Result};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tests::{http::open, parts, process::Process};
use tokio::process::Command;

use super::SOON;

/// What its keys begin with: all objects of these tests are in one namespace.
const NAMESPACE: &str = "/namespaces/default.";

/// An open page.
pub(super) struct Page {
    body: Incoming,
    read: Vec<u8>,
    boundary: String,
}

impl Page {
    /// Opens it, whereupon `glab` asks kas.
    pub(super) async fn open(port: u16) -> Result<Self> {
        let page = Request::get(format!("http://127.0.0.1:{port}/"));
        let (head, mut body) = open(page.body(Bytes::new())?).await?.into_parts();
        let kind = head.headers.get("content-type");
        let kind = kind.context("no type")?.to_str()?;
        let boundary = kind.strip_prefix("multipart/x-mixed-replace;boundary=");
        let Some(boundary) = boundary else {
            let said = tokio::time::timeout(SOON, (&mut body).collect()).await??;
            let said = String::from_utf8_lossy(&said.to_bytes()).into_owned();
            anyhow::bail!("{}, {kind}: {said}", head.status);
        };
        Ok(Self {
            body,
            read: Vec::new(),
            boundary: format!("\r\n--{boundary}"),
        })
    }

    /// Looks at pictures until one shows it.
    pub(super) async fn until(
        &mut self,
        what: &str,
        shows: impl Fn(&Picture) -> bool,
    ) -> Result<Picture> {
        let mut last = Picture::of("");
        let looking = async {
            loop {
                last = self.next().await?;
                if shows(&last) {
                    return anyhow::Ok(());
                }
            }
        };
        let looked = tokio::time::timeout(SOON, looking).await;
        looked
            .with_context(|| format!("no picture of {what}, but of {last}"))?
            .with_context(|| format!("the page ended before {what}: {last}"))?;
        Ok(last)
    }

    async fn next(&mut self) -> Result<Picture> {
        loop {
            let text = String::from_utf8_lossy(&self.read).into_owned();
            if let Some((part, rest)) = text.split_once(&self.boundary) {
                self.read = rest.as_bytes().to_vec();
                if let Some((_, svg)) = part.split_once("\r\n\r\n") {
                    return Ok(Picture::of(svg));
                }
                continue;
            }
            let frame = self.body.frame().await.context("no more")??;
            if let Ok(bytes) = frame.into_data() {
                self.read.extend(bytes);
            }
        }
    }
}

/// A picture, and the keys of what is drawn in it.
pub(super) struct Picture {
    svg: String,
    drawn: BTreeSet<String>,
}

impl Picture {
    fn of(svg: &str) -> Self {
        let groups = svg.split("<g class=\"").skip(1);
        let drawn = groups.filter_map(|it| {
            let key = it.split(['"', ' ']).next()?;
            let key = String::from_utf8(BASE64_STANDARD.decode(key).ok()?).ok()?;
            let key = key.replace("&gt;", ">");
            Some(key.strip_prefix(NAMESPACE)?.to_owned())
        });
        Self {
            svg: svg.to_owned(),
            drawn: drawn.collect(),
        }
    }

    /// Objects by `group/resource/name`.
    pub(super) fn objects(&self) -> impl Iterator<Item = &str> {
        let all = self.drawn.iter().filter(|it| !it.starts_with('('));
        all.map(String::as_str)
    }

    /// Whether an object is drawn.
    pub(super) fn has(&self, object: &str) -> bool {
        self.drawn.contains(object)
    }

    /// Whether an arc is drawn, and both its ends.
    pub(super) fn has_arc(&self, from: &str, to: &str) -> bool {
        let arc = format!("({from} -> {to})[0]");
        self.has(from) && self.has(to) && self.has(&arc)
    }
}

impl fmt::Display for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#?}", self.drawn)
    }
}

/// Has Chromium show the page, and the picture as a part of another page; gives the names that can be seen in the
/// latter, in brackets.
pub(super) async fn shown_by_a_browser(
    port: u16,
    picture: &Picture,
    folder: &Path,
) -> Result<String> {
    let svg = picture.svg.split_once("?>").map_or("", |(_, it)| it);
    let text = HTML.replace("PORT", &port.to_string());
    std::fs::write(folder.join("graph.html"), text.replace("PICTURE", svg))?;
    let program = parts::program("chromium").context("no chromium")?;
    let mut command = Command::new(program);
    command
        .args(["--headless", "--no-sandbox", "--disable-gpu"])
        .args(["--disable-dev-shm-usage", "--enable-logging=stderr"])
        .arg("--remote-debugging-port=0")
        .arg(format!(
            "--user-data-dir={}",
            folder.join("browser").display()
        ))
        .arg(format!("file://{}", folder.join("graph.html").display()));
    let mut browser = Process::spawn("chromium", &mut command, folder)?;
    browser.wait_for("PAGE true", SOON).await?;
    browser.wait_for("NAMES ", SOON).await
}

const HTML: &str = r#"<!doctype html>
<img id="page" src="http://127.0.0.1:PORT/">
<script>
  const page = document.getElementById("page");
  page.onload = () => console.log("PAGE", page.naturalWidth > 0 && page.naturalHeight > 0);
</script>
PICTURE
<script>
  const texts = [...document.querySelectorAll("svg text")];
  const seen = texts.filter((it) => it.checkVisibility() && it.getBoundingClientRect().width > 0);
  console.log("NAMES", seen.map((it) => `[${it.textContent}]`).join(""));
</script>
"#;
