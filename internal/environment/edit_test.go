package environment

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

// theirs is a manifest as people write it.
const theirs = `# the app
apiVersion: v1
kind: Service
metadata: {name: shop}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: shop-primary
spec:
  replicas: 3   # manually
  template:
    metadata:
      labels: {app: shop}
      annotations:
        # read by nobody
        team: web
    spec:
      containers:
      - name: app   # the one
        image: shop@sha256:00
        env:
        - name: LEVEL
          value: "info"
        - name: SIZE
          value: '10'
        ports:
          - containerPort: 3000
        readinessProbe:
          httpGet: {path: /ready, port: 3000}
          periodSeconds: 5
        command:
        - sh
        - -c
        - |
          exec serve \
            --all
      - image: proxy:1
        name: proxy
      terminationGracePeriodSeconds: 30
---
kind: ConfigMap
`

// templateIn is the pod template of a manifest, as JSON.
func templateIn(t testing.TB, text string) map[string]any {
	t.Helper()
	for document := range strings.SplitSeq(text, "---\n") {
		var d struct {
			Kind string
			Spec struct{ Template map[string]any }
		}
		if err := yaml.Unmarshal([]byte(document), &d); err != nil {
			t.Fatalf("%v\n%s", err, document)
		}
		if d.Kind == "Deployment" {
			return d.Spec.Template
		}
	}
	t.Fatal("no Deployment")
	return nil
}

func copied(v any) (c map[string]any) {
	text, _ := json.Marshal(v)
	_ = json.Unmarshal(text, &c)
	return c
}

func containerOf(template map[string]any, i int) map[string]any {
	return template["spec"].(map[string]any)["containers"].([]any)[i].(map[string]any)
}

