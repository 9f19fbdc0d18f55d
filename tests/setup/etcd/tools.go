// The etcd that the tests build, held here so that go.mod names its version.

//go:build tools

package tools

import _ "go.etcd.io/etcd/server/v3"
