package rollout

import (
	"cmp"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// A release adds rules ahead of each of its own: the same matches with testers' header, and the same matches of the methods that
// are mirrored. Their place says nothing: the rule with the most specific match is asked first, by its path, then by its method,
// then by its number of headers and of query parameters. So testers' rules have the mirrored methods too where both are there,
// and what would come before a rule of others is refused.

// Limits of the CRDs of the Gateway API.
const (
	mostRules          = 16
	mostMatchesInARule = 64
	mostMatches        = 128
	mostHeaders        = 16
	mostFilters        = 16
	longestHeaderValue = 4096
)

// isHTTP says whether the route has the methods of HTTP; the calls of a GRPCRoute are all POST.
func (s services) isHTTP() bool { return s.route().kind == "HTTPRoute" }

// generatedRules are the rules of a route as they are to be, and where the release's are without those that it adds.
func (s services) generatedRules(route *unstructured.Unstructured, want traffic) (now, desired []any, places []manifest.Route, err error) {
	g, err := manifest.ReadGatewayRoute(route)
	if err != nil {
		return nil, nil, nil, err
	}
	if now, _, err = unstructured.NestedSlice(route.Object, "spec", "rules"); err != nil {
		return nil, nil, nil, err
	}
	bases, kept := s.Manifests.Rules(g), 0
	for i, rule := range now {
		if manifest.Generated(g.Rules[i].Name) {
			continue
		}
		if at := slices.IndexFunc(bases, func(r manifest.Route) bool { return r.HTTP == i }); at >= 0 {
			r := bases[at]
			desired = append(desired, s.addedRules(rule.(map[string]any), r, at, want)...) // it was read as one
			r.HTTP = kept
			places = append(places, r)
		}
		desired = append(desired, rule)
		kept++
	}
	return now, desired, places, nil
}

// ruleOps are the operations that bring what a release adds to a route to what it should be, after the first of which the
// release's rules are at the places that are returned.
func (s services) ruleOps(live *unstructured.Unstructured, want traffic) (before []patchOp, places []manifest.Route, after []patchOp, err error) {
	now, desired, places, err := s.generatedRules(live, want)
	if err != nil {
		return nil, nil, nil, err
	}
	if reflect.DeepEqual(now, desired) {
		g, err := manifest.ReadGatewayRoute(live)
		if err != nil {
			return nil, nil, nil, err
		}
		return nil, s.Manifests.Rules(g), nil, nil
	}
	for i, rule := range slices.Backward(now) {
		if manifest.Generated(nameOf(rule)) {
			before = append(before, patchOp{Op: "remove", Path: fmt.Sprintf("/spec/rules/%d", i)})
		}
	}
	for i, rule := range desired {
		if manifest.Generated(nameOf(rule)) {
			after = append(after, patchOp{"add", fmt.Sprintf("/spec/rules/%d", i), rule})
		}
	}
	return before, places, after, nil
}

func nameOf(rule any) string {
	name, _ := rule.(map[string]any)["name"].(string)
	return name
}

// addedRules are the rules ahead of one of the release's.
func (s services) addedRules(rule map[string]any, r manifest.Route, number int, want traffic) (rules []any) {
	if want.match != nil {
		if d := s.testersRule(rule, r, number, want); len(d["matches"].([]any)) > 0 {
			rules = append(rules, d)
		}
	}
	if want.mirror > 0 && s.isHTTP() {
		if d := s.mirrorRule(rule, r, number, want); len(d["matches"].([]any)) > 0 {
			rules = append(rules, d)
		}
	}
	return rules
}

// testersRule leads the requests of a rule that have testers' header to the canary alone.
func (s services) testersRule(rule map[string]any, r manifest.Route, number int, want traffic) map[string]any {
	name, _, _ := want.match.OnHeader()
	matches := []any{}
	for _, m := range s.matchesOf(rule) {
		if hasHeader(m, name) {
			continue // both would have to hold
		}
		headers, _ := m["headers"].([]any)
		m["headers"] = append(headers, headerMatch(want.match))
		matches = append(matches, m)
		if want.mirror > 0 && s.isHTTP() && m["method"] == nil { // a mirrored method comes before a header
			for _, method := range mirroredMethods {
				matches = append(matches, ofMethod(m, method))
			}
		}
	}
	d := runtime.DeepCopyJSON(rule)
	canary := d["backendRefs"].([]any)[r.Canary].(map[string]any)
	canary["weight"] = int64(100)
	d["name"], d["matches"], d["backendRefs"] = fmt.Sprintf("%s%d", manifest.MatchPrefix, number), matches, []any{canary}
	return d
}

// mirrorRule is a rule for the safe requests of another one, of a part of which the canary gets copies. Who answers is the same.
func (s services) mirrorRule(rule map[string]any, r manifest.Route, number int, want traffic) map[string]any {
	matches := []any{}
	for _, m := range s.matchesOf(rule) {
		switch method, _ := m["method"].(string); {
		case method == "":
			for _, of := range mirroredMethods {
				matches = append(matches, ofMethod(m, of))
			}
		case slices.Contains(mirroredMethods, method):
			matches = append(matches, m)
		}
	}
	d := runtime.DeepCopyJSON(rule)
	backends := d["backendRefs"].([]any)
	backends[r.Primary].(map[string]any)["weight"], backends[r.Canary].(map[string]any)["weight"] = int64(100-want.weight), int64(want.weight)
	to := runtime.DeepCopyJSON(backends[r.Canary].(map[string]any))
	delete(to, "weight")
	delete(to, "filters")
	filters, _ := d["filters"].([]any)
	d["filters"] = append(filters, map[string]any{"type": "RequestMirror", "requestMirror": map[string]any{"backendRef": to, "percent": int64(want.mirror)}})
	d["name"], d["matches"] = fmt.Sprintf("%s%d", manifest.MirrorPrefix, number), matches
	return d
}

// matchesOf are copies of a rule's matches, with what the API server fills in.
func (s services) matchesOf(rule map[string]any) (all []map[string]any) {
	items, _ := rule["matches"].([]any)
	if len(items) == 0 {
		items = []any{map[string]any{}}
	}
	for _, item := range items {
		m := runtime.DeepCopyJSON(item.(map[string]any))
		if s.isHTTP() {
			path, ok := m["path"].(map[string]any)
			if !ok {
				path = map[string]any{}
				m["path"] = path
			}
			for key, value := range map[string]string{"type": "PathPrefix", "value": "/"} {
				if path[key] == nil {
					path[key] = value
				}
			}
		}
		all = append(all, m)
	}
	return all
}

func ofMethod(m map[string]any, method string) map[string]any {
	m = runtime.DeepCopyJSON(m)
	m["method"] = method
	return m
}

func hasHeader(match map[string]any, name string) bool {
	headers, _ := match["headers"].([]any)
	return slices.ContainsFunc(headers, func(h any) bool {
		is, _ := h.(map[string]any)["name"].(string)
		return strings.EqualFold(is, name)
	})
}

// headerMatch is testers' match as the Gateway API has it: a value, or an expression, of the whole of it whoever reads it.
func headerMatch(match *release.Match) map[string]any {
	name, kind, value := match.OnHeader()
	if kind == release.MatchExact {
		return map[string]any{"name": name, "type": "Exact", "value": value}
	}
	switch kind {
	case release.MatchPrefix:
		value = regexp.QuoteMeta(value) + ".*"
	case release.MatchPresent:
		value = ".*"
	}
	return map[string]any{"name": name, "type": "RegularExpression", "value": "^(?:" + value + ")$"}
}

// refusal says why what is wanted cannot be made of a route's rules; nil when it can.
func (s services) refusal(route *unstructured.Unstructured, want traffic) error {
	if want.match == nil && want.mirror == 0 {
		return nil
	}
	field := "canary.mirror"
	if want.match != nil {
		field = "canary.match"
	}
	now, desired, _, err := s.generatedRules(route, want)
	if err != nil {
		return err
	}
	g, err := manifest.ReadGatewayRoute(route)
	if err != nil {
		return err
	}
	mirrors, bases := false, s.Manifests.Rules(g)
	for _, r := range bases {
		rule := now[r.HTTP].(map[string]any)
		place := fmt.Sprintf("%s: spec.rules[%d]", s.route(), r.HTTP)
		if want.match != nil {
			name, _, _ := want.match.OnHeader()
			if slices.ContainsFunc(s.matchesOf(rule), func(m map[string]any) bool { return hasHeader(m, name) }) {
				return &usererr.Error{Field: place, Problem: fmt.Sprintf("the release's rule matches the header %s already, and a rule can compare a header only once", name), Fix: "choose another header or cookie for testers with canary.match"}
			}
		}
		if want.mirror > 0 {
			filters := slices.Clone(g.Rules[r.HTTP].Filters)
			for _, b := range g.Rules[r.HTTP].Backends {
				filters = append(filters, b.Filters...)
			}
			if slices.ContainsFunc(filters, func(f map[string]any) bool { return f["type"] == "RequestMirror" }) {
				return &usererr.Error{Field: place, Problem: "the release's rule mirrors requests already, and that is not the release's to change", Fix: "take the filter out of it for the release, or release without canary.mirror"}
			}
			mirrors = mirrors || len(s.mirrorRule(rule, r, 0, want)["matches"].([]any)) > 0
		}
		for _, added := range s.addedRules(rule, r, 0, want) {
			if theirs := s.takenFrom(g, now, r.HTTP, added.(map[string]any)); theirs >= 0 {
				return &usererr.Error{
					Field:   field,
					Problem: fmt.Sprintf("spec.rules[%d] of %s has a match of the same path as the release's spec.rules[%d]: a rule for testers or copies would be asked before it, and get its requests", theirs, s.route(), r.HTTP),
					Fix:     "give the two rules other paths, or release without " + field,
				}
			}
		}
	}
	if want.mirror > 0 && !mirrors && len(bases) > 0 {
		return &usererr.Error{Field: s.route().String(), Problem: "none of the release's rules is for GET or HEAD, and nothing else is mirrored", Fix: "release without canary.mirror"}
	}
	if much := tooMuch(desired); much != "" {
		return &usererr.Error{Field: field, Problem: fmt.Sprintf("%s would have %s with the rules that a release adds", s.route(), much), Fix: "split the route into several, or release without " + field}
	}
	return nil
}

// tooMuch says what of rules is more than the Gateway API allows; "" for nothing.
func tooMuch(rules []any) string {
	if len(rules) > mostRules {
		return fmt.Sprintf("%d rules, more than %d,", len(rules), mostRules)
	}
	all := 0
	for _, rule := range rules {
		matches, _ := rule.(map[string]any)["matches"].([]any)
		filters, _ := rule.(map[string]any)["filters"].([]any)
		all += max(1, len(matches))
		switch {
		case len(matches) > mostMatchesInARule:
			return fmt.Sprintf("%d matches in a rule, more than %d,", len(matches), mostMatchesInARule)
		case len(filters) > mostFilters:
			return fmt.Sprintf("%d filters in a rule, more than %d,", len(filters), mostFilters)
		}
		for _, m := range matches {
			headers, _ := m.(map[string]any)["headers"].([]any)
			if len(headers) > mostHeaders {
				return fmt.Sprintf("%d headers in a match, more than %d,", len(headers), mostHeaders)
			}
			for _, h := range headers {
				if value, _ := h.(map[string]any)["value"].(string); len(value) > longestHeaderValue {
					return fmt.Sprintf("a header's value of %d characters, more than %d,", len(value), longestHeaderValue)
				}
			}
		}
	}
	if all > mostMatches {
		return fmt.Sprintf("%d matches, more than %d,", all, mostMatches)
	}
	return ""
}

// takenFrom is the rule of others that an added rule would be asked before, and the release's own is not; -1 for none. The rest
// of the release's rules have added ones of their own, which are more specific as they are.
func (s services) takenFrom(g *manifest.GatewayRoute, rules []any, base int, added map[string]any) int {
	bases := s.Manifests.Rules(g)
	for i, rule := range rules {
		if manifest.Generated(g.Rules[i].Name) || slices.ContainsFunc(bases, func(r manifest.Route) bool { return r.HTTP == i }) {
			continue
		}
		for _, theirs := range s.matchesOf(rule.(map[string]any)) {
			for _, m := range added["matches"].([]any) {
				if s.overlap(theirs, m.(map[string]any)) && before(m.(map[string]any), theirs, base < i) &&
					slices.ContainsFunc(s.matchesOf(rules[base].(map[string]any)), func(own map[string]any) bool {
						return s.overlap(theirs, own) && before(theirs, own, i < base)
					}) {
					return i
				}
			}
		}
	}
	return -1
}

// overlap says whether a request may have both of two matches that paths, or gRPC methods, do not order.
func (s services) overlap(a, b map[string]any) bool {
	if !s.isHTTP() {
		return reflect.DeepEqual(a["method"], b["method"])
	}
	one, other := a["path"].(map[string]any), b["path"].(map[string]any)
	if one["type"] != other["type"] || one["value"] != other["value"] && (one["type"] != "RegularExpression" || len(fmt.Sprint(one["value"])) != len(fmt.Sprint(other["value"]))) {
		return false
	}
	return a["method"] == nil || b["method"] == nil || a["method"] == b["method"]
}

// before says whether the first of two matches that overlap is asked before the second: by its method, then by its number of
// headers, then of query parameters, then by its place.
func before(a, b map[string]any, placed bool) bool {
	of := func(m map[string]any, list string) int {
		items, _ := m[list].([]any)
		return len(items)
	}
	method := func(m map[string]any) int {
		if _, ok := m["method"].(string); ok {
			return 1
		}
		return 0
	}
	by := cmp.Or(cmp.Compare(method(a), method(b)), cmp.Compare(of(a, "headers"), of(b, "headers")), cmp.Compare(of(a, "queryParams"), of(b, "queryParams")))
	return by > 0 || by == 0 && placed
}