// TestSetTemplate: what changes in the file for a change of the template: "-" and "+" lines, or what is refused.
func TestSetTemplate(t *testing.T) {
	for name, c := range map[string]struct {
		change func(template map[string]any)
		want   string
	}{
		"a variable": {func(m map[string]any) { containerOf(m, 0)["env"].([]any)[0].(map[string]any)["value"] = "debug" },
			"-          value: \"info\"\n+          value: \"debug\"\n"},
		"a number": {func(m map[string]any) { containerOf(m, 0)["readinessProbe"].(map[string]any)["periodSeconds"] = 7.0 },
			"-          periodSeconds: 5\n+          periodSeconds: 7\n"},
		"in a flow map": {func(m map[string]any) {
			containerOf(m, 0)["readinessProbe"].(map[string]any)["httpGet"].(map[string]any)["path"] = "/r"
		}, "-          httpGet: {path: /ready, port: 3000}\n+          httpGet: {path: /r, port: 3000}\n"},
		"a variable more": {func(m map[string]any) {
			env := containerOf(m, 0)["env"].([]any)
			containerOf(m, 0)["env"] = append(env, map[string]any{"name": "NEW", "value": "yes"})
		}, "+        - name: NEW\n+          value: \"yes\"\n"},
		"a field more": {func(m map[string]any) { m["spec"].(map[string]any)["hostNetwork"] = true },
			"+      hostNetwork: true\n"},
		"a field behind a block of text": {func(m map[string]any) { containerOf(m, 0)["tty"] = true },
			"+        tty: true\n"},
		"a field less": {func(m map[string]any) { delete(containerOf(m, 0), "ports") },
			"-        ports:\n-          - containerPort: 3000\n"},
		"a field less behind a dash": {func(m map[string]any) { delete(containerOf(m, 1), "image") },
			"-      - image: proxy:1\n-        name: proxy\n+      - name: proxy\n"},
		"a block of text": {func(m map[string]any) { delete(containerOf(m, 0), "command") },
			"-        command:\n-        - sh\n-        - -c\n-        - |\n-          exec serve \\\n-            --all\n"},
		"a label more": {func(m map[string]any) { m["metadata"].(map[string]any)["labels"].(map[string]any)["x"] = "y" },
			"-      labels: {app: shop}\n+      labels: {app: shop, x: \"y\"}\n"},
		"a comment": {func(m map[string]any) { delete(m["metadata"].(map[string]any), "annotations") },
			"environment.yaml:17: spec.template.metadata.annotations has to be edited, and a comment in it would be lost; write what the release has there, in a commit of your own"},
		"a container less": {func(m map[string]any) {
			m["spec"].(map[string]any)["containers"] = m["spec"].(map[string]any)["containers"].([]any)[:1]
		}, "-      - image: proxy:1\n-        name: proxy\n"},
		"a container less, of which there is a comment": {func(m map[string]any) {
			m["spec"].(map[string]any)["containers"] = m["spec"].(map[string]any)["containers"].([]any)[1:]
		}, "environment.yaml:20: spec.template.spec.containers.0 has to be edited, and a comment in it would be lost; write what the release has there, in a commit of your own"},
	} {
		t.Run(name, func(t *testing.T) {
			before := templateIn(t, theirs)
			after := copied(before)
			c.change(after)
			tree := treeOf(t, map[string]string{"environment.yaml": theirs})
			if err := SetTemplate(tree, "", "shop-primary", before, after); err != nil {
				if err.Error() != c.want {
					t.Errorf("%v\nwant %s", err, c.want)
				}
				return
			}
			text := filesOf(t, tree)["environment.yaml"]
			if diff := cmp.Diff(after, templateIn(t, text)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if got := changedLines(theirs, text); got != c.want {
				t.Errorf("%s\nwant\n%s", got, c.want)
			}
		})
	}
}

// changedLines are the lines of one stretch in which two texts differ.
func changedLines(before, after string) (all string) {
	a, b := strings.SplitAfter(before, "\n"), strings.SplitAfter(after, "\n")
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	for _, line := range a {
		all += "-" + line
	}
	for _, line := range b {
		all += "+" + line
	}
	return all
}

var madeEdits = flag.Uint64("edits", 900, "TestEveryTemplate, TestEveryObject: how many")

// TestEveryTemplate: whatever changes, the file has it afterwards and all else that it had, or nothing is written.
func TestEveryTemplate(t *testing.T) {
	made := 0
	for seed := range *madeEdits {
		r := rand.New(rand.NewPCG(seed, 21))
		before := templateIn(t, theirs)
		after := copied(before)
		for range 1 + r.IntN(3) {
			mutate(r, after)
		}
		tree := treeOf(t, map[string]string{"environment.yaml": theirs})
		if err := SetTemplate(tree, "", "shop-primary", before, after); err != nil {
			if got := filesOf(t, tree)["environment.yaml"]; got != theirs {
				t.Fatalf("seed %d: refused, and written\n%s", seed, got)
			}
			continue
		}
		made++
		text := filesOf(t, tree)["environment.yaml"]
		if got := templateIn(t, text); !reflect.DeepEqual(got, after) {
			t.Fatalf("seed %d: (-want +got):\n%s\n%s", seed, cmp.Diff(after, got), text)
		}
		for _, kept := range []string{"# the app\n", "# manually\n", "# read by nobody\n", "# the one\n", "\n---\nkind: ConfigMap\n"} {
			if !strings.Contains(text, kept) {
				t.Fatalf("seed %d: %q is gone", seed, kept)
			}
		}
	}
	if made < int(*madeEdits/6) {
		t.Errorf("only %d of %d were made", made, *madeEdits)
	}
}

// mutate changes, adds or removes something somewhere.
func mutate(r *rand.Rand, v any) {
	scalars := []any{"x", "yes", "1", "a: b", "# no", "", "two\nlines\n", 7.0, true, map[string]any{"a": "b"}, []any{"c", map[string]any{"name": "d", "value": "e"}}}
	some := scalars[r.IntN(len(scalars))]
	switch v := v.(type) {
	case map[string]any:
		keys := slices.Sorted(maps.Keys(v))
		if len(keys) == 0 || r.IntN(6) == 0 {
			v[fmt.Sprintf("new%d", r.IntN(3))] = some
			return
		}
		key := keys[r.IntN(len(keys))]
		switch inner := v[key]; {
		case r.IntN(8) == 0:
			delete(v, key)
		case reflect.ValueOf(inner).Kind() == reflect.Map, reflect.ValueOf(inner).Kind() == reflect.Slice && r.IntN(5) > 1:
			mutate(r, inner)
		case reflect.ValueOf(inner).Kind() == reflect.Slice:
			list := inner.([]any)
			if at := r.IntN(len(list) + 1); at < len(list) && r.IntN(2) == 0 {
				v[key] = slices.Delete(slices.Clone(list), at, at+1)
			} else {
				v[key] = slices.Insert(slices.Clone(list), at, some)
			}
		default:
			v[key] = some
		}
	case []any:
		if len(v) == 0 {
			return
		}
		i := r.IntN(len(v))
		if reflect.ValueOf(v[i]).Kind() == reflect.Map {
			mutate(r, v[i])
		} else {
			v[i] = some
		}
	}
}

// TestCommentsBetweenLinesOfWindows: of these the reader of YAML loses some by itself, which keeps no edit from being made: the file
// has them all afterwards.
func TestCommentsBetweenLinesOfWindows(t *testing.T) {
	for _, c := range []struct {
		text     string
		document int
		edit     edit
		want     string
	}{
		{"a:\n    b:\n      c: d\n      # of c\n# of the file\n---\n# below\nkind: Thing\n", 0, edit{path: []string{"new"}, value: "x"},
			"a:\n    b:\n      c: d\n      # of c\nnew: x\n# of the file\n---\n# below\nkind: Thing\n"},
		{"# above\nkind: Thing\n---\na: b\n# of c\nc: {d: e}  # too\n\nf: g\n", 1, edit{path: []string{"a"}, how: remove},
			"# above\nkind: Thing\n---\n# of c\nc: {d: e}  # too\n\nf: g\n"},
	} {
		windows := strings.NewReplacer("\n", "\r\n")
		got, err := carryOut([]byte(windows.Replace(c.text)), "environment.yaml", c.document, []edit{c.edit})
		if diff := cmp.Diff(windows.Replace(c.want), string(got)); diff != "" || err != nil {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
	}
}

// TestCommentsWithinWhatGoes: a comment that would be lost with a key is seen between lines that end in whichever way.
func TestCommentsWithinWhatGoes(t *testing.T) {
	for _, lineBreak := range []string{"\n", "\r\n", "\r", "\u0085", "\u2028", "\u2029"} {
		text := strings.ReplaceAll("a: b\nc:\n  d: e\n# of f\n  f: g\n", "\n", lineBreak)
		got, err := carryOut([]byte(text), "environment.yaml", 0, []edit{{path: []string{"c"}, how: remove}})
		if err == nil || !strings.Contains(err.Error(), "a comment in it would be lost") {
			t.Errorf("%q becomes %q, %v", text, got, err)
		}
	}
}
