package environment

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	kubernetes "sigs.k8s.io/yaml"

	"github.com/our-org/crossbill/internal/usererr"
)

// routes are manifests of Istio and of the Gateway API as people write them.
const routes = `# where requests go
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: shop
  labels: {app: shop}   # aligned
spec:
  hosts: [shop, "shop.example.com"]
  http:
  # the admins first
  - name: admin
    match:
    - uri: {prefix: /admin}
    route:
    - destination: {host: shop, subset: primary}
      weight: 100

  # everybody
  - route:
    - destination:
        host: shop
        subset: primary
      weight: 100   # of primary
    - destination:
        host: shop
        subset: canary
      weight: 0
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata:
  name: shop
  annotations:
    "team": web
spec:
  host: shop
  subsets:
    - name: primary # what runs
      labels:
        role: primary
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop}
spec:
  rules:
    - backendRefs:
        - {name: shop-primary, port: 80, weight: 100}
        - {name: shop-canary, port: 80, weight: 0}
`

// dig is a value in a decoded object.
func dig(v any, path ...any) any {
	for _, at := range path {
		switch at := at.(type) {
		case string:
			v = v.(map[string]any)[at]
		case int:
			v = v.([]any)[at]
		}
	}
	return v
}

func setAt(v any, value any, path ...any) {
	in := dig(v, path[:len(path)-1]...)
	switch at := path[len(path)-1].(type) {
	case string:
		in.(map[string]any)[at] = value
	case int:
		in.([]any)[at] = value
	}
}

type obj = map[string]any

