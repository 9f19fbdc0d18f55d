//! The table of faults and of what mends them. The only place that knows load balancers by name.

use serde::Serialize;

/// What can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the table below says what they are")]
pub enum Fault {
    UnknownName,
    NothingListens,
    Unreachable,
    Proxy,
    NotTls,
    WrongCa,
    WrongName,
    Expired,
    NotYetValid,
    EndsSoon,
    NotVerified,
    NoHttp2,
    NotKas,
    NoUpgrade,
    NoUpstream,
    PingsSwallowed,
    ConnectionTimeout,
    StreamTimeout,
    HeaderLimit,
    BodyLimit,
    Buffered,
    ClockOff,
    TokenRefused,
    ControlPlaneAway,
    Cluster,
    Rights,
    Configuration,
    File,
    PortTaken,
    StorePassword,
    StoreUnreachable,
    PeerUnreachable,
    PeerUnknown,
    Gitlab,
    GitlabSecret,
}

/// What mends a fault, where it is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Remedy {
    /// The program that is configured.
    pub at: &'static str,
    /// The line of its configuration, or what to do.
    pub line: &'static str,
}

macro_rules! remedies {
    ($($at:literal: $line:literal),* $(,)?) => {
        &[$(Remedy { at: $at, line: $line }),*]
    };
}

impl Fault {
    /// What mends it.
    #[must_use]
    pub fn remedies(self) -> &'static [Remedy] {
        match self {
            Self::UnknownName => UNKNOWN_NAME,
            Self::NothingListens => NOTHING_LISTENS,
            Self::Unreachable => UNREACHABLE,
            Self::Proxy => PROXY,
            Self::NotTls => NOT_TLS,
            Self::WrongCa => WRONG_CA,
            Self::WrongName => WRONG_NAME,
            Self::Expired | Self::EndsSoon => EXPIRED,
            Self::NotYetValid => NOT_YET_VALID,
            Self::NotVerified => NOT_VERIFIED,
            Self::NoHttp2 => NO_HTTP2,
            Self::NotKas => NOT_KAS,
            Self::NoUpgrade => NO_UPGRADE,
            Self::NoUpstream => NO_UPSTREAM,
            Self::PingsSwallowed => PINGS_SWALLOWED,
            Self::ConnectionTimeout => CONNECTION_TIMEOUT,
            Self::StreamTimeout => STREAM_TIMEOUT,
            Self::HeaderLimit => HEADER_LIMIT,
            Self::BodyLimit => BODY_LIMIT,
            Self::Buffered => BUFFERED,
            Self::ClockOff => CLOCK_OFF,
            Self::TokenRefused => TOKEN_REFUSED,
            Self::ControlPlaneAway => CONTROL_PLANE_AWAY,
            Self::Cluster => CLUSTER,
            Self::Rights => RIGHTS,
            Self::Configuration => CONFIGURATION,
            Self::File => FILE,
            Self::PortTaken => PORT_TAKEN,
            Self::StorePassword => STORE_PASSWORD,
            Self::StoreUnreachable => STORE_UNREACHABLE,
            Self::PeerUnreachable => PEER_UNREACHABLE,
            Self::PeerUnknown => PEER_UNKNOWN,
            Self::Gitlab => GITLAB,
            Self::GitlabSecret => GITLAB_SECRET,
        }
    }
}

const UNKNOWN_NAME: &[Remedy] = remedies!(
    "agentk": "--kas-address: is the host spelt right? in a pod: dnsPolicy, and a search domain for short names",
    "DNS": "add a record for the host, or name an address that there is",
);

const NOTHING_LISTENS: &[Remedy] = remedies!(
    "agentk": "--kas-address: another port; without one it is 443 for wss and grpcs, 80 for ws and grpc",
    "kas": "agent.listen.address is the port for agents (8150), agent.kubernetes_api.listen.address that for users (8154)",
    "Kubernetes": "kubectl get endpointslices: a Service without ready pods refuses too",
    "nginx": "listen 443 ssl;   # the port that agents and users are told; nginx -T shows what is in effect",
    "HAProxy": "bind :443 ssl crt FILE alpn h2,http/1.1",
    "Envoy": "listeners: - address: {socket_address: {address: 0.0.0.0, port_value: 443}}",
    "ALB": "a listener on this port, and a security group that lets callers in",
);

