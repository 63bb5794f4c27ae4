package manifest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"text/template/parse"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/our-org/crossbill/internal/usererr"
)

// DefaultKubeVersion is the version of Kubernetes that charts are rendered for. It is no cluster's: a chart renders the same
// wherever it is rendered.
const DefaultKubeVersion = "v1.34.0"

// meshVersions are the APIs of the mesh, which is always there.
var meshVersions = []string{"networking.istio.io/v1", "networking.istio.io/v1beta1", "networking.istio.io/v1alpha3", "security.istio.io/v1", "security.istio.io/v1beta1", "telemetry.istio.io/v1"}

// chartRun is a chart with what it is rendered with.
type chartRun struct {
	path   string // a folder or an archive
	loaded *chart.Chart
	source Source
	values map[string]any
}

// addChart adds what a chart renders, by Helm's own library. Nothing is fetched, run, or asked of a cluster.
func (r *Rendered) addChart(ctx context.Context, source Source) error {
	run := &chartRun{path: source.Path, source: source}
	var files map[string]string
	err := alone(ctx, source.Path, func() (err error) {
		if err = run.readValues(); err != nil {
			return err
		}
		files, err = run.renderTwice()
		return err
	})
	if err != nil {
		return err
	}
	r.Remarks = append(r.Remarks, fmt.Sprintf("%s is a Helm chart, rendered as release %s in namespace %s for Kubernetes %s", source.Path, run.release(), run.source.Namespace, run.kubeVersion()))
	if run.unchecked() {
		r.Remarks = append(r.Remarks, source.Path+": values.schema.json names another schema, which is not fetched: the values were not checked")
	}
	for _, crd := range run.loaded.CRDObjects() {
		r.Skipped = append(r.Skipped, run.file(crd.Filename)+" (a custom resource's definition is the cluster's: apply it separately)")
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if strings.HasSuffix(name, "NOTES.txt") {
			continue
		}
		if err := r.addText(run.file(name), []byte(files[name]), rendered); err != nil {
			return err
		}
	}
	return nil
}

func (c *chartRun) problem(at string, problem, fix string) error {
	return &usererr.Error{Field: at, Problem: problem, Fix: fix}
}

// file is where a file of the chart is, of which Helm's name begins with the chart's.
func (c *chartRun) file(name string) string {
	_, name, _ = strings.Cut(name, "/")
	return filepath.Join(c.path, name)
}

func (c *chartRun) release() string {
	switch {
	case c.source.ReleaseName != "":
		return c.source.ReleaseName
	case c.source.App != "":
		return c.source.App
	}
	return c.loaded.Name()
}

func (c *chartRun) kubeVersion() string {
	if c.source.KubeVersion != "" {
		return c.source.KubeVersion
	}
	return DefaultKubeVersion
}

// readValues reads the files of values; a later one wins.
func (c *chartRun) readValues() error {
	c.values = map[string]any{}
	if c.source.Namespace == "" {
		c.source.Namespace = "default"
	}
	for _, file := range c.source.Values {
		text, err := os.ReadFile(file)
		if err != nil {
			return c.problem("render.values", err.Error(), "name files of values")
		}
		values := map[string]any{}
		if err := yaml.UnmarshalStrict(text, &values); err != nil {
			return c.problem(file, plain(err), "")
		}
		c.values = chartutil.MergeTables(values, c.values) // keeps a null, which removes the chart's default
	}
	return nil
}

// load reads the chart anew: templates may change what they are given.
func (c *chartRun) load() error {
	loaded, err := loader.Load(c.path)
	if err != nil {
		return c.problem(c.path, "it is no chart that Helm can read: "+err.Error(), "`helm lint "+c.path+"` may say more")
	}
	sortSubcharts(loaded)
	c.loaded = loaded
	if strings.EqualFold(loaded.Metadata.Type, "library") {
		return c.problem(c.path, "it is a library chart, which renders nothing by itself", "give the chart that uses it")
	}
	for _, needed := range loaded.Metadata.Dependencies {
		if !slices.ContainsFunc(loaded.Dependencies(), func(d *chart.Chart) bool { return d.Name() == needed.Name }) {
			return c.problem(filepath.Join(c.path, "Chart.yaml"), fmt.Sprintf("the dependency %s is not in the folder charts", needed.Name), "run `helm dependency build` first: nothing is fetched for rendering")
		}
	}
	return nil
}