// TestSetObject: what changes in the file, "-" and "+" lines, or what is refused.
func TestSetObject(t *testing.T) {
	for name, c := range map[string]struct {
		kind   string
		change func(m obj)
		want   string
	}{
		"a weight": {"VirtualService", func(m obj) { setAt(m, 90, "spec", "http", 1, "route", 0, "weight") },
			"-      weight: 100   # of primary\n+      weight: 90   # of primary\n"},
		"a weight in a flow map": {"HTTPRoute", func(m obj) { setAt(m, 10, "spec", "rules", 0, "backendRefs", 1, "weight") },
			"-        - {name: shop-canary, port: 80, weight: 0}\n+        - {name: shop-canary, port: 80, weight: 10}\n"},
		"a large number": {"HTTPRoute", func(m obj) { setAt(m, 1000000, "spec", "rules", 0, "backendRefs", 1, "weight") },
			"-        - {name: shop-canary, port: 80, weight: 0}\n+        - {name: shop-canary, port: 80, weight: 1000000}\n"},
		"a rule in front": {"VirtualService", func(m obj) {
			setAt(m, slices.Concat([]any{obj{"name": "canary", "match": []any{obj{"headers": obj{"x-canary": obj{"exact": "yes"}}}}, "route": []any{obj{"destination": obj{"host": "shop", "subset": "canary"}, "weight": int64(100)}}}}, dig(m, "spec", "http").([]any)), "spec", "http")
		}, "+  - name: canary\n+    match:\n+    - headers:\n+        x-canary:\n+          exact: \"yes\"\n+    route:\n+    - destination:\n+        host: shop\n+        subset: canary\n+      weight: 100\n"},
		"a rule between, and a weight": {"VirtualService", func(m obj) {
			setAt(m, 90, "spec", "http", 1, "route", 0, "weight")
			setAt(m, slices.Insert(dig(m, "spec", "http").([]any), 1, any(obj{"route": []any{obj{"destination": obj{"host": "elsewhere"}}}})), "spec", "http")
		}, "-\n-  # everybody\n-  - route:\n-    - destination:\n-        host: shop\n-        subset: primary\n-      weight: 100   # of primary\n+  - route:\n+    - destination:\n+        host: elsewhere\n+\n+  # everybody\n+  - route:\n+    - destination:\n+        host: shop\n+        subset: primary\n+      weight: 90   # of primary\n"},
		"a mirror": {"VirtualService", func(m obj) {
			setAt(m, obj{"host": "shop", "subset": "canary"}, "spec", "http", 1, "mirror")
		},
			"+    mirror:\n+      host: shop\n+      subset: canary\n"},
		"a route less": {"VirtualService", func(m obj) {
			setAt(m, dig(m, "spec", "http", 1, "route").([]any)[:1], "spec", "http", 1, "route")
		},
			"-    - destination:\n-        host: shop\n-        subset: canary\n-      weight: 0\n"},
		"a rule less that has a comment": {"VirtualService", func(m obj) { setAt(m, dig(m, "spec", "http").([]any)[1:], "spec", "http") },
			"shop.yaml:11: spec.http.0 has to be edited, and a comment on it would be lost; write what the release has there, in a commit of your own"},
		"a host more": {"VirtualService", func(m obj) { setAt(m, append(dig(m, "spec", "hosts").([]any), "a, b"), "spec", "hosts") },
			"-  hosts: [shop, \"shop.example.com\"]\n+  hosts: [shop, \"shop.example.com\", 'a, b']\n"},
		"a host less": {"VirtualService", func(m obj) { setAt(m, dig(m, "spec", "hosts").([]any)[1:], "spec", "hosts") },
			"-  hosts: [shop, \"shop.example.com\"]\n+  hosts: [\"shop.example.com\"]\n"},
		"no host": {"VirtualService", func(m obj) { setAt(m, []any{}, "spec", "hosts") },
			"-  hosts: [shop, \"shop.example.com\"]\n+  hosts: []\n"},
		"the first annotation": {"VirtualService", func(m obj) { setAt(m, obj{"crossbill.dev/release": "7"}, "metadata", "annotations") },
			"+  annotations:\n+    crossbill.dev/release: \"7\"\n"},
		"the first annotation in a flow map": {"HTTPRoute", func(m obj) { setAt(m, obj{"crossbill.dev/release": "7"}, "metadata", "annotations") },
			"-metadata: {name: shop}\n+metadata: {name: shop, annotations: {crossbill.dev/release: \"7\"}}\n"},
		"an annotation": {"DestinationRule", func(m obj) { setAt(m, "x", "metadata", "annotations", "a: b") },
			"+    'a: b': x\n"},
		"of an annotation": {"DestinationRule", func(m obj) { setAt(m, "shop", "metadata", "annotations", "team") },
			"-    \"team\": web\n+    \"team\": shop\n"},
		"the last annotation": {"DestinationRule", func(m obj) { setAt(m, obj{}, "metadata", "annotations") },
			"-  annotations:\n-    \"team\": web\n"},
		"a subset": {"DestinationRule", func(m obj) {
			setAt(m, append(dig(m, "spec", "subsets").([]any), obj{"name": "canary", "labels": obj{"role": "canary"}}), "spec", "subsets")
		}, "+    - name: canary\n+      labels:\n+        role: canary\n"},
		"a map in place of a value": {"DestinationRule", func(m obj) { setAt(m, obj{"a": "b"}, "spec", "host") },
			"-  host: shop\n+  host:\n+    a: b\n"},
		"a value in place of a list": {"VirtualService", func(m obj) { setAt(m, "x", "spec", "http", 1, "route") },
			"shop.yaml:20: spec.http.1.route has to be edited, and a comment in it would be lost; write what the release has there, in a commit of your own"},
		"another list": {"VirtualService", func(m obj) { setAt(m, []any{obj{"uri": obj{"exact": "/a"}}}, "spec", "http", 0, "match") },
			"-    - uri: {prefix: /admin}\n+    - uri: {exact: /a}\n"},
		"what a cluster has": {"DestinationRule", func(m obj) { m["status"] = obj{"a": "b"}; setAt(m, nil, "metadata", "creationTimestamp") }, ""},
		"nothing":            {"HTTPRoute", func(m obj) {}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			tree := treeOf(t, map[string]string{"apps/shop.yaml": "", "apps/shop/shop.yaml": routes})
			if err := tree.Remove("apps/shop.yaml"); err != nil {
				t.Fatal(err)
			}
			after, err := Object(tree, "apps/shop", c.kind, "shop")
			if err != nil || after == nil {
				t.Fatal(after, err)
			}
			c.change(after)
			if err := SetObject(tree, "apps/shop", c.kind, "shop", after); err != nil {
				if err.Error() != "apps/shop/"+c.want {
					t.Errorf("%v\nwant %s", err, c.want)
				}
				return
			}
			got := filesOf(t, tree)["apps/shop/shop.yaml"]
			if diff := cmp.Diff(strings.SplitAfter(c.want, "\n"), strings.SplitAfter(changedLines(routes, got), "\n")); diff != "" {
				t.Errorf("%s", diff)
			}
		})
	}
}

