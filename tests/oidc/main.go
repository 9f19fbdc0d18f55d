// Oidc is an OpenID provider on loopback: the genuine library with its login form and its users in memory. People are
// in the group "people", e-mail addresses are in ID tokens, and these live as long as the flag says.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"time"

	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

var lifetime = flag.Duration("id-token-lifetime", time.Hour, "how long ID tokens live")

// client is one that gets all claims in its ID tokens, and may log in by a device.
type client struct{ op.Client }

func (client) IDTokenUserinfoClaimsAssertion() bool { return true }
func (client) IDTokenLifetime() time.Duration       { return *lifetime }
func (c client) GrantTypes() []oidc.GrantType {
	return append(c.Client.GrantTypes(), oidc.GrantTypeDeviceCode)
}

// store knows groups, which the library's storage does not.
type store struct{ *storage.Storage }

func (s store) GetClientByClientID(ctx context.Context, id string) (op.Client, error) {
	found, err := s.Storage.GetClientByClientID(ctx, id)
	if err != nil {
		return nil, err
	}
	return client{found}, nil
}

func (s store) SetUserinfoFromScopes(ctx context.Context, info *oidc.UserInfo, user, client string, scopes []string) error {
	if err := s.Storage.SetUserinfoFromScopes(ctx, info, user, client, scopes); err != nil {
		return err
	}
	info.AppendClaims("groups", []string{"people"})
	return nil
}

// SetUserinfoFromRequest is the newer form of it, which the library prefers.
func (s store) SetUserinfoFromRequest(ctx context.Context, info *oidc.UserInfo, token op.IDTokenRequest, scopes []string) error {
	if err := s.Storage.SetUserinfoFromRequest(ctx, info, token, scopes); err != nil {
		return err
	}
	info.AppendClaims("groups", []string{"people"})
	return nil
}

func main() {
	port := flag.Int("port", 0, "where to listen on loopback")
	users := flag.String("users", "", "file of users")
	flag.Parse()
	known, err := storage.StoreFromFile(*users)
	if err != nil {
		fmt.Fprintln(os.Stderr, "users:", err)
		os.Exit(1)
	}
	storage.RegisterClients(
		storage.NativeClient("kas", "http://localhost/callback"),
		storage.DeviceClient("kas-device", "device-secret"),
	)
	issuer := fmt.Sprintf("http://localhost:%d", *port)
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	router := exampleop.SetupServer(issuer, store{storage.NewStorage(known)}, logger, false)
	err = http.ListenAndServe(fmt.Sprintf("127.0.0.1:%d", *port), router)
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
