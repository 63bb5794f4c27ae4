package rollout_test

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	networkingapi "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/release"
)

// matched is a release that testers get before anybody else.
func matched(digit string) release.Release {
	r := wanted(digit)
	r.Weight, r.Match = 0, &release.Match{Header: "x-canary", Kind: release.MatchExact, Value: "yes"}
	return r
}

// mirrored is one that testers get, and copies of a part of the safe requests.
func mirrored(digit string) release.Release {
	r := matched(digit)
	r.Mirror = 60
	return r
}

// answered is who answers a request, and who gets a copy of it.
type answered struct {
	By     map[string]int32 // weights by host and subset
	Copies map[string]float64
}

// ask gives a request to a VirtualService's routes, as Envoy takes them: in their order, the first one that matches.
func ask(vs *networking.VirtualService, method, path string, headers map[string]string) answered {
	for _, route := range vs.Spec.Http {
		if !matches(route.Match, method, path, headers) {
			continue
		}
		to := answered{By: map[string]int32{}, Copies: map[string]float64{}}
		for _, d := range route.Route {
			weight := d.Weight
			if len(route.Route) == 1 {
				weight = 100
			}
			if weight > 0 {
				to.By[strings.TrimSuffix(d.Destination.Host+"/"+d.Destination.Subset, "/")] += weight
			}
		}
		for _, m := range route.Mirrors {
			to.Copies[m.Destination.Host+"/"+m.Destination.Subset] = m.Percentage.Value
		}
		return to
	}
	return answered{}
}

func matches(all []*networkingapi.HTTPMatchRequest, method, path string, headers map[string]string) bool {
	for _, m := range all {
		hit := compares(m.Uri, path, true) && compares(m.Method, method, true)
		for name, want := range m.Headers {
			value, has := headers[name]
			hit = hit && compares(want, value, has)
		}
		if hit {
			return true
		}
	}
	return len(all) == 0
}

// compares is Istio's comparison: no condition, a value that is there, or a whole value.
func compares(want *networkingapi.StringMatch, value string, has bool) bool {
	switch of := want.GetMatchType().(type) {
	case *networkingapi.StringMatch_Exact:
		return has && value == of.Exact
	case *networkingapi.StringMatch_Prefix:
		return has && strings.HasPrefix(value, of.Prefix)
	case *networkingapi.StringMatch_Regex:
		return has && regexp.MustCompile("^(?:"+of.Regex+")$").MatchString(value)
	}
	return has
}

func (w *world) liveVS() *networking.VirtualService {
	w.Helper()
	vs, err := w.mesh.NetworkingV1().VirtualServices(namespace).Get(w.Context(), w.set.VirtualService.Name, metav1.GetOptions{})
	w.must(vs, err)
	return vs
}

const (
	toPrimary = "qwik-node-app-service/primary"
	toCanary  = "qwik-node-app-service/canary"
)