// sortSubcharts puts the charts in a chart into an order: of two templates of one name the last one counts.
func sortSubcharts(c *chart.Chart) {
	subcharts := slices.Clone(c.Dependencies())
	slices.SortFunc(subcharts, func(a, b *chart.Chart) int {
		return strings.Compare(a.Name()+" "+a.Metadata.Version, b.Name()+" "+b.Metadata.Version)
	})
	c.SetDependencies(subcharts...)
	for _, subchart := range subcharts {
		sortSubcharts(subchart)
	}
}

// chance are functions whose result is another one each time. What they make is compared more than twice, since two results
// may be the same by chance.
var chance = regexp.MustCompile(`\b(rand(Alpha|Numeric|AlphaNum|Ascii|Bytes|Int)|gen(PrivateKey|CA|CAWithKey|SelfSignedCert|SelfSignedCertWithKey|SignedCert|SignedCertWithKey)|uuidv4|shuffle|bcrypt|htpasswd|encryptAES|keys|values|now|ago)\b`)

// renderTwice renders the chart, and again: what differs would be another release each time.
func (c *chartRun) renderTwice() (map[string]string, error) {
	first, err := c.render(false)
	if err != nil {
		return nil, err
	}
	again := 1
	if c.usesChance() {
		again = 6
	}
	for range again {
		second, err := c.render(true)
		if err != nil {
			return nil, err
		}
		for _, name := range slices.Sorted(maps.Keys(first)) {
			if !c.same(name, first[name], second[name]) {
				return nil, c.problem(c.file(name), "it renders differently each time"+c.because(name), "give the value that is made up there in a file of values, or leave it out: else each rendering is another release")
			}
		}
	}
	return first, nil
}

// same says whether two results of a template are the same objects. A hook's are left out: a test's name may be made up.
func (c *chartRun) same(name, one, other string) bool {
	if one == other || strings.HasSuffix(name, "NOTES.txt") {
		return true
	}
	var a, b Rendered
	if a.addText(c.file(name), []byte(one), rendered) != nil || b.addText(c.file(name), []byte(other), rendered) != nil {
		return false
	}
	return slices.EqualFunc(a.Objects, b.Objects, func(a, b Object) bool { return bytes.Equal(a.Raw, b.Raw) })
}

func (c *chartRun) usesChance() (uses bool) {
	eachTemplate(c.loaded, func(f *chart.File) { uses = uses || chance.Match(f.Data) })
	values, err := json.Marshal([]any{c.values, c.loaded.Values}) // tpl renders these
	return uses || err != nil || chance.Match(values)
}

// because names what makes a template render differently, if the template itself has it.
func (c *chartRun) because(name string) (why string) {
	if c.load() != nil { // as it was written
		return ""
	}
	eachTemplate(c.loaded, func(f *chart.File) {
		if word := chance.Find(f.Data); word != nil && strings.HasSuffix(name, f.Name) {
			why = fmt.Sprintf(" (%s, line %d)", word, 1+bytes.Count(f.Data[:bytes.Index(f.Data, word)], []byte("\n")))
		}
	})
	return why
}

func eachTemplate(c *chart.Chart, do func(*chart.File)) {
	for _, f := range c.Templates {
		do(f)
	}
	for _, subchart := range c.Dependencies() {
		eachTemplate(subchart, do)
	}
}

