// Package istiostats is the part of Istio's proxy that a stock Envoy lacks: it counts each request as
// istio_requests_total and istio_request_duration_milliseconds, from the access log of the gateway or of a caller's
// sidecar, to which istiod gives the format that [Format] is. Envoy writes that log where Istio's filter counts: when a
// request has ended.
//
// The labels are made as Istio's filter makes them (istio/proxy at d13a386d7^, source/extensions/filters/http/
// istio_stats/istio_stats.cc, populatePeerInfo; now contrib/istio in envoyproxy/envoy), from the same data:
// the workload from the metadata `istio: workload` that istiod gives each endpoint (pilot/pkg/networking/util,
// AppendLbEndpointMetadata), whether a subset or a Service of its own leads there, the service from the metadata `istio: services` of the cluster. So a request for which
// no endpoint was chosen belongs to no workload: all that is said of its destination's workload is "unknown". For
// one that no cluster was found for (NR, NC) even the service is: on a gateway istiod turns the fallback to the
// host header off (pilot/pkg/model/telemetry.go, disableHostHeaderFallback).
//
// The app's pods have no sidecars. What theirs would report (reporter="destination") is made up from what the gateway, or
// the caller's sidecar, saw of each request that reached a pod, and from what the gateway counts of the copies that it
// mirrors (copies.go).
//
// What differs from Istio:
//   - A sidecar outlives its app, and answers and counts 503 UF for it. Here the gateway's connection is refused: it
//     tries another endpoint, as Istio's own default has it, and counts what came of that; destination counts nothing.
//   - The source's labels of the destination are those that Istio has without metadata exchange: app, version and
//     principal are unknown. The version is canonical_revision.
//   - There are no sizes, no TCP, no messages of gRPC streams, and no mTLS.
//   - destination has the duration that the gateway measured, and names the source, which without mTLS it does not know.
//   - A sidecar takes the service of a request that no cluster was found for from its host header. Here it is unknown.
package istiostats

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Format is Envoy's accessLogFormat: fields in the order of entry's, with tabs between.
const Format = "%PROTOCOL%\t%DURATION%\t%RESPONSE_CODE%\t%RESPONSE_FLAGS%\t%RESPONSE_CODE_DETAILS%\t%UPSTREAM_METADATA(istio:workload)%\t%CLUSTER_METADATA(istio:services)%\t%REQ(CONTENT-TYPE):17%\t%GRPC_STATUS_NUMBER%\n"

// bounds are the upper bounds of Envoy's buckets, in milliseconds.
var bounds = []float64{0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000, 600000, 1.8e6, 3.6e6}

// flush is how often Envoy brings its histograms up to date; Istio's bootstrap leaves it at that. Counters always are:
// right after a request, the two disagree.
const flush = 5 * time.Second

// Source is the workload of a proxy.
type Source struct{ Workload, Namespace, App string }

// Gateway is Istio's ingress gateway.
var Gateway = Source{Workload: "istio-ingressgateway", Namespace: "istio-system", App: "istio-ingressgateway"}

// Stats counts the requests that one proxy sends.
type Stats struct {
	source []string // labels

	mu      sync.Mutex
	entries map[string]*entry // by the line without its duration
	series  map[string]*series
	flushed time.Time

	reading  sync.Mutex        // one reading of copies at a time
	admin    string            // of the Envoy that sends copies; "" reads none
	counted  string            // what Envoy said of copies at the last reading
	copies   map[string]uint64 // by cluster and code, as of then
	copiedTo map[string]string // workloads by cluster
}

// entry is what lines that say the same count for.
type entry struct{ reports []*series }

// series is the two metrics with one set of labels.
type series struct {
	labels   string
	requests uint64
	duration histogram
	shown    histogram // as of the last flush
}

type histogram struct {
	count   uint64
	sum     float64
	buckets [20]uint64 // not cumulative; the last is +Inf
}

