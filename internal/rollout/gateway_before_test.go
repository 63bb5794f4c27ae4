package rollout_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// askRoute gives a request to an HTTPRoute's rules, as istiod 1.31 orders them: a rule for each match, by the kind of path and its
// length, then with a method, then by the number of headers and of query parameters; what is equal stays in its order.
func askRoute(route *unstructured.Unstructured, method, path string, headers map[string]string) answered {
	type one struct{ rule, match map[string]any }
	var all []one
	rules, _, _ := unstructured.NestedSlice(route.Object, "spec", "rules")
	for _, rule := range rules {
		for _, m := range rule.(map[string]any)["matches"].([]any) {
			all = append(all, one{rule.(map[string]any), m.(map[string]any)})
		}
	}
	rank := func(m map[string]any) []int {
		of, value := fieldsOf(m["path"], "type", "value")
		list := func(key string) int { items, _ := m[key].([]any); return len(items) }
		methods := 0
		if m["method"] != nil {
			methods = 1
		}
		return []int{map[string]int{"Exact": 3, "PathPrefix": 2, "RegularExpression": 1}[of], len(value), methods, list("headers"), list("queryParams")}
	}
	slices.SortStableFunc(all, func(a, b one) int { return slices.Compare(rank(b.match), rank(a.match)) })
	for _, r := range all {
		if !routeMatches(r.match, method, path, headers) {
			continue
		}
		to := answered{By: map[string]int32{}, Copies: map[string]float64{}}
		for _, b := range r.rule["backendRefs"].([]any) {
			name, _ := fieldsOf(b, "name", "")
			if weight := b.(map[string]any)["weight"].(int64); weight > 0 {
				to.By[name] += int32(weight)
			}
		}
		filters, _ := r.rule["filters"].([]any)
		for _, f := range filters {
			if mirror, ok := f.(map[string]any)["requestMirror"].(map[string]any); ok {
				name, _ := fieldsOf(mirror["backendRef"], "name", "")
				to.Copies[name] = float64(mirror["percent"].(int64))
			}
		}
		return to
	}
	return answered{}
}

func fieldsOf(of any, one, other string) (string, string) {
	fields, _ := of.(map[string]any)
	first, _ := fields[one].(string)
	second, _ := fields[other].(string)
	return first, second
}

func routeMatches(m map[string]any, method, path string, headers map[string]string) bool {
	kind, value := fieldsOf(m["path"], "type", "value")
	hit := kind == "Exact" && path == value || kind == "PathPrefix" && strings.HasPrefix(path+"/", strings.TrimSuffix(value, "/")+"/")
	if m["method"] != nil && m["method"] != method {
		return false
	}
	all, _ := m["headers"].([]any)
	for _, h := range all {
		name, _ := fieldsOf(h, "name", "")
		kind, value := fieldsOf(h, "type", "value")
		is, has := headers[strings.ToLower(name)]
		hit = hit && has && (kind == "Exact" && is == value || kind == "RegularExpression" && regexp.MustCompile("^(?:"+value+")$").MatchString(is))
	}
	return hit
}

// reroute changes the HTTPRoute as those do who own it, before a release; the controllers have taken it then.
func (w *world) reroute(patch string) {
	w.Helper()
	w.observer.started = false
	w.patchGatewayRoute(patch)
	time.Sleep(time.Second)
	w.observer.started = true
}

