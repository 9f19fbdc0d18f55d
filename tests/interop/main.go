package main
import (
 _ "github.com/coder/websocket"
 _ "google.golang.org/grpc"
 _ "google.golang.org/protobuf/encoding/protowire"
)
func main(){}
