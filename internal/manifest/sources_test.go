package manifest

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/our-org/crossbill/internal/release"
)

var sourcesJSON = flag.String("sources.json", "", "file that gets what became of each source")

// trial is a source in the form of a public chart or kustomization of a web service, in testdata/sources.
type trial struct {
	Name    string   `json:"name"`
	Form    string   `json:"form"`
	Options []string `json:"options,omitempty"` // that it is given
	Works   bool     `json:"works"`
	AsItIs  bool     `json:"asItIs"` // without any of the options
	Why     string   `json:"why"`
	Left    []string `json:"left,omitempty"` // what a canary has no opinion on

	source Source // Path and Values are inside of it
	want   string // of the error; "" where it works
}

var trials = []trial{
	{Name: "podinfo", source: Source{Gateway: "istio-system/public"}},
	{Name: "grafana", source: Source{Gateway: "istio-system/public"}, want: "templates/_password.tpl:5: executing \"grafana.password\" at <lookup"},
	{Name: "grafana-with-password", source: Source{Gateway: "istio-system/public", Values: []string{"more/values.yaml"}}},
	{Name: "gitea", source: Source{Gateway: "istio-system/public"}},
	{Name: "ghost", source: Source{Gateway: "istio-system/public"}, want: "_secrets.tpl:2: executing"},
	{Name: "ghost", source: Source{Gateway: "istio-system/public", AllowLookup: true}, want: "charts/mysql/templates/statefulset.yaml: it renders differently each time"},
	{Name: "ghost-with-password", source: Source{Gateway: "istio-system/public", AllowLookup: true, Values: []string{"more/values.yaml"}}},
	{Name: "nginx"},
	{Name: "guestbook", source: Source{Gateway: "istio-system/public", Hosts: []string{"guestbook.example.com"}}},
	{Name: "online-boutique"},
	{Name: "harbor-portal", source: Source{App: "harbor-portal", ReleaseName: "harbor", Gateway: "istio-system/public", Hosts: []string{"portal.example.com"}}},
	{Name: "keycloak", source: Source{Gateway: "istio-system/public"}, want: "a StatefulSet cannot have two tracks"},
	{Name: "wordpress", source: Source{Gateway: "istio-system/public", AllowLookup: true}, want: "spec.strategy.type: Recreate ends every pod of primary"},
	{Name: "n8n", source: Source{Gateway: "istio-system/public"}},
	{Name: "uptime-kuma", source: Source{Gateway: "istio-system/public"}},
	{Name: "dashy", source: Source{Gateway: "istio-system/public", Hosts: []string{"home.example.com"}}},
	{Name: "backstage", source: Source{Gateway: "istio-system/public"}, want: "templates/deployment.yaml:1: name the repository of the image in image.repository"},
	{Name: "backstage-with-image", source: Source{Gateway: "istio-system/public", Values: []string{"more/values.yaml"}}},
	{Name: "metabase", source: Source{Gateway: "istio-system/public", Hosts: []string{"metabase.example.com"}}},
	{Name: "bookinfo-productpage"},
	{Name: "hello-world-overlay", source: Source{Path: "overlays/production"}},
	{Name: "hello-world-overlay", source: Source{Path: "overlays/production", Gateway: "istio-system/public"}},
	{Name: "oauth2-proxy", source: Source{Gateway: "istio-system/public"}},
	{Name: "oauth2-proxy-made-up", source: Source{Gateway: "istio-system/public"}, want: "templates/secret.yaml: it renders differently each time (randAlphaNum, line 6)"},
	{Name: "httpbin", source: Source{Path: "-", Gateway: "istio-system/public"}},
	{Name: "flask-in-folders", source: Source{Subfolders: true}},
}

// unpack writes the files of a trial into a folder, and gives the text ahead of them.
func unpack(t *testing.T, name, dir string) (comment string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata/sources", name+".txtar"))
	if err != nil {
		t.Fatal(err)
	}
	comment, files, _ := strings.Cut(string(text), "-- ")
	for file := range strings.SplitSeq(files, "\n-- ") {
		path, content, ok := strings.Cut(file, " --\n")
		if !ok {
			t.Fatalf("%s: %q", name, file)
		}
		write(t, filepath.Join(dir, path), content+"\n")
	}
	return strings.ReplaceAll(strings.TrimSpace(strings.TrimPrefix(comment, "#")), "\n# ", " ")
}