// TestGoesBack: what a release does to routes leaves no byte behind when it is undone.
func TestGoesBack(t *testing.T) {
	for name, text := range map[string]string{
		"as it is": routes, "CRLF": strings.ReplaceAll(routes, "\n", "\r\n"), "CR": strings.ReplaceAll(routes, "\n", "\r"), "without an end": strings.TrimSuffix(routes, "\n"),
		"BOM": "\ufeff" + routes,
	} {
		tree := treeOf(t, map[string]string{"shop.yaml": text})
		var undo []func() error
		for _, c := range []struct {
			kind   string
			change func(m obj)
		}{
			{"VirtualService", func(m obj) {
				setAt(m, 90, "spec", "http", 1, "route", 0, "weight")
				setAt(m, 10, "spec", "http", 1, "route", 1, "weight")
				setAt(m, obj{"host": "shop"}, "spec", "http", 1, "mirror")
				setAt(m, slices.Insert(dig(m, "spec", "http").([]any), 0, any(obj{"name": "canary", "route": []any{obj{"weight": 7}}})), "spec", "http")
				setAt(m, slices.Insert(dig(m, "spec", "http").([]any), 2, any(obj{"name": "more", "route": []any{obj{"weight": 7}}})), "spec", "http")
				setAt(m, append(dig(m, "spec", "http").([]any), obj{"name": "last"}), "spec", "http")
				setAt(m, append(dig(m, "spec", "hosts").([]any), "x"), "spec", "hosts")
				setAt(m, obj{"a": "b", "c": "d"}, "metadata", "annotations")
				setAt(m, "y", "metadata", "labels", "x")
			}},
			{"DestinationRule", func(m obj) {
				setAt(m, append(dig(m, "spec", "subsets").([]any), obj{"name": "canary", "labels": obj{"role": "canary"}}), "spec", "subsets")
				setAt(m, "x", "metadata", "annotations", "more")
			}},
			{"HTTPRoute", func(m obj) {
				setAt(m, 90, "spec", "rules", 0, "backendRefs", 0, "weight")
				setAt(m, append(dig(m, "spec", "rules", 0, "backendRefs").([]any), obj{"name": "third"}), "spec", "rules", 0, "backendRefs")
				setAt(m, obj{"a": "b"}, "metadata", "annotations")
			}},
		} {
			before, err := Object(tree, "", c.kind, "shop")
			if err != nil {
				t.Fatal(err)
			}
			after, _ := plainly(before)
			c.change(after.(obj))
			if err := SetObject(tree, "", c.kind, "shop", after.(obj)); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			undo = append(undo, func() error { return SetObject(tree, "", c.kind, "shop", before) })
		}
		for _, back := range undo {
			if err := back(); err != nil {
				t.Fatalf("%s: %v\n%s", name, err, filesOf(t, tree)["shop.yaml"])
			}
		}
		if diff := cmp.Diff(text, filesOf(t, tree)["shop.yaml"]); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// author writes YAML as different people do, with comments that are no two the same.
type author struct {
	*rand.Rand
	comments int
}

func (a *author) some(of int) bool { return a.IntN(of) == 0 }

func (a *author) comment() string {
	a.comments++
	return fmt.Sprintf("# c%d.", a.comments)
}

func (a *author) behind() string {
	if a.some(6) {
		return strings.Repeat(" ", 1+a.IntN(3)) + a.comment()
	}
	return ""
}

func (a *author) key(key string) string {
	switch a.IntN(8) {
	case 0:
		return fmt.Sprintf("%q", key)
	case 1:
		return "'" + key + "'"
	}
	return key
}

func (a *author) lines(v any, indent string) (all []string) {
	if a.some(5) {
		all = append(all, indent+a.comment())
	}
	switch v := v.(type) {
	case obj:
		keys := slices.Sorted(maps.Keys(v))
		a.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
		for _, key := range keys {
			value := v[key]
			head := indent + a.key(key) + ":"
			list, isList := value.([]any)
			inner, isMap := value.(obj)
			switch {
			case a.some(5) || !isList && !isMap || len(list)+len(inner) == 0:
				all = append(all, head+" "+inJSON(value)+a.behind())
			case isList && a.some(2):
				all = append(append(all, head+a.behind()), a.lines(value, indent)...)
			default:
				all = append(append(all, head+a.behind()), a.lines(value, indent+strings.Repeat(" ", 2+a.IntN(3)))...)
			}
			if a.some(8) {
				all = append(all, "")
			}
			if a.some(9) {
				all = append(all, indent+a.comment())
			}
		}
	case []any:
		for _, value := range v {
			list, isList := value.([]any)
			inner, isMap := value.(obj)
			if a.some(5) || !isList && !isMap || len(list)+len(inner) == 0 {
				all = append(all, indent+"- "+inJSON(value)+a.behind())
				continue
			}
			first := true
			for _, line := range a.lines(value, indent+"  ") {
				if trimmed := strings.TrimSpace(line); first && trimmed != "" && trimmed[0] != '#' {
					line, first = indent+"- "+line[len(indent)+2:], false
				} else if first {
					line = strings.TrimPrefix(line, "  ")
				}
				all = append(all, line)
			}
			if a.some(9) {
				all = append(all, indent+a.comment())
			}
		}
	}
	return all
}

func inJSON(v any) string {
	text, _ := json.Marshal(v)
	return string(text)
}

// anything is a value with things in it that a manifest has, and others.
func anything(r *rand.Rand, depth int) any {
	if depth > 0 && r.IntN(3) > 0 {
		if r.IntN(2) == 0 {
			m := obj{}
			for range 1 + r.IntN(4) {
				m[[]string{"name", "weight", "a", "b-c", "d/e", "route"}[r.IntN(6)]] = anything(r, depth-1)
			}
			return m
		}
		list := []any{}
		for range r.IntN(4) {
			list = append(list, anything(r, depth-1))
		}
		return list
	}
	return []any{"x", "yes", "1", "a: b", "# no", " #x", "", "two\nlines # x\n", 7, int64(1000000), true, "it's", nil, 0.5}[r.IntN(14)]
}

var reference = regexp.MustCompile(`^shop\.yaml:\d+$`)

// TestEveryObject: whatever the document and the change, the file has it afterwards and all else that it had, or it is refused
// and nothing is written.
func TestEveryObject(t *testing.T) {
	made, refused := 0, map[string]int{}
	for seed := range *madeEdits {
		r := rand.New(rand.NewPCG(seed, 22))
		a := &author{Rand: r}
		document := obj{"apiVersion": "v1", "kind": "Thing", "metadata": obj{"name": "shop", "annotations": obj{"a": "b"}}, "spec": obj{"a": anything(r, 4), "b": anything(r, 4)}}
		text := strings.Join(a.lines(document, ""), "\n") + "\n"
		if a.some(3) {
			text += "base: &base\n  a: 1 # anchor\nagain: *base\nmerged:\n  <<: *base\n  b: 2\n"
		}
		above, below := "", ""
		if a.some(2) {
			above = "# above\nkind: Thing\nmetadata: {name: other}\n---\n"
		}
		if a.some(2) {
			below = "---\n# below\nkind: Thing\nmetadata: {name: another}\n"
		}
		file := above + text + below
		if a.some(4) {
			file, above, below = strings.ReplaceAll(file, "\n", "\r\n"), strings.ReplaceAll(above, "\n", "\r\n"), strings.ReplaceAll(below, "\n", "\r\n")
		}
		tree := treeOf(t, map[string]string{"shop.yaml": file})
		before, err := Object(tree, "", "Thing", "shop")
		if err != nil || before == nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, file)
		}
		plain, _ := plainly(before)
		after := plain.(obj)
		for range 1 + r.IntN(3) {
			mutate(r, after)
		}
		after["kind"] = "Thing"
		if metadata, ok := after["metadata"].(obj); ok {
			metadata["name"] = "shop"
		} else {
			after["metadata"] = before["metadata"]
		}
		if err := SetObject(tree, "", "Thing", "shop", after); err != nil {
			wrong, ok := errors.AsType[*usererr.Error](err)
			if got := filesOf(t, tree)["shop.yaml"]; got != file || !ok || !reference.MatchString(wrong.Field) {
				t.Fatalf("seed %d: %v, and written\n%s", seed, err, got)
			}
			refused[wrong.Problem[strings.LastIndex(wrong.Problem, ", and ")+6:]]++
			continue
		}
		made++
		got := filesOf(t, tree)["shop.yaml"]
		if !strings.HasPrefix(got, above) || !strings.HasSuffix(got, below) {
			t.Fatalf("seed %d: another document has changed:\n%s\n%s", seed, file, got)
		}
		var read any
		if err := kubernetes.Unmarshal([]byte(got[len(above):len(got)-len(below)]), &read); err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, got)
		}
		plain, _ = plainly(read)
		dropEmptied(before, after)
		if !reflect.DeepEqual(plain, normal(after)) {
			t.Fatalf("seed %d: %s\n%s\n%s", seed, cmp.Diff(normal(after), plain), file, got)
		}
		for i := range a.comments {
			if comment := fmt.Sprintf("# c%d.", i+1); !strings.Contains(got, comment) {
				t.Fatalf("seed %d: %s is gone:\n%s\n%s", seed, comment, file, got)
			}
		}
	}
	t.Log(made, "made;", refused)
	if made < int(*madeEdits/2) {
		t.Errorf("only %d of %d were made", made, *madeEdits)
	}
}

