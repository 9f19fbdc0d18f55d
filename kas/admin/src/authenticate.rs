//! Who asks: by a token in a header, by a client certificate that the handshake demanded, or by being on this machine.

use std::sync::Arc;

use http::{
    HeaderMap, Request, Uri,
    header::{AUTHORIZATION, HOST, ORIGIN},
    uri::Authority,
};
use runtime::{
    listen::RemoteAddr,
    telemetry::{Repeats, Untrusted},
    tls::Subject,
};

use crate::{
    Failure, Role,
    caller::{Caller, Proof, RequestFacts},
    config::CertificateRole,
    tokens::{Holder, Tokens},
};

/// Bytes of a certificate's name that is told and counted by.
const MAX_NAME_BYTES: usize = 255;

/// Names of parameters under which tokens are sometimes put into URLs, which end up in logs and histories.
const TOKEN_PARAMETERS: [&str; 4] = ["access_token", "private_token", "token", "api_key"];

/// Tells who asks.
#[derive(Debug)]
pub(crate) struct Door {
    /// The tokens of which one is demanded.
    pub(crate) tokens: Option<Tokens>,
    /// Whether the TLS handshake has seen a certificate of the right CA.
    pub(crate) certificates: bool,
    /// What certificates may do, where no tokens are demanded.
    pub(crate) certificate_roles: Vec<CertificateRole>,
    /// What others may do.
    pub(crate) default_role: Role,
}

/// What a connection tells of who is at its other end.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// Where they are.
    pub(crate) remote_addr: RemoteAddr,
    /// Whom their certificate is for, where one was demanded and says so.
    pub(crate) subject: Option<Arc<Subject>>,
}

impl Door {
    /// Who makes a request, and what they may do.
    ///
    /// # Errors
    /// The refusal.
    pub(crate) fn admit<B>(&self, request: &Request<B>, peer: &Peer) -> Result<Caller, Failure> {
        let host = checked_host(request)?;
        if let Some(tokens) = &self.tokens {
            let holder = bearer(request.headers()).and_then(|token| tokens.holder(token));
            let Holder { name, role } =
                holder.ok_or_else(|| refused(request.uri(), peer.remote_addr))?;
            let role = role.unwrap_or(self.default_role);
            return Ok(caller(name, role, Proof::Token, request, peer));
        }
        if self.certificates {
            let (name, role) = self.certified(peer);
            return Ok(caller(name, role, Proof::Certificate, request, peer));
        }
        // A page of another site could have its name resolve to this machine.
        if host.is_some_and(|host| !is_this_machine(host.host())) {
            return Err(Failure::Forbidden(
                "without tokens the admin API is called as 127.0.0.1, [::1] or localhost only"
                    .to_owned(),
            ));
        }
        let name = "this machine".into();
        Ok(caller(name, self.default_role, Proof::None, request, peer))
    }

    /// The name and the role of whoever has shown a certificate.
    fn certified(&self, peer: &Peer) -> (Arc<str>, Role) {
        let subject = peer.subject.as_deref();
        let mut roles = self.certificate_roles.iter();
        let role = subject.and_then(|subject| roles.find(|it| it.is_for(subject)));
        let name = subject.and_then(|subject| subject.common_name.as_deref());
        let name = name.filter(|it| it.len() <= MAX_NAME_BYTES && !it.contains(char::is_control));
        let by_address = || peer.remote_addr.socket_addr().ip().to_string();
        let name = name.map_or_else(by_address, str::to_owned);
        (name.into(), role.map_or(self.default_role, |it| it.role))
    }

    /// Who makes a request for a part of the page: anybody who may connect, since a browser loads it before somebody
    /// gives a token.
    ///
    /// # Errors
    /// The refusal.
    pub(crate) fn admit_to_page<B>(
        &self,
        request: &Request<B>,
        peer: &Peer,
    ) -> Result<Caller, Failure> {
        if self.tokens.is_none() {
            return self.admit(request, peer);
        }
        checked_host(request)?;
        let name = format!("page at {}", peer.remote_addr.socket_addr().ip());
        Ok(caller(
            name.into(),
            Role::Viewer,
            Proof::None,
            request,
            peer,
        ))
    }
}