// New counts nothing yet, for one proxy.
func New(source Source) *Stats {
	return &Stats{source: source.labels(), entries: map[string]*entry{}, series: map[string]*series{}, copies: map[string]uint64{}, copiedTo: map[string]string{}}
}

// Read counts what a log says, until it ends.
func (s *Stats) Read(log io.Reader) error {
	lines := bufio.NewScanner(log)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if err := s.add(lines.Bytes()); err != nil {
			return err
		}
	}
	return lines.Err()
}

func (s *Stats) add(line []byte) error {
	protocol, rest, ok := bytes.Cut(line, []byte("\t"))
	duration, key, ok2 := bytes.Cut(rest, []byte("\t"))
	if !ok || !ok2 {
		return fmt.Errorf("access log: %q is not as it was asked for", line)
	}
	if string(protocol) == "-" {
		return nil // a connection that never became a request
	}
	took, err := strconv.ParseFloat(string(duration), 64)
	if err != nil {
		return fmt.Errorf("access log: %q: %w", line, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[string(key)]
	if e == nil {
		if e, err = s.entry(string(key)); err != nil {
			return fmt.Errorf("access log: %q: %w", line, err)
		}
		s.entries[string(key)] = e
	}
	for _, one := range e.reports {
		one.requests++
		one.duration.add(took)
	}
	return nil
}

func (h *histogram) add(took float64) {
	h.count++
	h.sum += took
	i := 0
	for i < len(bounds) && took > bounds[i] {
		i++
	}
	h.buckets[i]++
}

// entry finds the series that a line counts for.
func (s *Stats) entry(key string) (*entry, error) {
	fields := strings.Split(key, "\t")
	if len(fields) != 7 {
		return nil, fmt.Errorf("%d fields", len(fields))
	}
	code, flags, details := fields[0], fields[1], fields[2]
	to, err := destinationOf(fields[3], fields[4])
	if err != nil {
		return nil, err
	}
	protocol, status := protocolOf(fields[5], fields[6])
	said := func(code, flags, status, security string) []string {
		return []string{"request_protocol", protocol, "response_code", code, "grpc_response_status", status, "response_flags", flags, "connection_security_policy", security}
	}
	e := &entry{reports: []*series{s.of(to.atSource(), said(code, flags, status, "unknown"))}}
	if own, flags, ok := seenByPod(code, flags, details); ok && to.workload != unknown {
		if own == "0" { // there was no answer that a status could be made of
			status = ""
		} else if own != code && protocol == "grpc" {
			status = "14" // what Envoy makes of 503
		}
		e.reports = append(e.reports, s.of(to.atDestination(), said(own, flags, status, "none")))
	}
	return e, nil
}

// seenByPod is the code and the flags with which a pod's sidecar would report a request; false when the request
// never got there.
func seenByPod(code, flags, details string) (string, string, bool) {
	set := strings.Split(flags, ",")
	has := func(flag string) bool { return slices.Contains(set, flag) }
	switch {
	case details == "via_upstream":
		return code, "-", true
	case has("DC"), has("UT"), has("SI"): // the gateway let go of it
		return "0", "DC", true
	case has("UC"), has("UR"), has("UPE"): // the app did
		return "503", "UC", true
	}
	return "", "", false
}

// protocolOf is the protocol of a request and its gRPC status, as the filter has them: by the content type of the request,
// and by Envoy's reading of the status, which makes one of the code if the app gave none.
func protocolOf(contentType, status string) (string, string) {
	if rest, ok := strings.CutPrefix(contentType, "application/grpc"); !ok || rest != "" && rest != "+" {
		return "http", ""
	}
	if status == "-" {
		status = ""
	}
	return "grpc", status
}

const unknown = "unknown"

// destination is where a request was to go.
type destination struct {
	workload, namespace, canonical, revision, cluster string
	host, service, serviceNamespace                   string
}

// destinationOf reads istiod's metadata of the endpoint that was chosen, and of its cluster; "-" is none.
func destinationOf(workload, services string) (destination, error) {
	d := destination{unknown, unknown, unknown, "latest", unknown, unknown, unknown, unknown}
	set := func(field *string, value string) {
		if value != "" {
			*field = value
		}
	}
	if parts := strings.Split(workload, ";"); len(parts) >= 5 {
		for i, field := range []*string{&d.workload, &d.namespace, &d.canonical, &d.revision, &d.cluster} {
			set(field, parts[i])
		}
	}
	if services != "-" {
		var list []struct{ Host, Name, Namespace string }
		if err := json.Unmarshal([]byte(services), &list); err != nil {
			return d, fmt.Errorf("metadata of a cluster %q: %w", services, err)
		}
		if len(list) > 0 {
			set(&d.host, list[0].Host)
			set(&d.service, list[0].Name)
			set(&d.serviceNamespace, list[0].Namespace)
		}
	}
	if d.serviceNamespace == unknown {
		d.serviceNamespace = d.namespace
	}
	return d, nil
}

func (s Source) labels() []string {
	return []string{
		"source_workload", s.Workload, "source_workload_namespace", s.Namespace, "source_principal", unknown,
		"source_app", s.App, "source_version", unknown, "source_canonical_service", s.App,
		"source_canonical_revision", "latest", "source_cluster", "Kubernetes",
	}
}

func (d destination) atSource() []string { return d.labels("source", unknown, unknown) }

// atDestination: a pod knows its own labels.
func (d destination) atDestination() []string {
	return d.labels("destination", d.canonical, d.revision)
}

func (d destination) labels(reporter, app, version string) []string {
	return []string{
		"reporter", reporter,
		"destination_workload", d.workload, "destination_workload_namespace", d.namespace, "destination_principal", unknown,
		"destination_app", app, "destination_version", version, "destination_service", d.host,
		"destination_canonical_service", d.canonical, "destination_canonical_revision", d.revision,
		"destination_service_name", d.service, "destination_service_namespace", d.serviceNamespace, "destination_cluster", d.cluster,
	}
}

// of is the series of a set of labels.
func (s *Stats) of(labels, said []string) *series {
	labels = slices.Concat(labels, s.source, said)
	var b strings.Builder
	for i := 0; i < len(labels); i += 2 {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%s=%q", labels[i], labels[i+1])
	}
	text := b.String()
	if s.series[text] == nil {
		s.series[text] = &series{labels: text}
	}
	return s.series[text]
}

// ServeHTTP gives the metrics in Prometheus's text format.
func (s *Stats) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	if s.admin != "" {
		if err := s.addCopies(); err != nil { // a sidecar that does not answer is not scraped either
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
	}
	w.Header().Set("content-type", "text/plain; version=0.0.4")
	out := bufio.NewWriter(w)
	defer out.Flush()
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); now.Sub(s.flushed) >= flush {
		s.flushed = now
		for _, one := range s.series {
			one.shown = one.duration
		}
	}
	fmt.Fprintln(out, "# TYPE istio_requests_total counter")
	for _, one := range s.series {
		fmt.Fprintf(out, "istio_requests_total{%s} %d\n", one.labels, one.requests)
	}
	fmt.Fprintln(out, "# TYPE istio_request_duration_milliseconds histogram")
	for _, one := range s.series {
		if one.shown.count > 0 {
			one.write(out)
		}
	}
}

func (s *series) write(out io.Writer) {
	const name = "istio_request_duration_milliseconds"
	cumulative := uint64(0)
	for i, n := range s.shown.buckets {
		cumulative += n
		le := "+Inf"
		if i < len(bounds) {
			le = strconv.FormatFloat(bounds[i], 'g', -1, 64)
		}
		fmt.Fprintf(out, "%s_bucket{%s,le=%q} %d\n", name, s.labels, le, cumulative)
	}
	fmt.Fprintf(out, "%s_sum{%s} %g\n%s_count{%s} %d\n", name, s.labels, s.shown.sum, name, s.labels, s.shown.count)
}