func normal(v any) any {
	plain, _ := plainly(v)
	return plain
}

// canary is a Deployment as Go writes it.
func canary() obj {
	return obj{
		"apiVersion": "apps/v1", "kind": "Deployment", "status": obj{},
		"metadata": obj{"name": "shop-canary", "creationTimestamp": nil, "labels": obj{"app": "shop"}},
		"spec": obj{"replicas": 1000000, "template": obj{"metadata": obj{"creationTimestamp": nil}, "spec": obj{"containers": []any{
			obj{"image": "shop@sha256:00", "name": "app", "env": []any{obj{"value": "yes", "name": "A"}}},
		}}}},
	}
}

const writtenCanary = `# Written by Crossbill for a release; it goes when the release ends.
apiVersion: apps/v1
kind: Deployment
metadata:
  name: shop-canary
  labels:
    app: shop
spec:
  replicas: 1000000
  template:
    metadata: {}
    spec:
      containers:
      - name: app
        env:
        - name: A
          value: "yes"
        image: shop@sha256:00
`

// TestAddObject: an object is a file of its own that the kustomization names, and then it is as if it had never been there.
func TestAddObject(t *testing.T) {
	for kustomization, want := range map[string]string{
		"resources:\n- a.yaml\n": "resources:\n- a.yaml\n- canary.yaml\n",
		"resources:\n- a.yaml":   "resources:\n- a.yaml\n- canary.yaml",
		"resources:\r\n  - a.yaml # one\r\n  # the end\r\nimages: []\r\n": "resources:\r\n  - a.yaml # one\r\n  - canary.yaml\r\n  # the end\r\nimages: []\r\n",
		"resources: # these\n# one\n-   'a.yaml'\n\n# tags\nimages: []\n": "resources: # these\n# one\n-   'a.yaml'\n- canary.yaml\n\n# tags\nimages: []\n",
		"resources: [ a.yaml ]\n":                  "resources: [ a.yaml, canary.yaml ]\n",
		"resources: [ ] # none\n":                  "resources: [canary.yaml ] # none\n",
		"resources: [\n  a.yaml,\n]\nimages: []\n": "resources: [\n  a.yaml, canary.yaml,\n]\nimages: []\n",
		"namePrefix: sh\nbases:\n- ../x\n":         "namePrefix: sh\nbases:\n- ../x\nresources:\n- canary.yaml\n",
		"nameSuffix: ary\nimages:\n  - name: x":    "nameSuffix: ary\nimages:\n  - name: x\nresources:\n  - canary.yaml",
		"{\"resources\": [\"a.yaml\"]}":            "{\"resources\": [\"a.yaml\", canary.yaml]}",
		"---\n# all\nresources:\n- a.yaml\n...\n":  "---\n# all\nresources:\n- a.yaml\n- canary.yaml\n...\n",
	} {
		files := map[string]string{"apps/shop/kustomization.yaml": kustomization, "apps/shop/a.yaml": "kind: A\n"}
		tree := treeOf(t, files)
		for range 2 {
			if err := AddObject(tree, "apps/shop", "canary.yaml", canary()); err != nil {
				t.Fatalf("%q: %v", kustomization, err)
			}
			name := "shop-canary"
			if strings.Contains(kustomization, "namePrefix: sh") {
				name = "op-canary"
			} else if strings.Contains(kustomization, "nameSuffix: ary") {
				name = "shop-can"
			}
			written := strings.Replace(writtenCanary, "name: shop-canary", "name: "+name, 1)
			added := map[string]string{"apps/shop/kustomization.yaml": want, "apps/shop/a.yaml": "kind: A\n", "apps/shop/canary.yaml": written}
			if diff := cmp.Diff(added, filesOf(t, tree)); diff != "" {
				t.Fatalf("%q: %s", kustomization, diff)
			}
		}
		for range 2 {
			if err := RemoveObject(tree, "apps/shop", "canary.yaml"); err != nil {
				t.Fatalf("%q: %v", kustomization, err)
			}
			if diff := cmp.Diff(files, filesOf(t, tree)); diff != "" {
				t.Errorf("%q: %s", kustomization, diff)
			}
		}
	}
}

