package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
)

// Members of ConnectRequest, which agents send.
const (
	sendDescriptor = 1
	sendHeader     = 2
	sendMessage    = 3
	sendTrailer    = 4
	sendError      = 5
)

// Members of ConnectResponse, which kas sends.
const (
	gotRequestInfo = 1
	gotMessage     = 2
	gotCloseSend   = 3
)

// tunnel offers itself for one call and serves it. It ends without an error when kas ends it so.
func (a *agent) tunnel(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := a.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, connectMethod, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	tunnel := &tunnelStream{stream}
	if err := tunnel.send(sendDescriptor, descriptor()); err != nil {
		return err
	}
	say("TUNNEL")
	number, content, err := tunnel.receive()
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		return err
	}
	if number != gotRequestInfo {
		return fmt.Errorf("member %d comes first", number)
	}
	return a.serve(tunnel, content)
}

func descriptor() []byte {
	method := put(nil, 1, []byte("MakeRequest"))
	service := put(put(nil, 1, []byte("gitlab.agent.kubernetes_api.rpc.KubernetesApi")), 2, method)
	return put(nil, 1, put(nil, 1, service))
}

func (a *agent) serve(tunnel *tunnelStream, requestInfo []byte) error {
	info, err := parse(requestInfo)
	if err != nil {
		return err
	}
	if method := string(info.get(1)); method != makeRequestMethod {
		return fmt.Errorf("method %q", method)
	}
	if _, err := info.multimap(2); err != nil {
		return fmt.Errorf("request_info.meta: %w", err)
	}
	if err := exchange(tunnel); err != nil {
		return err
	}
	a.verdict.served()
	return tunnel.awaitEnd()
}

// tunnelStream sends and receives the members of the tunnel's messages.
type tunnelStream struct {
	grpc.ClientStream
}

func (t *tunnelStream) send(number protoNumber, content []byte) error {
	return t.SendMsg(put(nil, number, content))
}

func (t *tunnelStream) receive() (protoNumber, []byte, error) {
	var data []byte
	if err := t.RecvMsg(&data); err != nil {
		return 0, nil, err
	}
	return oneof(data)
}

// receiveMessage gives the next message of the call; io.EOF once the caller has half-closed.
func (t *tunnelStream) receiveMessage() ([]byte, error) {
	number, content, err := t.receive()
	if err != nil {
		return nil, fmt.Errorf("within a call: %w", err)
	}
	switch number {
	case gotMessage:
		fields, err := parse(content)
		return fields.get(1), err
	case gotCloseSend:
		return nil, io.EOF
	default:
		return nil, fmt.Errorf("member %d within a call", number)
	}
}

func (t *tunnelStream) sendMessage(content []byte) error {
	return t.send(sendMessage, put(nil, 1, content))
}

// awaitEnd expects kas to end the tunnel with OK, after close_send where it was not seen yet.
func (t *tunnelStream) awaitEnd() error {
	for {
		number, _, err := t.receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if number == gotRequestInfo {
			return errors.New("a second request_info")
		}
	}
}