// in gives the trial's source in a folder.
func (c *trial) in(t *testing.T, dir string) Source {
	source := c.source
	source.Namespace = "demo"
	switch source.Path {
	case "-":
		text, err := os.ReadFile(filepath.Join(dir, "stdin.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		source.Stdin = bytes.NewReader(text)
	default:
		source.Path = filepath.Join(dir, source.Path)
	}
	source.Values = nil
	for _, file := range c.source.Values {
		source.Values = append(source.Values, filepath.Join(dir, file))
	}
	return source
}

// releasable says what keeps a source from being released, as `canary` does before it asks anything of the cluster.
func releasable(t *testing.T, source Source) (*Rendered, *Set, error) {
	rendered, err := Render(t.Context(), source)
	if err != nil {
		return nil, nil, err
	}
	set, err := rendered.Set()
	if err != nil {
		return nil, nil, err
	}
	if err := set.In("demo"); err != nil {
		return nil, nil, err
	}
	if err := set.Releasable(); err != nil {
		return nil, nil, err
	}
	bound, err := set.Bind([]byte("key"))
	if err != nil {
		return nil, nil, err
	}
	for _, track := range []release.Track{release.Primary, release.Canary} {
		d, err := bound.Track(track, "demo", image)
		if err != nil {
			return nil, nil, err
		}
		if selector := d.Spec.Selector.MatchLabels[TrackLabel]; selector != string(track) || d.Name != set.App+"-"+string(track) || set.Image(d) != image {
			t.Errorf("%s of %s: selects %s: %s, runs %s", d.Name, set.App, TrackLabel, selector, set.Image(d))
		}
	}
	return rendered, bound, nil
}

// TestSources: which of the forms that public charts and kustomizations have can be released as they are, which with options,
// and why the others cannot. What is rendered is the same bytes in another folder, on a second run, and after a bundle.
func TestSources(t *testing.T) {
	for i := range trials {
		c := &trials[i]
		t.Run(c.Name, func(t *testing.T) {
			dir, other := t.TempDir(), filepath.Join(t.TempDir(), "deeper")
			c.Form = unpack(t, c.Name, dir)
			unpack(t, c.Name, other)
			c.Options = optionsOf(c.source)
			rendered, set, err := releasable(t, c.in(t, dir))
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Fatalf("got %v, want %q", err, c.want)
				}
				c.Why = strings.ReplaceAll(err.Error(), dir+"/", "")
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			c.Works, c.Why, c.Left = true, strings.ReplaceAll(strings.Join(set.remarks, "; "), dir, c.Name), set.left()
			bare := *c
			bare.source = Source{Path: c.source.Path}
			_, _, err = releasable(t, bare.in(t, dir))
			c.AsItIs = err == nil

			for _, again := range []string{dir, other} {
				second, err := Render(t.Context(), c.in(t, again))
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(string(rendered.YAML()), string(second.YAML())); diff != "" {
					t.Errorf("rendered in %s (-first +second):\n%s", again, diff)
				}
			}
			unpacked, err := RenderedFrom("bundle", rendered.YAML())
			if err != nil {
				t.Fatal(err)
			}
			unpacked.App, unpacked.Router = c.source.App, rendered.Router
			if !bytes.Equal(unpacked.YAML(), rendered.YAML()) {
				t.Error("what is unpacked is not what was packed")
			}
			from, err := unpacked.Set()
			if err != nil {
				t.Fatal(err)
			}
			if err := from.In("demo"); err != nil {
				t.Fatal(err)
			}
			if from, err = from.Bind([]byte("key")); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(hashOf(t, set), hashOf(t, from)); diff != "" || !slices.Equal(set.left()[:len(set.Others)], from.left()) {
				t.Errorf("unpacked, the pod template is another one: %s, or others are: %q, %q", diff, set.left(), from.left())
			}
		})
	}
	if *sourcesJSON != "" && !t.Failed() {
		text, err := json.MarshalIndent(trials, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		write(t, *sourcesJSON, string(text)+"\n")
	}
}

func hashOf(t *testing.T, set *Set) string {
	t.Helper()
	hash, err := set.TemplateHash()
	if err != nil {
		t.Fatal(err)
	}
	return hash
}

// optionsOf are the options of crossbill.yaml that a source is given.
func optionsOf(s Source) (options []string) {
	for _, o := range []struct{ key, value string }{
		{"app", s.App}, {"render.releaseName", s.ReleaseName}, {"render.gateway", s.Gateway}, {"render.hosts", strings.Join(s.Hosts, ", ")},
		{"render.values", strings.Join(s.Values, ", ")}, {"render.allowLookup", map[bool]string{true: "true"}[s.AllowLookup]}, {"render.subfolders", map[bool]string{true: "true"}[s.Subfolders]},
	} {
		if o.value != "" {
			options = append(options, o.key+": "+o.value)
		}
	}
	return options
}