const UNREACHABLE: &[Remedy] = remedies!(
    "firewall": "allow TCP from here to this address and port; in a cluster: a NetworkPolicy with egress to it",
    "agentk": "--kas-proxy URL, if the way out leads through an HTTP proxy",
);

const PROXY: &[Remedy] = remedies!(
    "HTTP proxy": "allow CONNECT to this host and port (Squid: acl SSL_ports port N)",
    "agentk": "--kas-proxy URL with the right address and user:password@, or NO_PROXY=HOST to go direct",
);

const NOT_TLS: &[Remedy] = remedies!(
    "agentk": "--kas-address: ws:// or grpc:// where the port speaks no TLS, else the port that does",
    "nginx": "listen 443 ssl;",
    "HAProxy": "bind :443 ssl crt FILE",
    "Envoy": "transport_socket: {name: envoy.transport_sockets.tls, …} in the filter chain of this listener",
    "ALB": "a listener of protocol HTTPS on this port",
    "kas": "agent.listen: {certificate_file: …, key_file: …}",
);

const WRONG_CA: &[Remedy] = remedies!(
    "agentk": "--ca-cert-file FILE with the CA that has signed this certificate (the chart: config.kasCaCert)",
    "nginx": "ssl_certificate FILE;   # the server's certificate and then the intermediate ones",
    "HAProxy": "bind :443 ssl crt FILE   # the file has the intermediate certificates too",
    "Envoy": "common_tls_context.tls_certificates: certificate_chain with the intermediate ones",
    "ALB": "import the certificate with its chain",
);

const WRONG_NAME: &[Remedy] = remedies!(
    "agentk": "--kas-address with a name of the certificate, or --kas-tls-server-name NAME",
    "nginx": "server_name HOST; ssl_certificate FILE;   # of that host",
    "HAProxy": "bind :443 ssl crt FOLDER   # one file for each host",
    "Envoy": "filter_chain_match: {server_names: [HOST]} with that host's certificate",
    "ALB": "add the certificate of this host to the listener",
);

const EXPIRED: &[Remedy] = remedies!(
    "whoever issues": "renew the certificate; kas reads a changed file by itself",
    "nginx": "ssl_certificate FILE; then nginx -s reload",
    "HAProxy": "bind :443 ssl crt FILE; then reload",
    "Envoy": "SDS, or a restart with the new file",
    "ALB": "use a certificate of ACM that renews itself",
);

const NOT_YET_VALID: &[Remedy] = remedies!(
    "this machine": "is its clock right? timedatectl; chronyc tracking",
    "whoever issues": "issue it with a beginning in the past",
);

const NOT_VERIFIED: &[Remedy] = remedies!(
    "agentk": "leave out --kas-insecure-skip-tls-verify, and name the CA: --ca-cert-file FILE",
);

const NO_HTTP2: &[Remedy] = remedies!(
    "agentk": "--kas-address wss://HOST (ws:// without TLS): WebSocket needs HTTP/1.1 only",
    "nginx": "listen 443 ssl http2; location /gitlab.agent. { grpc_pass grpc://kas:8150; }",
    "HAProxy": "bind :443 ssl crt FILE alpn h2,http/1.1; server kas HOST:8150 proto h2",
    "Envoy": "alpn_protocols: [h2, http/1.1]; codec_type: AUTO; http2_protocol_options on the cluster",
    "ALB": "listener HTTPS, target group of protocol version GRPC; or wss:// with HTTP1",
);

