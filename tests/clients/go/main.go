// A client made with client-go, as controllers are. See tests/tests/clients/main.rs for what it is asked, and what it prints.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/pager"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	clientexec "k8s.io/client-go/util/exec"
)

const (
	pod     = "box"
	watched = "watched=yes"
	page    = 100
	command = "read -r said; echo heard $said; echo trouble >&2; exit 3"
)

type client struct {
	*kubernetes.Clientset
	config    *rest.Config
	namespace string
}

func main() {
	if len(os.Args) != 4 {
		fail(errors.New("usage: client ACTION KUBECONFIG NAMESPACE"))
	}
	config, err := clientcmd.BuildConfigFromFlags("", os.Args[2])
	fail(err)
	set, err := kubernetes.NewForConfig(config)
	fail(err)
	c := client{set, config, os.Args[3]}
	actions := map[string]func(context.Context) error{
		"list": c.list, "watch": c.watch, "informer": c.informer, "logs": c.logs, "exec": c.exec, "forward": c.forward,
	}
	action, known := actions[os.Args[1]]
	if !known {
		fail(fmt.Errorf("no action %s", os.Args[1]))
	}
	fail(action(context.Background()))
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func (c client) list(ctx context.Context) error {
	var names []string
	pages := pager.New(func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
		return c.CoreV1().ConfigMaps(c.namespace).List(ctx, options)
	})
	pages.PageSize = page
	err := pages.EachListItem(ctx, metav1.ListOptions{}, func(object runtime.Object) error {
		names = append(names, object.(*corev1.ConfigMap).Name)
		return nil
	})
	slices.Sort(names)
	fmt.Println(strings.Join(names, "\n"))
	return err
}

func one() metav1.ListOptions {
	return metav1.ListOptions{LabelSelector: watched}
}

func round(object any) {
	fmt.Println(object.(*corev1.ConfigMap).Labels["round"])
}

func (c client) watch(ctx context.Context) error {
	maps := c.CoreV1().ConfigMaps(c.namespace)
	list, err := maps.List(ctx, one())
	if err != nil {
		return err
	}
	for _, object := range list.Items {
		round(&object)
	}
	options := one()
	options.ResourceVersion = list.ResourceVersion
	watch, err := maps.Watch(ctx, options)
	if err != nil {
		return err
	}
	for event := range watch.ResultChan() {
		if _, isMap := event.Object.(*corev1.ConfigMap); !isMap {
			return fmt.Errorf("%s: %v", event.Type, event.Object)
		}
		round(event.Object)
	}
	return errors.New("the watch has ended")
}

func (c client) informer(ctx context.Context) error {
	factory := informers.NewSharedInformerFactoryWithOptions(c, 0, informers.WithNamespace(c.namespace),
		informers.WithTweakListOptions(func(options *metav1.ListOptions) { options.LabelSelector = watched }))
	informer := factory.Core().V1().ConfigMaps().Informer()
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    round,
		UpdateFunc: func(_, object any) { round(object) },
	})
	if err != nil {
		return err
	}
	factory.Start(ctx.Done())
	<-ctx.Done()
	select {}
}

func (c client) logs(ctx context.Context) error {
	logs, err := c.CoreV1().Pods(c.namespace).GetLogs(pod, &corev1.PodLogOptions{}).Stream(ctx)
	if err != nil {
		return err
	}
	defer logs.Close()
	_, err = io.Copy(os.Stdout, logs)
	return err
}

func (c client) exec(ctx context.Context) error {
	address := c.CoreV1().RESTClient().Post().Resource("pods").Namespace(c.namespace).Name(pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{
			Command: []string{"sh", "-c", command}, Stdin: true, Stdout: true, Stderr: true,
		}, scheme.ParameterCodec).URL()
	websocket, err := remotecommand.NewWebSocketExecutor(c.config, "GET", address.String())
	if err != nil {
		return err
	}
	older, err := remotecommand.NewSPDYExecutor(c.config, "POST", address)
	if err != nil {
		return err
	}
	executor, err := remotecommand.NewFallbackExecutor(websocket, older, httpstream.IsUpgradeFailure)
	if err != nil {
		return err
	}
	var stdout, stderr bytes.Buffer
	err = executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: strings.NewReader("hello\n"), Stdout: &stdout, Stderr: &stderr})
	var ended clientexec.CodeExitError
	if !errors.As(err, &ended) {
		return fmt.Errorf("not a code: %w", err)
	}
	fmt.Printf("stdout: %sstderr: %scode: %d\n", stdout.String(), stderr.String(), ended.Code)
	return nil
}

func (c client) forward(ctx context.Context) error {
	address := c.CoreV1().RESTClient().Post().Resource("pods").Namespace(c.namespace).Name(pod).SubResource("portforward").URL()
	dialer, err := c.dialer(address)
	if err != nil {
		return err
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	forwarder, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, []string{"0:8080"}, stop, ready, io.Discard, os.Stderr)
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- forwarder.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-ended:
		return fmt.Errorf("nothing is forwarded: %w", err)
	case <-time.After(time.Minute):
		return errors.New("nothing is forwarded in time")
	}
	defer close(stop)
	ports, err := forwarder.GetPorts()
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/large", ports[0].Local), nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	fmt.Printf("%d %x\n", len(body), sha256.Sum256(body))
	return err
}

// By WebSocket, and as older servers have it if that is not understood: what kubectl does.
func (c client) dialer(address *url.URL) (httpstream.Dialer, error) {
	transport, upgrader, err := spdy.RoundTripperFor(c.config)
	if err != nil {
		return nil, err
	}
	older := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, "POST", address)
	websocket, err := portforward.NewSPDYOverWebsocketDialer(address, c.config)
	if err != nil {
		return nil, err
	}
	return portforward.NewFallbackDialer(websocket, older, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	}), nil
}