fn caller<B>(
    name: Arc<str>,
    role: Role,
    proof: Proof,
    request: &Request<B>,
    peer: &Peer,
) -> Caller {
    Caller {
        name,
        role,
        proof,
        request: Arc::new(RequestFacts::new(request, peer.remote_addr)),
    }
}

/// The host that a request names, if its URL and its origin are not a reason to refuse it.
fn checked_host<B>(request: &Request<B>) -> Result<Option<Authority>, Failure> {
    if request.uri().query().is_some_and(has_token) {
        return Err(Failure::Invalid(
            "a token in a URL ends up in logs and histories: send it as `Authorization: Bearer TOKEN`, and replace \
             this one"
                .to_owned(),
        ));
    }
    let host = host(request.uri(), request.headers());
    check_origin(request.headers(), host.as_ref())?;
    Ok(host)
}

fn refused(uri: &Uri, from: RemoteAddr) -> Failure {
    static REFUSED: Repeats = Repeats::new("rejected a call to the admin API: no valid token");
    if REFUSED.admit() {
        let path = Untrusted(uri.path());
        tracing::info!(remote_addr = %from, %path, "rejected a call to the admin API: no valid token");
    }
    Failure::Unauthenticated(
        "the admin API needs a token of its tokens_file, as `Authorization: Bearer TOKEN`",
    )
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(token.trim())
}

fn has_token(query: &str) -> bool {
    let mut names = query.split('&').filter_map(|it| it.split('=').next());
    names.any(|name| TOKEN_PARAMETERS.contains(&name))
}

fn host(uri: &Uri, headers: &HeaderMap) -> Option<Authority> {
    let header = || headers.get(HOST)?.to_str().ok()?.parse().ok();
    uri.authority().cloned().or_else(header)
}

/// A browser says which site's page makes a request that may change something or whose answer it may read.
fn check_origin(headers: &HeaderMap, host: Option<&Authority>) -> Result<(), Failure> {
    let Some(origin) = headers.get(ORIGIN) else {
        return Ok(());
    };
    let origin: Option<Uri> = origin.to_str().ok().and_then(|it| it.parse().ok());
    let origin = origin.and_then(|it| it.authority().cloned());
    if origin.is_some() && origin.as_ref() == host {
        return Ok(());
    }
    Err(Failure::Forbidden(
        "the admin API is not called by pages of other sites".to_owned(),
    ))
}

