// Interop plays an agent with the genuine grpc-go: it connects by one of the four schemes, registers, asks for its
// configuration, and answers the calls that come down its tunnels by saying what it was asked. Whatever kas does
// against the protocol is printed as FAIL; on SIGTERM or at the end of its input it prints PASS or FAIL and exits.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

func main() {
	address := flag.String("kas-address", "", "ws://, wss://, grpc:// or grpcs:// URL of kas")
	tokenFile := flag.String("token-file", "", "file with the agent's token")
	caFile := flag.String("ca-cert-file", "", "certificate authority of kas")
	tunnels := flag.Int("tunnels", 4, "tunnels that are kept open")
	flag.Parse()

	verdict := &verdict{}
	if err := run(*address, *tokenFile, *caFile, *tunnels, verdict); err != nil {
		verdict.fail("%v", err)
	}
	os.Exit(verdict.exit(*address))
}

func run(address, tokenFile, caFile string, tunnels int, verdict *verdict) error {
	token, err := os.ReadFile(tokenFile)
	if err != nil {
		return err
	}
	conn, err := dial(address, string(token), caFile)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	go stopAtEndOfInput(stop)

	agent := &agent{conn: conn, verdict: verdict}
	if err := agent.register(ctx); err != nil {
		return fmt.Errorf("Register: %w", err)
	}
	say("REGISTERED")
	var running sync.WaitGroup
	running.Add(1)
	go func() { defer running.Done(); agent.configuration(ctx) }()
	for range tunnels {
		running.Add(1)
		go func() { defer running.Done(); agent.keepTunnel(ctx) }()
	}
	running.Wait()
	return nil
}

func stopAtEndOfInput(stop func()) {
	for input := bufio.NewScanner(os.Stdin); input.Scan(); {
	}
	stop()
}

// verdict gathers what went against the protocol.
type verdict struct {
	mu       sync.Mutex
	failures int
	calls    int
}

func (v *verdict) fail(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.failures++
	say("FAIL: "+format, args...)
}

func (v *verdict) served() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.calls++
}

func (v *verdict) exit(address string) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.failures > 0 || v.calls == 0 {
		say("FAIL %s: %d failures, %d calls", address, v.failures, v.calls)
		return 1
	}
	say("PASS %s: %d calls", address, v.calls)
	return 0
}

func say(format string, args ...any) {
	fmt.Printf(format+"\n", args...)
}