// TestTesters: testers get the canary and nobody else does, until it has a weight; each keeps what is theirs. Nothing of it is
// left in the end, whichever way the release ends.
func TestTesters(t *testing.T) {
	yes, cookie := map[string]string{"x-canary": "yes"}, map[string]string{"cookie": "a=b; track=canary"}
	for name, c := range map[string]struct {
		match   string
		testers map[string]string
		others  []map[string]string
	}{
		"a header": {"header:x-canary=yes", yes, []map[string]string{{}, {"x-canary": "no"}, {"x-canary": "yes!"}, cookie}},
		"a cookie": {"cookie:track=canary", cookie, []map[string]string{{}, yes, {"cookie": "a=b"}, {"cookie": "track=canary2"}}},
		"a prefix": {"header:x-canary^=y", yes, []map[string]string{{}, {"x-canary": "no"}}},
		"a regex":  {"header:x-canary=~y.s", yes, []map[string]string{{}, {"x-canary": "yess"}}},
		"presence": {"header:x-canary", yes, []map[string]string{{}, cookie}},
	} {
		for _, end := range []string{"rollback", "promote"} {
			t.Run(name+", "+end, func(t *testing.T) {
				t.Parallel()
				at(t, "foreign", func(w *world) {
					w.patchRoute(`[{"op":"add","path":"/spec/http/1/match","value":[{"uri":{"prefix":"/app"}},{"uri":{"exact":"/"}}]}]`)
					atRest := w.liveVS()
					r := wanted("2")
					match, err := release.ParseMatch("", c.match)
					w.must(nil, err)
					r.Weight, r.Match = 0, match
					j := w.job("job")
					result, err := j.Canary(w.Context(), r)
					w.must(result, err)
					if !strings.Contains(result.Message, "gets 0% of the traffic and requests with "+match.Text()) {
						t.Errorf("%q", result.Message)
					}
					look := func(stage string, testers, others map[string]int32) {
						t.Helper()
						vs := w.liveVS()
						for _, path := range []string{"/", "/app/x"} {
							if got := ask(vs, "POST", path, c.testers); !cmp.Equal(got.By, testers) {
								t.Errorf("%s: testers get %v", stage, got)
							}
							for _, headers := range c.others {
								if got := ask(vs, "GET", path, headers); !cmp.Equal(got.By, others) || len(got.Copies) > 0 {
									t.Errorf("%s: others with %v get %v", stage, headers, got)
								}
							}
						}
						for path, want := range map[string]string{"/theirs/x": "other", "/none": ""} {
							if got := ask(vs, "GET", path, c.testers); want == "" && len(got.By) > 0 || want != "" && got.By[want] != 100 {
								t.Errorf("%s: a tester gets %v at %s", stage, got, path)
							}
						}
					}
					canary, primary := map[string]int32{toCanary: 100}, map[string]int32{toPrimary: 100}
					look("at weight 0", canary, primary)
					status, err := j.Status(w.Context())
					if err != nil || len(status.Drift) > 0 || !status.Match.Same(match) || status.Tracks[release.Canary].Ready != 1 {
						t.Errorf("%+v, %v", status, err)
					}
					w.must(j.Shift(w.Context(), []int{20}, 0))
					look("at weight 20", canary, map[string]int32{toPrimary: 80, toCanary: 20})
					if end == "rollback" {
						w.must(j.Rollback(w.Context(), "test"))
					} else {
						w.must(judge(w.Context(), j.Cluster, release.Healthy))
						w.must(j.Promote(w.Context()))
						look("promoted", primary, primary)
						w.must(j.Cleanup(w.Context()))
					}
					if diff := cmp.Diff(fmt.Sprint(atRest.Spec.Http), fmt.Sprint(w.liveVS().Spec.Http)); diff != "" {
						t.Errorf("the routes are not as they were (-then +now):\n%s", diff)
					}
				})
			})
		}
	}
}

// TestMirror: copies of safe requests go to the canary and callers get primary's answers, until the canary has a weight, or the
// release ends. The canary has the capacity for them first.
func TestMirror(t *testing.T) {
	at(t, "foreign", func(w *world) {
		atRest := w.liveVS()
		j := w.job("job")
		result, err := j.Canary(w.Context(), mirrored("2"))
		w.must(result, err)
		look := func(stage, method string, headers map[string]string, want answered) {
			t.Helper()
			if diff := cmp.Diff(want, ask(w.liveVS(), method, "/", headers)); diff != "" {
				t.Errorf("%s: %s with %v (-want +got):\n%s", stage, method, headers, diff)
			}
		}
		nobody, yes, primary := map[string]float64{}, map[string]string{"x-canary": "yes"}, map[string]int32{toPrimary: 100}
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			look("at weight 0", method, nil, answered{primary, map[string]float64{toCanary: 60}})
		}
		for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodOptions, "GETX"} {
			look("at weight 0", method, nil, answered{primary, nobody})
		}
		look("at weight 0", http.MethodGet, yes, answered{map[string]int32{toCanary: 100}, nobody})
		if got := splitOf(w.set, w.liveVS()); got != "100/0 match mirror" {
			t.Errorf("%s", got)
		}
		status, err := j.Status(w.Context())
		if err != nil || len(status.Drift) > 0 || status.Mirror != 60 || status.Tracks[release.Canary].Ready != 2 { // 60% of two, rounded up
			t.Errorf("%+v, %v", status, err)
		}
		w.must(j.Shift(w.Context(), []int{10}, 0))
		look("at weight 10", http.MethodGet, nil, answered{map[string]int32{toPrimary: 90, toCanary: 10}, nobody})
		look("at weight 10", http.MethodGet, yes, answered{map[string]int32{toCanary: 100}, nobody})
		w.must(j.Rollback(w.Context(), "test"))
		if diff := cmp.Diff(fmt.Sprint(atRest.Spec.Http), fmt.Sprint(w.liveVS().Spec.Http)); diff != "" {
			t.Errorf("the routes are not as they were (-then +now):\n%s", diff)
		}
	})
}