const NOT_KAS: &[Remedy] = remedies!(
    "agentk": "--kas-address: scheme, port or path lead to something else; agents have port 8150, and a path such as /-/kubernetes-agent/ where a load balancer asks for it",
    "nginx": "location /gitlab.agent. { grpc_pass grpc://kas:8150; }   # and for WebSocket: location / { proxy_pass http://kas:8150; }",
    "HAProxy": "use_backend kas_websocket if { hdr(Upgrade) -i websocket }; default_backend kas_grpc (server … proto h2)",
    "Envoy": "routes: - match: {prefix: /gitlab.agent., grpc: {}} route: {cluster: kas_grpc}",
    "ALB": "a rule with path /gitlab.agent.* to a target group of protocol version GRPC",
);

const NO_UPGRADE: &[Remedy] = remedies!(
    "nginx": "proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection \"upgrade\";",
    "HAProxy": "mode http (no `option httpclose`, no `http-request del-header Upgrade`)",
    "Envoy": "upgrade_configs: [{upgrade_type: websocket}]",
    "ALB": "nothing to set: it passes WebSocket to targets of protocol version HTTP1",
);

const NO_UPSTREAM: &[Remedy] = remedies!(
    "kas": "is it running, and ready? kubectl -n kas get pods; the load balancer's targets must be agent.listen.address",
    "nginx": "upstream kas { server HOST:8150; }   # grpc_pass grpc:// for gRPC, proxy_pass http:// for WebSocket",
    "HAProxy": "server kas HOST:8150 proto h2   # without `proto h2` in the backend of WebSocket",
    "Envoy": "the cluster needs typed_extension_protocol_options … explicit_http_config: {http2_protocol_options: {}} for gRPC",
    "ALB": "target group: protocol version GRPC (agents by grpcs) or HTTP1 (agents by wss), port 8150, healthy targets",
);

const PINGS_SWALLOWED: &[Remedy] = remedies!(
    "nginx": "http2 on; it answers by itself; what drops pings stands in front of it or behind it",
    "HAProxy": "mode http with alpn h2 answers by itself; or mode tcp, which passes them on",
    "Envoy": "codec_type: AUTO answers by itself",
    "ALB": "a listener HTTPS answers by itself; an NLB passes them on",
    "middlebox": "exempt this host from inspection of TLS or HTTP/2, or use wss://",
);

const CONNECTION_TIMEOUT: &[Remedy] = remedies!(
    "nginx": "proxy_read_timeout 1h; proxy_send_timeout 1h;   # stream {}: proxy_timeout 1h",
    "HAProxy": "timeout client 1h; timeout server 1h; timeout tunnel 1h",
    "Envoy": "tcp_proxy.idle_timeout: 3600s; common_http_protocol_options: {idle_timeout: 3600s}",
    "ALB": "idle_timeout.timeout_seconds=3600 (NLB: tcp.idle_timeout.seconds=3600)",
);

const STREAM_TIMEOUT: &[Remedy] = remedies!(
    "nginx": "grpc_read_timeout 1h; grpc_send_timeout 1h; client_body_timeout 1h;   # WebSocket: proxy_read_timeout 1h",
    "HAProxy": "timeout server 1h; timeout client 1h; timeout tunnel 1h",
    "Envoy": "stream_idle_timeout: 0s, and timeout: 0s of the route",
    "ALB": "idle_timeout.timeout_seconds=3600",
);

const HEADER_LIMIT: &[Remedy] = remedies!(
    "nginx": "large_client_header_buffers 4 32k;",
    "HAProxy": "tune.bufsize 65536; tune.http.maxhdr 512",
    "Envoy": "max_request_headers_kb: 96",
    "ALB": "16 KiB a line and 64 KiB in all are fixed: send fewer --kas-header, or shorter tokens",
);

const BODY_LIMIT: &[Remedy] = remedies!(
    "nginx": "client_max_body_size 0;",
    "HAProxy": "remove http-request deny rules on req.body_size or req.hdr(content-length)",
    "Envoy": "leave out envoy.filters.http.buffer (max_request_bytes) for this route",
    "ALB": "no WAF rule on the size of bodies",
);

const BUFFERED: &[Remedy] = remedies!(
    "nginx": "proxy_request_buffering off; proxy_buffering off;",
    "HAProxy": "no option http-buffer-request",
    "Envoy": "leave out envoy.filters.http.buffer for this route",
    "ALB": "no WAF that inspects bodies on this rule",
);

