package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/keepalive"
)

const (
	userAgent = "gitlab-agent/interop/0000000"
	// readLimit is the largest WebSocket message that agents take.
	readLimit = 10 << 20
)

// dial connects as agents do: gzip on every call, keepalive without streams, and over WebSocket the whole URL as
// the target, from which grpc-go makes an :authority with percent escapes.
func dial(address, token, caFile string) (*grpc.ClientConn, error) {
	target, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	config, err := tlsConfig(caFile)
	if err != nil {
		return nil, err
	}
	options := []grpc.DialOption{
		grpc.WithUserAgent(userAgent),
		grpc.WithPerRPCCredentials(bearer(token)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 55 * time.Second, PermitWithoutStream: true}),
		grpc.WithDefaultCallOptions(grpc.UseCompressor(gzip.Name), grpc.ForceCodec(raw{})),
	}
	plain := grpc.WithTransportCredentials(insecure.NewCredentials())
	switch target.Scheme {
	case "grpc":
		return grpc.NewClient("dns:"+target.Host, append(options, plain)...)
	case "grpcs":
		secure := grpc.WithTransportCredentials(credentials.NewTLS(config))
		return grpc.NewClient("dns:"+target.Host, append(options, secure)...)
	case "ws", "wss":
		return grpc.NewClient("passthrough:"+address, append(options, plain, grpc.WithContextDialer(websocketDialer(config)))...)
	default:
		return nil, fmt.Errorf("unknown scheme %q", target.Scheme)
	}
}

func websocketDialer(config *tls.Config) func(context.Context, string) (net.Conn, error) {
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
	return func(ctx context.Context, address string) (net.Conn, error) {
		conn, response, err := websocket.Dial(ctx, address, &websocket.DialOptions{
			HTTPClient:   client,
			HTTPHeader:   http.Header{"User-Agent": {userAgent}},
			Subprotocols: []string{"ws-tunnel"},
		})
		if err != nil {
			return nil, err
		}
		if conn.Subprotocol() != "ws-tunnel" {
			return nil, fmt.Errorf("subprotocol %q, headers %v", conn.Subprotocol(), response.Header)
		}
		stream := websocket.NetConn(context.Background(), conn, websocket.MessageBinary)
		conn.SetReadLimit(readLimit)
		return stream, nil
	}
}

func tlsConfig(caFile string) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile == "" {
		return config, nil
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, err
	}
	config.RootCAs = x509.NewCertPool()
	if !config.RootCAs.AppendCertsFromPEM(pem) {
		return nil, errors.New("no certificate in " + caFile)
	}
	return config, nil
}

// bearer puts the agent's token on every call, with and without TLS.
type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

func (bearer) RequireTransportSecurity() bool { return false }

// raw leaves messages as the bytes that they are.
type raw struct{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(v any) ([]byte, error) { return v.([]byte), nil }

func (raw) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}
