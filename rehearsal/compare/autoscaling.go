package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// metricsGroup is the API by which the HPA controller asks for what it scales by.
const metricsGroup = "custom.metrics.k8s.io"

// serveMetrics stands in for the Prometheus adapter: it serves the requests per second of each pod, as the pod itself has counted
// them in the last 5 s. It has this one metric, no other window, and no selector of metrics. What it answers was checked against
// k8s.io/metrics (custom_metrics/v1beta2) and its client, which the HPA controller uses.
func (r *arena) serveMetrics(ctx context.Context) error {
	server := httptest.NewUnstartedServer(r.metrics())
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // a busy API server gives up now and then
	server.StartTLS()                                   // any certificate will do: it is not checked
	context.AfterFunc(ctx, server.Close)
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		return err
	}
	const name, namespace = "custom-metrics", "istio-system"
	err = r.create(ctx, namespace, `apiVersion: v1
kind: Service
metadata: {name: `+name+`}
spec: {type: ExternalName, externalName: localhost}
`)
	if err != nil {
		return err
	}
	number, err := strconv.ParseInt(port, 10, 64)
	if err != nil {
		return err
	}
	resource := schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"}
	_, err = r.objects.Resource(resource).Create(ctx, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": map[string]any{"name": "v1beta2." + metricsGroup},
		"spec": map[string]any{
			"group": metricsGroup, "version": "v1beta2", "groupPriorityMinimum": int64(100), "versionPriority": int64(100),
			"insecureSkipTLSVerify": true, "service": map[string]any{"name": name, "namespace": namespace, "port": number},
		},
	}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	return eventually(ctx, time.Minute, func() error {
		u, err := r.objects.Resource(resource).Get(ctx, "v1beta2."+metricsGroup, metav1.GetOptions{})
		if err != nil {
			return err
		}
		conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
		for _, c := range conditions {
			if c, _ := c.(map[string]any); c["type"] == "Available" && c["status"] == "True" {
				return nil
			}
		}
		return fmt.Errorf("the API of metrics is not available: %v", conditions)
	})
}

// metrics is its handler.
func (r *arena) metrics() http.Handler {
	answer := func(w http.ResponseWriter, value any) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(value)
	}
	const version = metricsGroup + "/v1beta2"
	mux := http.NewServeMux()
	mux.HandleFunc("GET /apis/"+version, func(w http.ResponseWriter, _ *http.Request) {
		answer(w, metav1.APIResourceList{
			TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: version,
			APIResources: []metav1.APIResource{{Name: "pods/requests_per_second", Namespaced: true, Kind: "MetricValueList", Verbs: []string{"get"}}},
		})
	})
	mux.HandleFunc("GET /apis/"+version+"/namespaces/{namespace}/pods/{pods}/requests_per_second", func(w http.ResponseWriter, request *http.Request) {
		list, err := r.kube.CoreV1().Pods(request.PathValue("namespace")).List(request.Context(),
			metav1.ListOptions{LabelSelector: request.URL.Query().Get("labelSelector"), ResourceVersion: "0"})
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		answer(w, map[string]any{"kind": "MetricValueList", "apiVersion": version, "metadata": map[string]any{}, "items": measured(request.Context(), list.Items)})
	})
	return mux
}

// measured asks pods for their load. One that does not answer has no value, as one that Prometheus could not scrape.
func measured(ctx context.Context, pods []corev1.Pod) []any {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	values := make([]any, len(pods))
	var group sync.WaitGroup
	for i, p := range pods {
		if p.Status.Phase != corev1.PodRunning || p.Status.PodIP == "" {
			continue
		}
		group.Go(func() {
			load, err := loadOf(ctx, "http://"+net.JoinHostPort(p.Status.PodIP, "3000")+"/load")
			if err != nil {
				return
			}
			values[i] = map[string]any{
				"describedObject": map[string]any{"kind": "Pod", "apiVersion": "/v1", "namespace": p.Namespace, "name": p.Name},
				"metric":          map[string]any{"name": "requests_per_second"}, "timestamp": metav1.Now(), "windowSeconds": 5,
				"value": strconv.FormatInt(int64(load*1000), 10) + "m",
			}
		})
	}
	group.Wait()
	found := []any{}
	for _, v := range values {
		if v != nil {
			found = append(found, v)
		}
	}
	return found
}

func loadOf(ctx context.Context, address string) (float64, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return 0, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 64))
	if err != nil {
		return 0, err
	}
	return strconv.ParseFloat(strings.TrimSpace(string(text)), 64)
}

// scaled waits until the HPA has given an app the pods that its traffic needs.
func (a *app) scaled(ctx context.Context) error {
	return eventually(ctx, a.s.patience(), func() error {
		pods, err := a.pods(ctx)
		if err == nil && !a.atRest(pods, a.values.Image) {
			err = fmt.Errorf("%s has %d pods, and needs %d that are ready", a.name, len(pods), a.values.Replicas)
		}
		return err
	})
}