// TestAddObjectWithAffixes: a name that a kustomization would change is refused, and nothing is written.
func TestAddObjectWithAffixes(t *testing.T) {
	for kustomization, want := range map[string]string{
		"resources: []\nnamePrefix: eu-\n":        "kustomization.yaml:2: its namePrefix eu- is not in the name of Deployment shop-canary, which it would change; name the object with it, or write the whole names into the manifests",
		"nameSuffix: -eu\nresources: []\n":        "kustomization.yaml:1: its nameSuffix -eu is not in the name of Deployment shop-canary, which it would change; name the object with it, or write the whole names into the manifests",
		"namePrefix: shop-\nnameSuffix: canary\n": "kustomization.yaml:2: its nameSuffix canary is not in the name of Deployment shop-canary, which it would change; name the object with it, or write the whole names into the manifests",
	} {
		files := map[string]string{"kustomization.yaml": kustomization}
		tree := treeOf(t, files)
		err := AddObject(tree, "", "canary.yaml", canary())
		if diff := cmp.Diff(want, fmt.Sprint(err)); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(files, filesOf(t, tree)); diff != "" {
			t.Error(diff)
		}
	}
}

// TestAddObjectBesideImages: entries of the kustomization that would change the object's image do not.
func TestAddObjectBesideImages(t *testing.T) {
	other := obj{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": obj{"name": "shop-canary"}, "spec": obj{"template": obj{"spec": obj{
		"initContainers": []any{obj{"name": "migrate", "image": "shop@sha256:00"}},
		"containers":     []any{obj{"name": "app", "image": "shop@sha256:00"}, obj{"name": "proxy", "image": "proxy:1.2"}, obj{"name": "logs", "image": "logs:1"}},
	}}}}
	for _, c := range []struct {
		name, images, want string
		object             obj
		written            []string // images of the object's containers
	}{
		{"another image's", "images:\n- name: proxy\n  newTag: v2\n", "images:\n- name: proxy\n  newTag: v2\n", canary(), []string{"shop@sha256:00"}},
		{"the same image", "images:\n- name: shop\n  digest: sha256:00\n", "images:\n- name: shop\n  digest: sha256:00\n", canary(), []string{"shop@sha256:00"}},
		{"its own", "images:\n- name: shop # primary's\n  digest: sha256:11\n", "images:\n- name: shop # primary's\n  digest: sha256:11\n- name: crossbill-canary\n  digest: sha256:00\n  newName: shop\n", canary(), []string{"crossbill-canary"}},
		{"by tag", "images:\n  - name: shop\n    newTag: v1\n# the end\n", "images:\n  - name: shop\n    newTag: v1\n  - name: crossbill-canary\n    digest: sha256:00\n    newName: shop\n# the end\n", canary(), []string{"crossbill-canary"}},
		{"in braces", "images: [{name: shop, digest: sha256:11}]\n", "images: [{name: shop, digest: sha256:11}, {name: crossbill-canary, digest: 'sha256:00', newName: shop}]\n", canary(), []string{"crossbill-canary"}},
		{"of several containers", "images:\n- name: shop\n  digest: sha256:11\n- name: proxy\n  newTag: v2\n",
			"images:\n- name: shop\n  digest: sha256:11\n- name: proxy\n  newTag: v2\n- name: crossbill-canary\n  digest: sha256:00\n  newName: shop\n- name: crossbill-canary-2\n  newName: proxy\n  newTag: \"1.2\"\n",
			other, []string{"crossbill-canary", "crossbill-canary", "crossbill-canary-2", "logs:1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			const resources = "resources:\n- a.yaml\n"
			files := map[string]string{"kustomization.yaml": resources + c.images, "a.yaml": "kind: A\n"}
			tree := treeOf(t, files)
			for range 2 {
				if err := AddObject(tree, "", "canary.yaml", c.object); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(resources+"- canary.yaml\n"+c.want, filesOf(t, tree)["kustomization.yaml"]); diff != "" {
					t.Error(diff)
				}
				written, err := Object(tree, "", "Deployment", "shop-canary")
				if err != nil {
					t.Fatal(err)
				}
				var images []string
				for _, container := range containersOf(written) {
					images = append(images, container["image"].(string))
				}
				if diff := cmp.Diff(c.written, images); diff != "" {
					t.Error(diff)
				}
			}
			if err := RemoveObject(tree, "", "canary.yaml"); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(files, filesOf(t, tree)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestAddObjectToFolder: without a kustomization there is the file alone, and what is in it is edited.
func TestAddObjectToFolder(t *testing.T) {
	tree := treeOf(t, map[string]string{"a.yaml": "kind: A\n"})
	object := canary()
	if err := AddObject(tree, "", "release/canary.yaml", object); err != nil {
		t.Fatal(err)
	}
	setAt(object, 3, "spec", "replicas")
	if err := AddObject(tree, ".", "release/canary.yaml", object); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"a.yaml": "kind: A\n", "release/canary.yaml": strings.Replace(writtenCanary, "1000000", "3", 1)}
	if diff := cmp.Diff(want, filesOf(t, tree)); diff != "" {
		t.Error(diff)
	}
	got, err := Object(tree, "", "Deployment", "shop-canary")
	if err != nil || dig(got, "spec", "replicas") != int64(3) {
		t.Error(got, err)
	}
	if err := RemoveObject(tree, "", "release/canary.yaml"); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(map[string]string{"a.yaml": "kind: A\n"}, filesOf(t, tree)); diff != "" {
		t.Error(diff)
	}
}

// TestRefusedObjects: what is refused, by its field and problem, changes nothing.
func TestRefusedObjects(t *testing.T) {
	add := func(file string) func(*Tree) error {
		return func(tree *Tree) error { return AddObject(tree, "apps", file, canary()) }
	}
	drop := func(tree *Tree) error { return RemoveObject(tree, "apps", "canary.yaml") }
	set := func(after obj) func(*Tree) error {
		return func(tree *Tree) error { return SetObject(tree, "apps", "A", "x", after) }
	}
	a := "kind: A\nmetadata: {name: x}\n"
	for name, c := range map[string]struct {
		files map[string]string
		do    func(*Tree) error
		want  string // FIELD: …problem…
	}{
		"no folder":              {map[string]string{"x": ""}, add("canary.yaml"), `gitops.path: no folder "apps"`},
		"a chart":                {map[string]string{"apps/Chart.yaml": "", "apps/values.yaml": ""}, add("canary.yaml"), "apps/Chart.yaml: a chart"},
		"no manifest":            {map[string]string{"apps/a.yaml": ""}, add("canary.txt"), "apps/canary.txt: reads no manifest"},
		"the kustomization":      {map[string]string{"apps/a.yaml": ""}, add("kustomization.yaml"), "apps/kustomization.yaml: reads no manifest"},
		"elsewhere":              {map[string]string{"apps/a.yaml": ""}, add("../canary.yaml"), `"../canary.yaml": not a path`},
		"another object":         {map[string]string{"apps/canary.yaml": a}, add("canary.yaml"), "apps/canary.yaml: something else"},
		"another too":            {map[string]string{"apps/canary.yaml": writtenCanary + "---\n" + a}, add("canary.yaml"), "apps/canary.yaml: something else"},
		"resources is a word":    {map[string]string{"apps/kustomization.yaml": "kind: Kustomization\nresources: x\n"}, add("canary.yaml"), "apps/kustomization.yaml:2: no list"},
		"no resources":           {map[string]string{"apps/kustomization.yaml": "resources:\n"}, add("canary.yaml"), "apps/kustomization.yaml:1: no list"},
		"no resources in a line": {map[string]string{"apps/kustomization.yaml": "{}"}, add("canary.yaml"), "apps/kustomization.yaml:1: no resources"},
		"shared resources":       {map[string]string{"apps/kustomization.yaml": "resources: &r [a.yaml]\n"}, add("canary.yaml"), "apps/kustomization.yaml:1: an anchor"},
		"two kustomizations":     {map[string]string{"apps/kustomization.yaml": "{}", "apps/kustomization.yml": "{}"}, add("canary.yaml"), "apps/kustomization.yml: too"},
		"of several":             {map[string]string{"apps/canary.yaml": writtenCanary + "---\n" + a}, drop, "apps/canary.yaml: one object alone"},
		"with a comment":         {map[string]string{"apps/canary.yaml": writtenCanary, "apps/kustomization.yaml": "resources:\n- a.yaml\n# ours\n- canary.yaml\n"}, drop, "apps/kustomization.yaml:4: a comment"},
		"not there":              {map[string]string{"apps/a.yaml": "kind: A\nmetadata: {name: y}\n"}, set(obj{}), "gitops.path: apps has no A x"},
		"there twice":            {map[string]string{"apps/a.yaml": a, "apps/b.yaml": a}, set(obj{}), "apps/b.yaml: A x is in apps/a.yaml too"},
		"nothing of it":          {map[string]string{"apps/a.yaml": a}, set(obj{}), "apps/a.yaml:1: cannot be read"},
		"keys twice":             {map[string]string{"apps/a.yaml": a + "b: 1\nb: 2\n"}, set(obj{}), "apps/a.yaml:1: no object of Kubernetes"},
	} {
		t.Run(name, func(t *testing.T) {
			tree := treeOf(t, c.files)
			err := c.do(tree)
			wrong, ok := errors.AsType[*usererr.Error](err)
			field, problem, _ := strings.Cut(c.want, ": ")
			if !ok || wrong.Field != field || !strings.Contains(wrong.Problem, problem) || wrong.Fix == "" {
				t.Errorf("got %v\nwant %s", err, c.want)
			}
			if diff := cmp.Diff(c.files, filesOf(t, tree)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// FuzzSetObject: whatever the file, an edit is right or refused, and what AddObject adds RemoveObject takes back.
func FuzzSetObject(f *testing.F) {
	for _, text := range []string{routes, theirs, writtenCanary, "kind: A\nmetadata: {name: x}\nspec: [a, {b: c}, 'd']\n", "resources: [a]\n", "resources:\n- &a b\n- *a\n", "- - kind: A\n", "{\"kind\": \"A\", \"spec\": [1, 2]}", "kind: A\nspec:\n- - a\n  # c\n  - b\n-\n  c: d\n"} {
		for seed := range uint64(3) {
			f.Add(text, seed)
		}
	}
	f.Fuzz(func(t *testing.T, text string, seed uint64) {
		if all, err := documents([]byte(text)); err == nil && len(all) > 0 {
			m := &manifest{file: "f.yaml"}
			tree := treeOf(t, map[string]string{"f.yaml": text})
			if _, before, err := m.read(tree); err == nil {
				after := normal(before).(obj)
				mutate(rand.New(rand.NewPCG(seed, 1)), after)
				after, err := cleaned(after)
				if err != nil {
					t.Fatal(err)
				}
				if err := m.set(tree, after); err == nil {
					dropEmptied(before, after)
					if _, got, err := m.read(tree); err != nil || !reflect.DeepEqual(got, after) {
						t.Fatalf("%q: %v\n%s\n%s", text, err, cmp.Diff(after, got), filesOf(t, tree)["f.yaml"])
					}
				} else if _, ok := errors.AsType[*usererr.Error](err); !ok {
					t.Fatal(err)
				}
			}
		}
		files := map[string]string{"kustomization.yaml": text}
		tree := treeOf(t, files)
		err := AddObject(tree, "", "canary.yaml", canary())
		if err == nil {
			err = RemoveObject(tree, "", "canary.yaml")
		}
		if err == nil && !strings.Contains(text, "canary.yaml") {
			if diff := cmp.Diff(files, filesOf(t, tree)); diff != "" {
				t.Fatal(diff)
			}
		}
		if _, ok := errors.AsType[*usererr.Error](err); err != nil && !ok {
			t.Fatal(err)
		}
	})
}