const CLOCK_OFF: &[Remedy] = remedies!(
    "the machine whose clock is wrong": "synchronise it: timedatectl set-ntp true; chronyc tracking",
);

const TOKEN_REFUSED: &[Remedy] = remedies!(
    "agentk": "--token-file FILE with the token of an agent of this kas; was it revoked, or is it another server's?",
    "kas": "kas agent show AGENT says which tokens there are; a new one: kas agent rotate-token AGENT (GitLab: Operate, Kubernetes clusters)",
);

const CONTROL_PLANE_AWAY: &[Remedy] = remedies!(
    "kas": "its log says why GitLab could not be asked; kas doctor FILE on the server",
);

const CLUSTER: &[Remedy] = remedies!(
    "agentk": "--kubeconfig FILE, or run it in a pod with a service account; --kubernetes-proxy URL where needed",
    "Kubernetes": "a NetworkPolicy with egress to the API server",
);

const RIGHTS: &[Remedy] = remedies!(
    "Kubernetes": "agentk rbac --features … | kubectl apply -f -   # the chart: rbac.create, rbac.accessLevel",
);

const CONFIGURATION: &[Remedy] = remedies!(
    "kas": "correct the key that is named; kas check-config FILE prints what is in effect",
);

const FILE: &[Remedy] = remedies!(
    "kas": "the file must be there, and readable for the user that kas runs as",
);

const PORT_TAKEN: &[Remedy] = remedies!(
    "kas": "another address in the section's listen.address, or end the program that has it (ss -ltnp)",
);

const STORE_PASSWORD: &[Remedy] = remedies!(
    "kas": "redis.password_file (taken byte for byte, so without a newline), redis.username for an ACL user",
    "Redis": "requirepass, or ACL SETUSER …: the same password",
);

const STORE_UNREACHABLE: &[Remedy] = remedies!(
    "kas": "redis.server.address, redis.tls.enabled, redis.dial_timeout",
    "Redis": "bind and protected-mode; a NetworkPolicy that lets kas in",
);

const PEER_UNREACHABLE: &[Remedy] = remedies!(
    "kas": "private_api.listen.address on an address that others reach; OWN_PRIVATE_API_URL or OWN_PRIVATE_API_CIDR says what is published",
    "Kubernetes": "a NetworkPolicy that lets replicas reach each other's port 8155",
    "after a crash": "nothing: an entry of a replica that has ended goes by itself",
);

const PEER_UNKNOWN: &[Remedy] = remedies!(
    "kas": "one private_api.listen.authentication_secret_file for all replicas; a URL to each: OWN_PRIVATE_API_URL",
);

const GITLAB: &[Remedy] = remedies!(
    "kas": "gitlab.address, gitlab.ca_certificate_file; HTTPS_PROXY and NO_PROXY of its environment",
    "GitLab": "/api/v4/internal/kubernetes must be reachable from kas",
);

const GITLAB_SECRET: &[Remedy] = remedies!(
    "kas": "gitlab.authentication_secret_file: the secret of GitLab's gitlab_kas_secret (.gitlab_kas_secret), base64",
    "GitLab": "gitlab_kas['api_secret_key'], or the Secret global.kas.secret of its chart",
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_load_balancer_can_break_has_a_line_for_each_of_them() {
        let of_the_way = [
            Fault::NothingListens,
            Fault::NotTls,
            Fault::WrongCa,
            Fault::WrongName,
            Fault::Expired,
            Fault::NoHttp2,
            Fault::NotKas,
            Fault::NoUpgrade,
            Fault::NoUpstream,
            Fault::PingsSwallowed,
            Fault::ConnectionTimeout,
            Fault::StreamTimeout,
            Fault::HeaderLimit,
            Fault::BodyLimit,
            Fault::Buffered,
        ];
        for fault in of_the_way {
            for at in ["nginx", "HAProxy", "Envoy", "ALB"] {
                let remedies = fault.remedies();
                assert!(remedies.iter().any(|it| it.at == at), "{fault:?} at {at}");
            }
        }
    }
}