func rulesText(t *testing.T, route *unstructured.Unstructured) string {
	text, err := json.Marshal(route.Object["spec"])
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

const (
	servicePrimary = "qwik-node-app-service-primary"
	serviceCanary  = "qwik-node-app-service-canary"
)

// TestTestersByHTTPRoute: testers get the canary and nobody else does, until it has a weight. Nothing of it is left in the end,
// whichever way the release ends, and what others own is byte for byte as it was.
func TestTestersByHTTPRoute(t *testing.T) {
	yes, cookie := map[string]string{"x-canary": "yes"}, map[string]string{"cookie": "a=b; track=canary"}
	for name, c := range map[string]struct {
		match   string
		testers map[string]string
		others  []map[string]string
	}{
		"a header": {"header:x-canary=yes", yes, []map[string]string{{}, {"x-canary": "no"}, {"x-canary": "yes!"}, cookie}},
		"a cookie": {"cookie:track=canary", cookie, []map[string]string{{}, yes, {"cookie": "a=b"}, {"cookie": "track=canary2"}}},
		"a prefix": {"header:x-canary^=y", yes, []map[string]string{{}, {"x-canary": "no"}}},
		"a regex":  {"header:x-canary=~y.s|n", yes, []map[string]string{{}, {"x-canary": "yess"}}},
		"presence": {"header:x-canary", yes, []map[string]string{{}, cookie}},
	} {
		for _, end := range []string{"rollback", "promote"} {
			t.Run(name+", "+end, func(t *testing.T) {
				t.Parallel()
				at(t, gatewayApp+"foreign", func(w *world) {
					w.reroute(`[{"op":"add","path":"/spec/rules/1/matches","value":[{"path":{"type":"PathPrefix","value":"/app"}},{"path":{"type":"Exact","value":"/"},"headers":[{"name":"x-user","value":"a"}]}]}]`)
					atRest := rulesText(t, w.liveRoute())
					r := wanted("2")
					match, err := release.ParseMatch("", c.match)
					w.must(nil, err)
					r.Weight, r.Match = 0, match
					j := w.job("job")
					w.must(j.Canary(w.Context(), r))
					look := func(stage string, testers, others map[string]int32) {
						t.Helper()
						route := w.liveRoute()
						user := func(of map[string]string) map[string]string {
							headers := map[string]string{"x-user": "a"}
							maps.Copy(headers, of)
							return headers
						}
						for _, path := range []string{"/", "/app/x"} {
							if got := askRoute(route, "POST", path, user(c.testers)); !gocmp.Equal(got.By, testers) {
								t.Errorf("%s: testers get %v at %s", stage, got, path)
							}
							for _, headers := range c.others {
								if got := askRoute(route, "GET", path, user(headers)); !gocmp.Equal(got.By, others) || len(got.Copies) > 0 {
									t.Errorf("%s: others with %v get %v at %s", stage, headers, got, path)
								}
							}
						}
						for path, want := range map[string]string{"/theirs/x": "other", "/none": ""} {
							if got := askRoute(route, "GET", path, c.testers); want == "" && len(got.By) > 0 || want != "" && got.By[want] != 1 {
								t.Errorf("%s: a tester gets %v at %s", stage, got, path)
							}
						}
					}
					canary, primary := map[string]int32{serviceCanary: 100}, map[string]int32{servicePrimary: 100, "other": 3}
					look("at weight 0", canary, primary)
					status, err := j.Status(w.Context())
					if err != nil || len(status.Drift) > 0 || !status.Match.Same(match) || status.Tracks[release.Canary].Ready != 1 {
						t.Errorf("%+v, %v", status, err)
					}
					w.must(j.Shift(w.Context(), []int{20}, 0))
					look("at weight 20", canary, map[string]int32{servicePrimary: 80, serviceCanary: 20, "other": 3})
					if end == "rollback" {
						w.must(j.Rollback(w.Context(), "test"))
					} else {
						w.must(judge(w.Context(), j.Cluster, release.Healthy))
						w.must(j.Promote(w.Context()))
						look("promoted", primary, primary)
						w.must(j.Cleanup(w.Context()))
					}
					if diff := gocmp.Diff(atRest, rulesText(t, w.liveRoute())); diff != "" {
						t.Errorf("the rules are not as they were (-then +now):\n%s", diff)
					}
				})
			})
		}
	}
}

// TestMirrorByHTTPRoute: copies of safe requests go to the canary and callers get primary's answers, until the canary has a
// weight. Testers get the canary's by the mirrored methods too, which come before a header.
func TestMirrorByHTTPRoute(t *testing.T) {
	at(t, gatewayApp+"foreign", func(w *world) {
		atRest := rulesText(t, w.liveRoute())
		j := w.job("job")
		w.must(j.Canary(w.Context(), mirrored("2")))
		look := func(method string, headers map[string]string, want answered) {
			t.Helper()
			if diff := gocmp.Diff(want, askRoute(w.liveRoute(), method, "/", headers)); diff != "" {
				t.Errorf("%s with %v (-want +got):\n%s", method, headers, diff)
			}
		}
		nobody, yes, primary := map[string]float64{}, map[string]string{"x-canary": "yes"}, map[string]int32{servicePrimary: 100, "other": 3}
		for _, method := range []string{"GET", "HEAD"} {
			look(method, nil, answered{primary, map[string]float64{serviceCanary: 60}})
		}
		for _, method := range []string{"POST", "PUT", "DELETE", "OPTIONS"} {
			look(method, nil, answered{primary, nobody})
		}
		for _, method := range []string{"GET", "HEAD", "POST"} {
			look(method, yes, answered{map[string]int32{serviceCanary: 100}, nobody})
		}
		status, err := j.Status(w.Context())
		if err != nil || len(status.Drift) > 0 || status.Mirror != 60 || status.Tracks[release.Canary].Ready != 2 {
			t.Errorf("%+v, %v", status, err)
		}
		w.must(j.Shift(w.Context(), []int{10}, 0))
		look("GET", nil, answered{map[string]int32{servicePrimary: 90, serviceCanary: 10, "other": 3}, nobody})
		look("GET", yes, answered{map[string]int32{serviceCanary: 100}, nobody})
		w.must(j.Rollback(w.Context(), "test"))
		if diff := gocmp.Diff(atRest, rulesText(t, w.liveRoute())); diff != "" {
			t.Errorf("the rules are not as they were (-then +now):\n%s", diff)
		}
	})
}

// TestFromWeightZeroByHTTPRoute: each command changes the route once for all that it gives, and only then notes it.
func TestFromWeightZeroByHTTPRoute(t *testing.T) {
	for _, c := range []struct{ stage, command, want string }{
		{"rest", "mirror", "note r2 started, create canary image 2 x2, update vs 100/0 match mirror, note r2 canary 0%"},
		{"mirrored", "shift", "note r2 canary 25%, update vs 75/25 match, note r2 canary 60%, update vs 40/60 match"},
		{"mirrored", "rollback", "note r2 rolling_back, update vs 100/0, delete canary, note r2 ended: rolled_back"},
	} {
		at(t, gatewayApp+c.stage, func(w *world) {
			j := w.job("job")
			_, err := commands[c.command](w.Context(), j)
			if got := strings.Join(w.did(j), ", "); got != c.want || err != nil {
				t.Errorf("%s at %s: %v, it did\n%s, want\n%s", c.command, c.stage, err, got, c.want)
			}
		})
	}
}

// TestNoTestersByHTTPRoute: what cannot be made of the rules is refused before anything is written.
func TestNoTestersByHTTPRoute(t *testing.T) {
	theirs := func(match string) string {
		return `[{"op":"add","path":"/spec/rules/-","value":{"name":"theirs","matches":[` + match + `],"backendRefs":[{"name":"other","port":80}]}}]`
	}
	matches := func(n int) string {
		all := make([]string, n)
		for i := range all {
			all[i] = fmt.Sprintf(`{"path":{"type":"Exact","value":"/%d"}}`, i)
		}
		return `[{"op":"add","path":"/spec/rules/0/matches","value":[` + strings.Join(all, ",") + `]}]`
	}
	for name, c := range map[string]struct {
		patch string
		of    release.Release
		says  string // "" is nothing
	}{
		"their header":           {`[{"op":"add","path":"/spec/rules/0/matches","value":[{"headers":[{"name":"X-Canary","value":"a"}]}]}]`, matched("2"), "matches the header x-canary already"},
		"their copies":           {`[{"op":"add","path":"/spec/rules/0/filters","value":[{"type":"RequestMirror","requestMirror":{"backendRef":{"name":"other","port":80}}}]}]`, mirrored("2"), "mirrors requests already"},
		"no safe request":        {`[{"op":"add","path":"/spec/rules/0/matches","value":[{"method":"POST"}]}]`, mirrored("2"), "none of the release's rules is for GET or HEAD"},
		"a rule of one header":   {theirs(`{"headers":[{"name":"x-beta","value":"a"}]}`), matched("2"), "a rule for testers or copies would be asked before it"},
		"a rule of a parameter":  {theirs(`{"queryParams":[{"name":"beta","value":"a"}]}`), matched("2"), "a rule for testers or copies would be asked before it"},
		"a rule of two headers":  {theirs(`{"headers":[{"name":"x-beta","value":"a"},{"name":"x-b","value":"a"}]}`), matched("2"), ""},
		"their headers, copies":  {theirs(`{"headers":[{"name":"x-beta","value":"a"},{"name":"x-b","value":"a"}]}`), mirrored("2"), "a rule for testers or copies would be asked before it"},
		"a rule of another path": {theirs(`{"path":{"type":"PathPrefix","value":"/b"},"headers":[{"name":"x-beta","value":"a"}]}`), mirrored("2"), ""},
		"a rule of a method":     {theirs(`{"method":"POST"}`), mirrored("2"), ""},
		"many matches":           {matches(40), mirrored("2"), "120 matches in a rule, more than 64"},
		"matches enough":         {matches(21), mirrored("2"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at(t, gatewayApp+"rest", func(w *world) {
				w.reroute(c.patch)
				j := w.job("job")
				_, err := j.Canary(w.Context(), c.of)
				if c.says == "" {
					w.must(nil, err)
					return
				}
				if !errors.As(err, new(*usererr.Error)) || !strings.Contains(err.Error(), c.says) || len(j.every) > 0 {
					t.Errorf("%v, after %q; want %q", err, j.every, c.says)
				}
			})
		})
	}
}

// TestDriftByHTTPRoute: added rules that somebody has taken away, or made, are said; a rollback takes off what is left of them.
func TestDriftByHTTPRoute(t *testing.T) {
	for _, c := range []struct{ stage, patch, want string }{
		{"matched", `[{"op":"remove","path":"/spec/rules/0"}]`, "routes that lead testers to the canary are gone"},
		{"mirrored", `[{"op":"remove","path":"/spec/rules/1"}]`, "routes that mirror requests to the canary are gone"},
		{"mirrored", `[{"op":"replace","path":"/spec/rules/1/filters/0/requestMirror/percent","value":5}]`, "copies of 5% of the safe requests, the release gave it 60%"},
		{"mirrored", `[{"op":"replace","path":"/spec/rules/1/filters/0/requestMirror","value":{"backendRef":{"name":"qwik-node-app-service-canary","port":80},"fraction":{"numerator":3,"denominator":5}}}]`, ""},
		{"mirrored", `[{"op":"remove","path":"/spec/rules/1/filters/0/requestMirror/percent"}]`, "copies of 100% of the safe requests"},
		{"mirrored", `[{"op":"add","path":"/metadata/labels","value":{"a":"b"}}]`, ""},
		{"mirrored", `[{"op":"add","path":"/spec/rules/-","value":{"backendRefs":[{"name":"other","port":80}]}},{"op":"remove","path":"/spec/rules/2"}]`, "is gone"},
	} {
		at(t, gatewayApp+c.stage, func(w *world) {
			w.observer.started = false
			w.patchGatewayRoute(c.patch)
			j := w.job("job")
			status, err := j.Status(w.Context())
			if found := strings.Join(status.Drift, "\n"); err != nil || (found == "") != (c.want == "") || !strings.Contains(found, c.want) {
				t.Errorf("drift %q, %v; want %q", found, err, c.want)
			}
			w.must(j.Rollback(w.Context(), "test"))
			if text := rulesText(t, w.liveRoute()); strings.Contains(text, "crossbill-") {
				t.Errorf("left: %s", text)
			}
		})
	}
}