// render renders the chart once, with another time where the templates ask for it, if so.
func (c *chartRun) render(later bool) (map[string]string, error) {
	if err := c.load(); err != nil {
		return nil, err
	}
	if later {
		eachTemplate(c.loaded, func(f *chart.File) { f.Data = atAnotherTime(f.Name, f.Data) })
	}
	version, err := chartutil.ParseKubeVersion(c.kubeVersion())
	if err != nil {
		return nil, c.problem("render.kubeVersion", fmt.Sprintf("%q is not a version", c.kubeVersion()), "give for example v1.34.0")
	}
	if asked := c.loaded.Metadata.KubeVersion; asked != "" && !chartutil.IsCompatibleRange(asked, version.String()) {
		return nil, c.problem(filepath.Join(c.path, "Chart.yaml"), fmt.Sprintf("the chart is for Kubernetes %s, and is rendered for %s", asked, version), "say in render.kubeVersion which version the cluster has")
	}
	given := chartutil.CoalesceTables(map[string]any{}, c.values)
	if err := chartutil.ProcessDependenciesWithMerge(c.loaded, given); err != nil {
		return nil, c.problem(c.path, err.Error(), "")
	}
	capabilities := chartutil.DefaultCapabilities.Copy()
	capabilities.KubeVersion = *version
	capabilities.APIVersions = append(slices.Clone(capabilities.APIVersions), meshVersions...)
	options := chartutil.ReleaseOptions{Name: c.release(), Namespace: c.source.Namespace, Revision: 1, IsInstall: true}
	if err := chartutil.ValidateReleaseName(options.Name); err != nil {
		return nil, c.problem("render.releaseName", fmt.Sprintf("%q: %v", options.Name, err), "give a name of lower-case letters, digits and dashes")
	}
	values, err := chartutil.ToRenderValuesWithSchemaValidation(c.loaded, given, options, capabilities, c.unchecked())
	if err != nil {
		return nil, c.problem(c.path, c.masked(offending.ReplaceAllString(strings.TrimSpace(err.Error()), "$1: the value $2")), "correct the values: render.values names files of them")
	}
	var files map[string]string
	if c.source.AllowLookup {
		files, err = engine.Render(c.loaded, values)
	} else {
		files, err = engine.RenderWithClientProvider(c.loaded, values, noCluster{})
	}
	if err != nil {
		return nil, c.explain(err)
	}
	return files, nil
}

// noCluster answers a chart's lookup.
type noCluster struct{}

var errLookup = errors.New("lookup asks the cluster, which rendering does not")

func (noCluster) GetClientFor(apiVersion, kind string) (dynamic.NamespaceableResourceInterface, bool, error) {
	return nil, false, fmt.Errorf("%w (%s %s)", errLookup, apiVersion, kind)
}

var (
	// place is where in a template an error is: shop/templates/deployment.yaml:12:20.
	place = regexp.MustCompile(`\(?\b([\w.+-]+(?:/charts/[\w.+-]+)*/[^\s:()"]+):(\d+)(?::\d+)?\)?:?`)
	// quotedTemplate is what tpl was to render, which may be anything.
	quotedTemplate = regexp.MustCompile(`(cannot parse template|tpl function execution for) "(?:[^"\\]|\\.)*"`)
)

// explain names the file and the line of a template's error: the innermost ones, where the mistake is.
func (c *chartRun) explain(err error) error {
	text := quotedTemplate.ReplaceAllString(err.Error(), "$1 a value")
	places := place.FindAllStringSubmatchIndex(text, -1)
	if len(places) == 0 {
		return c.problem(c.path, c.masked(text), "")
	}
	last := places[len(places)-1]
	at := c.file(text[last[2]:last[3]]) + ":" + text[last[4]:last[5]]
	problem := strings.TrimSpace(strings.TrimPrefix(text[last[1]:], ":"))
	if problem == "" { // the place ends the message
		problem = strings.TrimSpace(text[:last[0]])
	}
	problem = c.masked(problem)
	if outer := places[0]; text[outer[2]:outer[5]] != text[last[2]:last[5]] {
		problem += " (rendered for " + c.file(text[outer[2]:outer[3]]) + ":" + text[outer[4]:outer[5]] + ")"
	}
	fix := "correct the template, or give the value it needs in a file that render.values names"
	if strings.Contains(text, errLookup.Error()) {
		fix = "give what it looks up as a value, or leave that part of the chart out; where the values make it unnecessary, render.allowLookup lets it find nothing"
	}
	return c.problem(at, problem, fix)
}

// offending is a value that does not fit a schema, as its validator quotes it.
var offending = regexp.MustCompile(`(?m)^(- at '[^']*'): '.*' (does not match|is not valid)`)

// confidential is in the names of values that must be in no log.
var confidential = regexp.MustCompile(`(?i)pass|pw|secret|token|key|cred|auth|dsn|cert`)