// TestFromWeightZero: what a release that starts at weight 0 writes, in order. Promotion gives the canary the capacity for all
// of the traffic before the traffic, whatever its weight was.
func TestFromWeightZero(t *testing.T) {
	for _, c := range []struct{ stage, command, want string }{
		{"rest", "match", "note r2 started, create canary image 2 x1, update vs 100/0 match, note r2 canary 0%"},
		{"rest", "mirror", "note r2 started, create canary image 2 x2, update vs 100/0 match mirror, note r2 canary 0%"},
		{"matched", "shift", "note r2 canary 25%, update vs 75/25 match, update canary x2, note r2 canary 60%, update vs 40/60 match"},
		{"mirrored", "shift", "note r2 canary 25%, update vs 75/25 match, note r2 canary 60%, update vs 40/60 match"},
		{"mirrored healthy", "promote", "note r2 promoting, update vs 0/100 match, update primary image 2, update vs 100/0, note r2 promoted"},
		{"mirrored", "promote", ""},
		{"matched", "rollback", "note r2 rolling_back, update vs 100/0, delete canary, note r2 ended: rolled_back"},
		{"mirrored", "rollback", "note r2 rolling_back, update vs 100/0, delete canary, note r2 ended: rolled_back"},
	} {
		at(t, c.stage, func(w *world) {
			j := w.job("job")
			_, err := commands[c.command](w.Context(), j)
			if got := strings.Join(w.did(j), ", "); got != c.want || (err == nil) != (c.want != "") {
				t.Errorf("%s at %s: %v, it did\n%s, want\n%s", c.command, c.stage, err, got, c.want)
			}
		})
	}
}

// TestStickyTesters: testers come before the cookies of a sticky release, and get none while they are alone.
func TestStickyTesters(t *testing.T) {
	at(t, "rest", func(w *world) {
		j := w.job("job")
		r := sticky("2")
		r.Weight, r.Match = 0, matched("2").Match
		w.must(j.Canary(w.Context(), r))
		cookies := func() (found []string) {
			for _, route := range w.liveVS().Spec.Http {
				for _, d := range route.Route {
					if d.GetHeaders().GetResponse().GetAdd()["set-cookie"] != "" {
						found = append(found, route.Name+"/"+d.Destination.Subset)
					}
				}
			}
			return found
		}
		if got := splitOf(w.set, w.liveVS()); got != "100/0 match" || len(cookies()) > 0 {
			t.Errorf("%s with cookies %q", got, cookies())
		}
		w.must(j.Shift(w.Context(), []int{10}, 0))
		vs := w.liveVS()
		if got := splitOf(w.set, vs); got != "90/10 match sticky canary+primary" || vs.Spec.Http[0].Name != "crossbill-match-0" {
			t.Errorf("%s, first %q", got, vs.Spec.Http[0].Name)
		}
		if diff := cmp.Diff([]string{"release/primary", "release/canary"}, cookies()); diff != "" {
			t.Errorf("cookies (-want +got):\n%s", diff)
		}
		w.must(j.Rollback(w.Context(), "test"))
		if unrest := w.unrest("1"); unrest != "" {
			t.Error(unrest)
		}
	})
}

// TestUnreadyTesters: a canary that does not get ready is never routed to, and testers keep getting primary.
func TestUnreadyTesters(t *testing.T) {
	at(t, "rest", func(w *world) {
		w.server.mu.Lock()
		w.controllers.silent = true // its pods are no endpoints
		w.server.mu.Unlock()
		j := w.job("job")
		j.Timeout = 20 * time.Second
		_, err := j.Canary(w.Context(), mirrored("2"))
		if err == nil || strings.Contains(strings.Join(w.did(j), ", "), "update vs") {
			t.Errorf("%v, it did %q", err, w.did(j))
		}
		w.must(w.job("back").Rollback(w.Context(), "test"))
		if unrest := w.unrest("1"); unrest != "" {
			t.Error(unrest)
		}
	})
}

// TestRouteOfTestersAlone: somebody has deleted the release's route; the rollback takes off what the release has added.
func TestRouteOfTestersAlone(t *testing.T) {
	at(t, "mirrored", func(w *world) {
		w.observer.started = false
		w.patchRoute(`[{"op":"add","path":"/spec/http/-","value":{"route":[{"destination":{"host":"other"}}]}},{"op":"remove","path":"/spec/http/2"}]`)
		w.must(w.job("back").Rollback(w.Context(), "test"))
		if vs := w.liveVS(); len(vs.Spec.Http) != 1 || vs.Spec.Http[0].Route[0].Destination.Host != "other" {
			t.Errorf("%v", vs.Spec.Http)
		}
	})
}
