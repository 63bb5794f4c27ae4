package istiostats

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Copies are requests that the gateway mirrors. It sends them past its filters and its access log
// (source/common/router/shadow_writer_impl.cc in envoyproxy/envoy: the cluster's asynchronous client), so that it reports
// none with reporter="source"; the sidecar of the pod that gets them reports them like any other
// (istio/istio#11093, #23496). What that sidecar would say is made up here of what Envoy counts itself: a mirrored
// request is internal, in cluster.NAME.internal, and one of a caller outside is not.
//
// What differs from Istio, beside the rest: a copy whose connection is refused is counted as 503, as a sidecar does that
// outlives its app; there are no response flags and no durations, so that nothing judges the latency of copies; and all of a
// cluster's copies belong to the workload of its first endpoint when it was first seen.

var copied = regexp.MustCompile(`^cluster\.(outbound\|.*?);?\.internal\.upstream_rq_([0-9]{3}): ([0-9]+)$`)

// ReadCopies lets the metrics have the copies that the Envoy sends whose administration listens at an address.
func (s *Stats) ReadCopies(admin string) { s.admin = "http://" + admin }

// addCopies brings what the pods' sidecars would say of copies up to date.
func (s *Stats) addCopies() error {
	s.reading.Lock()
	defer s.reading.Unlock()
	client := &http.Client{Timeout: 2 * time.Second}
	read := func(path string) (string, error) {
		response, err := client.Get(s.admin + path)
		if err != nil {
			return "", err
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		return string(text), err
	}
	counted, err := read("/stats?filter=internal\\.upstream_rq_[0-9]")
	if err != nil {
		return err
	}
	clusters := map[string]map[string]uint64{} // by code
	for line := range strings.Lines(counted) {
		found := copied.FindStringSubmatch(strings.TrimSpace(line))
		if found == nil {
			continue
		}
		n, err := strconv.ParseUint(found[3], 10, 64)
		if err != nil {
			return err
		}
		if clusters[found[1]] == nil {
			clusters[found[1]] = map[string]uint64{}
		}
		clusters[found[1]][found[2]] = n
	}
	if counted == s.counted {
		return nil
	}
	// The configuration is large, and a scrape has a second: it is read for clusters that are new.
	var workloads map[string]string
	if slices.ContainsFunc(slices.Collect(maps.Keys(clusters)), func(name string) bool { return s.copiedTo[name] == "" }) {
		dump, err := read("/config_dump?include_eds")
		if err != nil {
			return err
		}
		if workloads, err = workloadsOf(dump); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counted = counted
	for name, codes := range clusters {
		workload := cmp.Or(s.copiedTo[name], workloads[name])
		if workload == "" {
			s.counted = "" // the next reading may know it
			continue
		}
		s.copiedTo[name] = workload
		host := name[strings.LastIndex(name, "|")+1:]
		parts := strings.Split(host, ".")
		if len(parts) < 2 {
			continue
		}
		to, err := destinationOf(workload, fmt.Sprintf(`[{"host":%q,"name":%q,"namespace":%q}]`, host, parts[0], parts[1]))
		if err != nil {
			return err
		}
		for code, n := range codes {
			one := s.of(to.atDestination(), []string{"request_protocol", "http", "response_code", code, "grpc_response_status", "", "response_flags", "-", "connection_security_policy", "none"})
			if before := s.copies[name+code]; n >= before {
				one.requests += n - before
			} else { // Envoy has started again
				one.requests += n
			}
			s.copies[name+code] = n
		}
	}
	return nil
}

// workloadsOf is what istiod says of each cluster's first endpoint.
func workloadsOf(dump string) (map[string]string, error) {
	type endpoints struct {
		ClusterName string `json:"cluster_name"`
		Endpoints   []struct {
			LbEndpoints []struct {
				Metadata struct {
					FilterMetadata struct {
						Istio struct {
							Workload string `json:"workload"`
						} `json:"istio"`
					} `json:"filter_metadata"`
				} `json:"metadata"`
			} `json:"lb_endpoints"`
		} `json:"endpoints"`
	}
	var all struct {
		Configs []struct {
			Dynamic []struct {
				Config endpoints `json:"endpoint_config"`
			} `json:"dynamic_endpoint_configs"`
		} `json:"configs"`
	}
	if err := json.Unmarshal([]byte(dump), &all); err != nil {
		return nil, fmt.Errorf("the gateway's configuration: %w", err)
	}
	found := map[string]string{}
	for _, config := range all.Configs {
		for _, dynamic := range config.Dynamic {
			for _, locality := range dynamic.Config.Endpoints {
				for _, endpoint := range locality.LbEndpoints {
					if workload := endpoint.Metadata.FilterMetadata.Istio.Workload; workload != "" && found[dynamic.Config.ClusterName] == "" {
						found[dynamic.Config.ClusterName] = workload
					}
				}
			}
		}
	}
	return found, nil
}