fn is_this_machine(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let ip: Option<std::net::IpAddr> = bare.parse().ok();
    host.eq_ignore_ascii_case("localhost") || ip.is_some_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    fn with_tokens() -> Door {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokens");
        std::fs::write(&file, format!("ana {TOKEN}")).unwrap();
        Door {
            tokens: Some(Tokens::read(&file).unwrap()),
            ..open()
        }
    }

    fn open() -> Door {
        Door {
            tokens: None,
            certificates: false,
            certificate_roles: Vec::new(),
            default_role: Role::Operator,
        }
    }

    fn peer() -> Peer {
        Peer {
            remote_addr: RemoteAddr::Unix,
            subject: None,
        }
    }

    fn ask(door: &Door, uri: &str, headers: &[(&str, &str)]) -> Result<Caller, Failure> {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        door.admit(&request.body(()).unwrap(), &peer())
    }

    #[test]
    fn a_token_of_the_file_is_let_in_by_its_name_and_any_other_is_not() {
        let door = with_tokens();
        let shown = |value: &str| ask(&door, "/v1/status", &[("authorization", value)]);

        let ana = shown(&format!("Bearer {TOKEN}")).unwrap();
        assert_eq!((&*ana.name, ana.role), ("ana", Role::Operator));
        for wrong in [
            "Bearer x".to_owned(),
            format!("Basic {TOKEN}"),
            TOKEN.to_owned(),
        ] {
            assert!(matches!(shown(&wrong), Err(Failure::Unauthenticated(_))));
        }
        let none = ask(&door, "/v1/status", &[]);
        assert!(matches!(none, Err(Failure::Unauthenticated(_))));
    }

    #[test]
    fn the_page_is_loaded_before_a_token_is_given_but_not_by_pages_of_others() {
        let load = |headers: &[(&str, &str)]| {
            let mut request = Request::builder().uri("/main.js");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            with_tokens().admit_to_page(&request.body(()).unwrap(), &peer())
        };

        assert!(load(&[("host", "kas.example:8156")]).is_ok());
        let other = load(&[("host", "kas.example"), ("origin", "https://evil.example")]);
        assert!(matches!(other, Err(Failure::Forbidden(_))));
    }

    #[test]
    fn a_token_in_a_url_is_refused_even_if_it_is_good() {
        let header = format!("Bearer {TOKEN}");
        let headers = [("authorization", &*header)];

        for name in TOKEN_PARAMETERS {
            let asked = ask(
                &with_tokens(),
                &format!("/v1/agents?a=b&{name}=x"),
                &headers,
            );
            assert!(matches!(asked, Err(Failure::Invalid(_))), "{name}");
        }
    }

    #[test]
    fn without_tokens_it_is_called_by_this_machines_names_only() {
        let door = open();

        for good in ["127.0.0.1:8156", "localhost:1", "[::1]:8156", "LOCALHOST"] {
            let caller = ask(&door, "/v1/status", &[("host", good)]).unwrap();
            assert!(caller.require(Role::Operator).is_ok(), "{good}");
            let refused = caller.require(Role::Administrator).unwrap_err();
            assert!(
                refused.to_string().contains("admin.listen.tokens_file"),
                "{good}"
            );
        }
        for bad in ["evil.example:8156", "10.0.0.1", "localhost.evil.example"] {
            let asked = ask(&door, "/v1/status", &[("host", bad)]);
            assert!(matches!(asked, Err(Failure::Forbidden(_))), "{bad}");
        }
    }

    #[test]
    fn a_certificate_has_the_role_of_its_subject_and_an_unnamed_one_the_default() {
        let door = Door {
            certificates: true,
            certificate_roles: vec![CertificateRole {
                role: Role::Administrator,
                common_name: None,
                organization: Some(runtime::yaml::NonEmpty("admins".to_owned())),
                organizational_unit: None,
            }],
            default_role: Role::Viewer,
            ..open()
        };
        let admitted = |subject: Option<Subject>| {
            let peer = Peer {
                subject: subject.map(Arc::new),
                ..peer()
            };
            let request = Request::builder().uri("/v1/status").body(()).unwrap();
            let caller = door.admit(&request, &peer).unwrap();
            (caller.name.to_string(), caller.role)
        };
        let subject = |name: &str, group: &str| {
            Some(Subject {
                common_name: Some(name.to_owned()),
                organizations: vec![group.to_owned()],
                organizational_units: Vec::new(),
            })
        };

        let known = |name: &str, role| (name.to_owned(), role);
        assert_eq!(
            admitted(subject("ana", "admins")),
            known("ana", Role::Administrator)
        );
        assert_eq!(admitted(subject("bob", "dev")), known("bob", Role::Viewer));
        // What could break a line is no name.
        assert_eq!(
            admitted(subject("a\nb", "dev")),
            known("0.0.0.0", Role::Viewer)
        );
        assert_eq!(admitted(None), known("0.0.0.0", Role::Viewer));
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        let door = open();
        let asked = |origin| {
            let headers = [("host", "localhost:8156"), ("origin", origin)];
            ask(&door, "/v1/status", &headers)
        };

        assert!(asked("http://localhost:8156").is_ok());
        for other in ["https://evil.example", "http://localhost:1", "null"] {
            assert!(
                matches!(asked(other), Err(Failure::Forbidden(_))),
                "{other}"
            );
        }
    }
}