// masked is an error's text without the values that by their names may be secrets: functions of templates quote what they get.
func (c *chartRun) masked(text string) string {
	var found []string
	var look func(value any, secret bool)
	look = func(value any, secret bool) {
		switch v := value.(type) {
		case map[string]any:
			for name, value := range v {
				look(value, secret || confidential.MatchString(name))
			}
		case []any:
			for _, value := range v {
				look(value, secret)
			}
		case string:
			if secret && len(v) > 2 {
				found = append(found, v)
			}
		}
	}
	look(c.values, false)
	for charts := []*chart.Chart{c.loaded}; len(charts) > 0; charts = append(charts[1:], charts[0].Dependencies()...) {
		look(charts[0].Values, false)
	}
	slices.SortFunc(found, func(a, b string) int { return cmp.Compare(len(b), len(a)) }) // one may be a part of another
	for _, value := range found {
		text = strings.ReplaceAll(text, value, "***")
	}
	return text
}

// unchecked says whether the schema of the values names another one, which Helm would fetch.
func (c *chartRun) unchecked() bool {
	charts := []*chart.Chart{c.loaded}
	for len(charts) > 0 {
		var schema any
		if json.Unmarshal(charts[0].Schema, &schema) == nil && namesAnother(schema) {
			return true
		}
		charts = append(charts[1:], charts[0].Dependencies()...)
	}
	return false
}

func namesAnother(schema any) bool {
	switch v := schema.(type) {
	case map[string]any:
		for key, inner := range v {
			ref, isText := inner.(string)
			if isText && slices.Contains([]string{"$ref", "$dynamicRef", "$recursiveRef", "$schema"}, key) && !strings.HasPrefix(ref, "#") && !draft.MatchString(ref) {
				return true
			}
			if namesAnother(inner) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(v, namesAnother)
	}
	return false
}

// draft is a schema of schemas, which the validator has.
var draft = regexp.MustCompile(`^https?://json-schema\.org/(draft-0[4-7]|draft/(2019-09|2020-12))/schema#?$`)

// atAnotherTime is a template in which now is long ago: what it renders shows whether it depends on the time.
func atAnotherTime(name string, text []byte) []byte {
	if !bytes.Contains(text, []byte("now")) {
		return text
	}
	tree := parse.New(name)
	tree.Mode = parse.SkipFuncCheck
	trees := map[string]*parse.Tree{}
	if _, err := tree.Parse(string(text), "", "", trees); err != nil {
		return text // Helm says so better
	}
	var at []int
	for _, t := range trees {
		if t.Root != nil {
			at = append(at, nows(t.Root)...)
		}
	}
	slices.Sort(at)
	for _, pos := range slices.Backward(slices.Compact(at)) {
		text = slices.Concat(text[:pos], []byte(`(toDate "2006" "1999")`), text[pos+len("now"):])
	}
	return text
}

// nows are the positions at which now is called.
func nows(node parse.Node) (at []int) {
	list := func(nodes ...*parse.ListNode) {
		for _, l := range nodes {
			if l != nil {
				for _, n := range l.Nodes {
					at = append(at, nows(n)...)
				}
			}
		}
	}
	pipe := func(p *parse.PipeNode) {
		if p != nil {
			for _, c := range p.Cmds {
				for _, arg := range c.Args {
					at = append(at, nows(arg)...)
				}
			}
		}
	}
	switch n := node.(type) {
	case *parse.ListNode:
		list(n)
	case *parse.ActionNode:
		pipe(n.Pipe)
	case *parse.PipeNode:
		pipe(n)
	case *parse.ChainNode:
		at = nows(n.Node)
	case *parse.TemplateNode:
		pipe(n.Pipe)
	case *parse.IfNode:
		pipe(n.Pipe)
		list(n.List, n.ElseList)
	case *parse.RangeNode:
		pipe(n.Pipe)
		list(n.List, n.ElseList)
	case *parse.WithNode:
		pipe(n.Pipe)
		list(n.List, n.ElseList)
	case *parse.IdentifierNode:
		if n.Ident == "now" {
			at = append(at, int(n.Pos))
		}
	}
	return at
}
