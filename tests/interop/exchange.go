package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"
)

type protoNumber = protowire.Number

// Members of HttpRequest and HttpResponse.
const (
	httpHeader  = 1
	httpData    = 2
	httpTrailer = 3
	httpUpgrade = 4
)

// chunk is how much agents put into one data message.
const chunk = 32 << 10

// request is an HTTP request as it came down the tunnel.
type request struct {
	method, path string
	header       map[string][]string
	query        map[string][]string
	body         []byte
}

// exchange reads one HTTP request and answers it: with its own body and head, or as its path asks.
func exchange(tunnel *tunnelStream) error {
	req, err := readRequest(tunnel)
	if err != nil {
		return err
	}
	if err := tunnel.send(sendHeader, putValues(nil, 1, "content-type", "application/grpc")); err != nil {
		return err
	}
	switch {
	case req.path == "/fail":
		return fail(tunnel)
	case len(req.header["Upgrade"]) > 0:
		return upgrade(tunnel, req)
	default:
		return answer(tunnel, req)
	}
}

func readRequest(tunnel *tunnelStream) (*request, error) {
	var req *request
	for {
		data, err := tunnel.receiveMessage()
		if err != nil {
			return nil, fmt.Errorf("reading the request: %w", err)
		}
		number, content, err := oneof(data)
		if err != nil {
			return nil, err
		}
		switch {
		case req == nil && number == httpHeader:
			if req, err = parseHeader(content); err != nil {
				return nil, err
			}
		case req != nil && number == httpData:
			data, err := parse(content)
			if err != nil {
				return nil, err
			}
			req.body = append(req.body, data.get(1)...)
		case req != nil && number == httpTrailer:
			return req, req.check()
		default:
			return nil, fmt.Errorf("member %d of HttpRequest is out of order", number)
		}
	}
}

func parseHeader(content []byte) (*request, error) {
	fields, err := parse(content)
	if err != nil {
		return nil, err
	}
	if _, found := fields.varint(3); !found {
		return nil, errors.New("HttpRequest.Header has no content_length")
	}
	head, err := parse(fields.get(1))
	if err != nil {
		return nil, err
	}
	req := &request{method: string(head.get(1)), path: string(head.get(3))}
	if req.header, err = head.multimap(2); err != nil {
		return nil, err
	}
	req.query, err = head.multimap(4)
	return req, err
}

// check looks for what agents rely on.
func (r *request) check() error {
	for name := range r.header {
		if name != http.CanonicalHeaderKey(name) {
			return fmt.Errorf("header %q is not in canonical form", name)
		}
	}
	for _, name := range []string{"Authorization", "Host", "Transfer-Encoding"} {
		if r.header[name] != nil {
			return fmt.Errorf("header %s reached the agent", name)
		}
	}
	if r.method == "" || !strings.HasPrefix(r.path, "/") {
		return fmt.Errorf("method %q, path %q", r.method, r.path)
	}
	return nil
}

func answer(tunnel *tunnelStream, req *request) error {
	body := req.body
	if size, err := strconv.Atoi(first(req.query["bytes"])); err == nil {
		body = make([]byte, size)
		for i := range body {
			body[i] = byte(i % 251)
		}
	}
	if err := sendHead(tunnel, http.StatusOK, req); err != nil {
		return err
	}
	for len(body) > 0 {
		part := body[:min(chunk, len(body))]
		body = body[len(part):]
		if err := sendHTTP(tunnel, httpData, part); err != nil {
			return err
		}
	}
	if err := tunnel.sendMessage(put(nil, httpTrailer, nil)); err != nil {
		return err
	}
	return finish(tunnel)
}

// upgrade says back what comes after the switch of protocols.
func upgrade(tunnel *tunnelStream, req *request) error {
	if err := sendHead(tunnel, http.StatusSwitchingProtocols, req); err != nil {
		return err
	}
	if err := tunnel.sendMessage(put(nil, httpTrailer, nil)); err != nil {
		return err
	}
	for {
		data, err := tunnel.receiveMessage()
		if errors.Is(err, io.EOF) {
			return finish(tunnel)
		}
		if err != nil {
			return err
		}
		number, content, err := oneof(data)
		if err != nil || number != httpUpgrade {
			return fmt.Errorf("member %d after the upgrade: %w", number, err)
		}
		fields, err := parse(content)
		if err != nil {
			return err
		}
		if err := sendHTTP(tunnel, httpUpgrade, fields.get(1)); err != nil {
			return err
		}
	}
}

// fail ends the call with an error before any response.
func fail(tunnel *tunnelStream) error {
	status := put(putVarint(nil, 1, uint64(codes.Unavailable)), 2, []byte("gRPC -> HTTP: interop fails on request"))
	if err := tunnel.send(sendTrailer, nil); err != nil {
		return err
	}
	if err := tunnel.send(sendError, put(nil, 1, status)); err != nil {
		return err
	}
	return tunnel.CloseSend()
}

func finish(tunnel *tunnelStream) error {
	if err := tunnel.send(sendTrailer, nil); err != nil {
		return err
	}
	return tunnel.CloseSend()
}

// sendHead says in headers what was asked.
func sendHead(tunnel *tunnelStream, code int, req *request) error {
	head := putVarint(nil, 1, uint64(code))
	head = put(head, 2, []byte(strconv.Itoa(code)+" "+http.StatusText(code)))
	head = putValues(head, 3, "X-Seen-Method", req.method)
	head = putValues(head, 3, "X-Seen-Path", req.path)
	head = putValues(head, 3, "X-Seen-Query", url.Values(req.query).Encode())
	for name, values := range req.header {
		head = putValues(head, 3, "X-Seen-"+name, values...)
	}
	if code == http.StatusSwitchingProtocols {
		head = putValues(head, 3, "Upgrade", req.header["Upgrade"]...)
		head = putValues(head, 3, "Connection", "upgrade")
	}
	return tunnel.sendMessage(put(nil, httpHeader, put(nil, 1, head)))
}

func sendHTTP(tunnel *tunnelStream, member protoNumber, data []byte) error {
	return tunnel.sendMessage(put(nil, member, put(nil, 1, data)))
}

func first(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[0]
}
