package main

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
)

const (
	registerMethod      = "/gitlab.agent.agent_registrar.rpc.AgentRegistrar/Register"
	configurationMethod = "/gitlab.agent.agent_configuration.rpc.AgentConfiguration/GetConfiguration"
	connectMethod       = "/gitlab.agent.reverse_tunnel.rpc.ReverseTunnel/Connect"
	makeRequestMethod   = "/gitlab.agent.kubernetes_api.rpc.KubernetesApi/MakeRequest"
)

// agent is one connection to kas and what it found there.
type agent struct {
	conn    *grpc.ClientConn
	verdict *verdict
}

// meta is AgentMeta: version, commit, namespace, pod.
func meta() []byte {
	var m []byte
	for i, text := range []string{"v16.5.0", "0000000", "interop", "interop-0"} {
		m = put(m, protowire.Number(i+1), []byte(text))
	}
	return put(m, 5, put(put(nil, 1, []byte("1")), 2, []byte("33")))
}

func (a *agent) register(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	request := putVarint(put(nil, 1, meta()), 2, 4711)
	var response []byte
	return a.conn.Invoke(ctx, registerMethod, request, &response, grpc.WaitForReady(true))
}

// configuration expects one message at once, with this agent's id, and then a stream that stays open.
func (a *agent) configuration(ctx context.Context) {
	stream, err := a.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, configurationMethod)
	if err != nil {
		a.verdict.fail("GetConfiguration: %v", err)
		return
	}
	request := putVarint(put(nil, 2, meta()), 3, 1)
	if err := stream.SendMsg(request); err != nil {
		a.verdict.fail("GetConfiguration: %v", err)
		return
	}
	stream.CloseSend()
	for {
		var data []byte
		if err := stream.RecvMsg(&data); err != nil {
			if ctx.Err() == nil {
				a.verdict.fail("GetConfiguration ends with %v", err)
			}
			return
		}
		a.checkConfiguration(data)
	}
}

func (a *agent) checkConfiguration(data []byte) {
	response, err := parse(data)
	if err != nil {
		a.verdict.fail("ConfigurationResponse: %v", err)
		return
	}
	configuration, err := parse(response.get(1))
	if err != nil || response.get(1) == nil {
		a.verdict.fail("ConfigurationResponse has no configuration: %v", err)
		return
	}
	if id, found := configuration.varint(4); !found || id == 0 {
		a.verdict.fail("AgentConfiguration has no agent_id")
	}
	say("CONFIGURED")
}

// keepTunnel opens one tunnel after the other.
func (a *agent) keepTunnel(ctx context.Context) {
	for ctx.Err() == nil {
		err := a.tunnel(ctx)
		if err == nil || ctx.Err() != nil {
			continue
		}
		switch status.Code(err) {
		case codes.Canceled, codes.DeadlineExceeded:
			say("tunnel ended: %v", err)
		default:
			a.verdict.fail("tunnel: %v", err)
			return
		}
	}
}
