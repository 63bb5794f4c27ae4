// Command compare releases the same app with Crossbill, Argo Rollouts and Flagger, on the rehearsal's control plane and gateway,
// and writes what came of it to out/compare.json and a page that is generated from it. See docs/compare.md.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"

	"github.com/our-org/crossbill/rehearsal/cluster"
	"github.com/our-org/crossbill/rehearsal/sandbox"
	"github.com/our-org/crossbill/rehearsal/setup"
)

// options are the flags, and what is found outside the sandbox for those inside.
type options struct {
	Runs       int
	Scenarios  string
	Systems    string
	Minutes    float64
	Rate       int
	Side       int
	GitOps     bool
	Fleet      int
	Cached     bool
	Short      bool
	SetupOnly  bool
	Out, Page  string
	Add        string
	Renew      bool
	Repository string
	Command    string

	Work     string
	Programs setup.Programs
	Peers    map[string]setup.Peer
	Flux     setup.Flux
	Facts    facts
	Left     map[string]string // why a system is left out, by its name
	Started  time.Time
}

// optionsVariable carries them into the sandbox.
const optionsVariable = "CROSSBILL_COMPARE"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	code, err := 0, error(nil)
	if sandbox.Inside() {
		err = inside(ctx)
	} else {
		var o *options
		if o, err = parse(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "compare:", err)
			os.Exit(2)
		}
		code, err = outside(ctx, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		code = 1
	}
	os.Exit(code)
}

func parse(args []string) (*options, error) {
	o := &options{Started: time.Now()}
	flags := flag.NewFlagSet("compare", flag.ContinueOnError)
	flags.IntVar(&o.Runs, "runs", 5, "how often each system releases in each scenario; the scenarios that take minutes once, if there are others")
	flags.StringVar(&o.Scenarios, "scenarios", "", "regular expression for the names of the scenarios; empty for all")
	flags.StringVar(&o.Systems, "systems", "", "regular expression for the systems, such as crossbill or flagger/tight; empty for all")
	flags.Float64Var(&o.Minutes, "minutes", 60, "ends the run after this time, with what there is")
	flags.IntVar(&o.Rate, "rate", 100, "requests per second to each app")
	flags.IntVar(&o.Side, "side-by-side", 3, "how many scenarios run at the same time")
	flags.BoolVar(&o.GitOps, "gitops", false, "also release beside Flux, as -scenarios Flux does")
	flags.IntVar(&o.Fleet, "fleet", 0, "also release so many apps at once, one system after the other")
	flags.BoolVar(&o.Cached, "cached", false, "leave out the controllers that would have to be built first")
	flags.BoolVar(&o.Short, "short", false, "a check that all of it works, in a minute and a half: one scenario, once, with -cached and shorter intervals, to out/compare-short.json; exit code 1 if Crossbill's outcome is wrong")
	flags.BoolVar(&o.SetupOnly, "setup-only", false, "only fetch and build what is needed")
	flags.StringVar(&o.Out, "out", "out/compare.json", "file for the figures")
	flags.StringVar(&o.Page, "page", "out/compare.md", "file for the page that is made of them")
	flags.StringVar(&o.Add, "add", "", "file of figures of earlier runs, to which these are added: of the same versions, machine, and rate")
	flags.BoolVar(&o.Renew, "renew", false, "with -add: what runs now takes the place of what the file has of these scenarios, and may be of another version of Crossbill, which the page says")
	flags.StringVar(&o.Repository, "repository", ".", "the checkout")
	from := flags.String("from", "", "only make the page, from this file of figures")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	o.Command = command(args, o.Page)
	if o.Short {
		if o.Add != "" || o.Fleet > 0 {
			return nil, errors.New("-short is no measurement: leave -add and -fleet out")
		}
		o.Runs, o.Minutes, o.Cached, o.Scenarios, o.Systems = 1, 5, true, "^"+shortScenario+"$", tight
		o.Out, o.Page = "out/compare-short.json", "out/compare-short.md"
	}
	switch {
	case flags.NArg() > 0:
		return nil, fmt.Errorf("%q is no flag; see -help", flags.Arg(0))
	case o.Runs < 1:
		return nil, fmt.Errorf("-runs: %d is not a number from 1 on", o.Runs)
	case o.Rate < 10 || o.Rate > 500:
		return nil, fmt.Errorf("-rate: %d is not from 10 to 500: one gateway serves all apps", o.Rate)
	case o.Fleet < 0 || o.Fleet > 200:
		return nil, fmt.Errorf("-fleet: %d is not from 1 to 200", o.Fleet)
	case o.Side < 1 || o.Side > 8:
		return nil, fmt.Errorf("-side-by-side: %d is not from 1 to 8", o.Side)
	case o.Renew && (o.Add == "" || o.Scenarios == ""):
		return nil, errors.New("-renew: give -add with the file of earlier runs, and -scenarios with what is run again")
	case o.Minutes < 3:
		return nil, fmt.Errorf("-minutes: %g is less than one scenario takes; give 3 or more", o.Minutes)
	}
	for name, text := range map[string]string{"-scenarios": o.Scenarios, "-systems": o.Systems} {
		if _, err := regexp.Compile(text); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	for _, path := range []*string{&o.Repository, &o.Out, &o.Page, &o.Add} {
		if *path == "" {
			continue
		}
		var err error
		if *path, err = filepath.Abs(*path); err != nil {
			return nil, err
		}
	}
	if len(o.scenarios()) == 0 && o.Fleet == 0 {
		return nil, fmt.Errorf("-scenarios: no name matches %q", o.Scenarios)
	}
	if len(o.systems()) == 0 {
		return nil, fmt.Errorf("-systems: none matches %q", o.Systems)
	}
	if *from != "" {
		return o, fromFile(*from, o.Page)
	}
	return o, nil
}

// command is how make is called for the same.
func command(args []string, page string) string {
	text := "make compare"
	if filepath.ToSlash(page) == documented {
		text += " DOCS=1"
	}
	var more []string
	for i := 0; i < len(args); i++ {
		if args[i] == "-page" || args[i] == "-out" { // where it goes is no part of what is measured
			i++
			continue
		}
		more = append(more, args[i])
	}
	if len(more) > 0 {
		text += fmt.Sprintf(" COMPARE='%s'", strings.Join(more, " "))
	}
	return text
}

// documented is the page that is part of the documentation.
const documented = "docs/compare.md"

// fromFile makes the page of figures that are there, and ends the program.
func fromFile(figures, page string) error {
	r, err := readReport(figures)
	if err != nil {
		return err
	}
	if err := writeWhole(page, []byte(r.page())); err != nil {
		return err
	}
	os.Exit(0)
	return nil
}

// scenarios are those that the flags name.
func (o *options) scenarios() (chosen []scenario) {
	for _, s := range scenarios {
		if s.gitops && (o.Scenarios == "" && !o.GitOps || o.Left[flux] != "") {
			continue
		}
		if yes, _ := regexp.MatchString(o.Scenarios, s.Name); yes {
			chosen = append(chosen, s)
		}
	}
	return chosen
}

// renews are the names of the scenarios whose earlier figures give way to new ones.
func (o *options) renews() (names []string) {
	if !o.Renew {
		return nil
	}
	for _, s := range o.scenarios() {
		names = append(names, s.Name)
	}
	return names
}

// systems are those that the flag names.
func (o *options) systems() (chosen []systemID) {
	for _, s := range systems {
		if yes, _ := regexp.MatchString(o.Systems, s.String()); yes {
			chosen = append(chosen, s)
		}
	}
	return chosen
}

// besideFlux says whether Flux is needed.
func (o *options) besideFlux() bool {
	return slices.ContainsFunc(o.scenarios(), func(s scenario) bool { return s.gitops })
}

// outside fetches and builds what is needed where the network is, and runs the rest in the sandbox.
func outside(ctx context.Context, o *options) (int, error) {
	module := filepath.Join(o.Repository, "rehearsal")
	log := func(format string, args ...any) { fmt.Printf(format+"\n", args...) }
	var err error
	if o.Programs, err = setup.Ensure(ctx, module, log); err != nil {
		return 1, err
	}
	o.Peers, o.Left = map[string]setup.Peer{}, map[string]string{}
	for _, s := range o.systems() {
		if s.Name == ours || o.Peers[s.Name].Program != "" || o.Left[s.Name] != "" {
			continue
		}
		peer, there := setup.Peer{}, true
		if o.Cached {
			peer, there, err = setup.CachedPeer(module, s.Name)
		} else {
			peer, err = setup.EnsurePeer(ctx, module, s.Name, log)
		}
		if err != nil {
			return 1, err
		}
		if there {
			o.Peers[s.Name] = peer
			continue
		}
		o.Left[s.Name] = "its controller is not built yet: `make compare COMPARE=-setup-only` builds it, in 5 to 15 minutes"
		log("%s is left out: %s", s.Name, o.Left[s.Name])
	}
	if o.besideFlux() {
		there := true
		if o.Cached {
			if there, err = setup.CachedFlux(module); err != nil {
				return 1, err
			}
		}
		if there {
			if o.Flux, err = setup.EnsureFlux(ctx, module, log); err != nil {
				return 1, err
			}
		} else {
			o.Left[flux] = "it is not built yet: `make compare COMPARE='-gitops -setup-only'` builds it, in 5 to 10 minutes"
			log("releases beside Flux are left out: %s", o.Left[flux])
		}
	}
	if o.SetupOnly {
		return 0, nil
	}
	o.Started = time.Now() // what was compiled is not in the time that the flag gives
	if o.Work, err = os.MkdirTemp("", "crossbill-compare-"); err != nil {
		return 1, err
	}
	defer os.RemoveAll(o.Work)
	if err := os.Chmod(o.Work, 0o755); err != nil { // pods' processes are other users
		return 1, err
	}
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-o", filepath.Join(o.Work, "app"), "./app")
	build.Dir, build.Env = filepath.Join(module, "compare"), append(os.Environ(), "CGO_ENABLED=0")
	if text, err := build.CombinedOutput(); err != nil {
		return 1, fmt.Errorf("building the app: %w\n%s", err, text)
	}
	if o.Facts, err = findFacts(ctx, o); err != nil {
		return 1, err
	}
	if o.Add != "" { // a run that could not be added is not started
		earlier, err := readReport(o.Add)
		if err != nil {
			return 1, err
		}
		if _, err := newReport(o).plus(earlier, o.renews()...); err != nil {
			return 1, fmt.Errorf("-add %s: %w", o.Add, err)
		}
	}
	text, err := json.Marshal(o)
	if err != nil {
		return 1, err
	}
	if err := os.Setenv(optionsVariable, string(text)); err != nil {
		return 1, err
	}
	return sandbox.Run(ctx, os.Args[1:])
}

// inside runs the scenarios.
func inside(ctx context.Context) error {
	var o options
	if err := json.Unmarshal([]byte(os.Getenv(optionsVariable)), &o); err != nil {
		return err
	}
	if _, err := sandbox.Enter(); err != nil {
		return err
	}
	klog.SetLogger(logr.Discard())
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	fmt.Println("starting the control plane")
	c, err := cluster.Start(ctx, cluster.Options{
		Dir: filepath.Join(o.Work, "cluster"), TestclusterBinary: o.Programs.Testcluster, EnvoyBinary: o.Programs.Envoy,
		PrometheusBinary: o.Programs.Prometheus, GatewayAPI: o.Programs.GatewayAPI, Audit: true, Namespace: "compare",
	})
	if err != nil {
		return err
	}
	defer c.Close()
	go func() {
		select {
		case err := <-c.Broken():
			cancel(err)
		case <-ctx.Done():
		}
	}()
	arena, err := newArena(ctx, &o, c)
	if err != nil {
		return err
	}
	err = arena.run(ctx)
	if o.Short && err == nil {
		err = arena.report.short()
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	return err
}

// facts are what the page says of the machine and of what runs there.
type facts struct {
	Machine   string            `json:"machine"`
	System    string            `json:"operatingSystem"`
	Versions  map[string]string `json:"versions"`
	Init      map[string]int    `json:"linesOfInit,omitempty"` // that `crossbill init` writes, by file
	Processor string            `json:"processor"`
}

func findFacts(ctx context.Context, o *options) (facts, error) {
	f := facts{Versions: map[string]string{"Go": runtime.Version()}}
	f.Machine = fmt.Sprintf("%d cores, %.0f GiB of memory", runtime.NumCPU(), memoryOfMachine())
	f.Processor, f.System = line("/proc/cpuinfo", "model name"), strings.Trim(line("/etc/os-release", "PRETTY_NAME"), `"`)
	for name, peer := range o.Peers {
		f.Versions[name] = peer.Version
	}
	out, err := exec.CommandContext(ctx, filepath.Join(o.Repository, "bin", "crossbill"), "version", "-o", "json").Output()
	if err != nil {
		return f, fmt.Errorf("bin/crossbill version: %w (make build makes it)", err)
	}
	var version struct{ Version string }
	if err := json.Unmarshal(out, &version); err != nil {
		return f, err
	}
	f.Versions[ours] = version.Version
	name := filepath.Base(filepath.Dir(o.Programs.Testcluster)) // testcluster-VERSION-KEY
	f.Versions["Kubernetes"], _, _ = strings.Cut(strings.TrimPrefix(name, "testcluster-"), "-")
	if o.Flux.KustomizeController != "" { // flux-VERSION-KEY
		name = filepath.Base(filepath.Dir(o.Flux.KustomizeController))
		f.Versions["Flux's kustomize-controller"], _, _ = strings.Cut(strings.TrimPrefix(name, "flux-"), "-")
	}
	f.Versions["Envoy"] = strings.TrimPrefix(filepath.Base(filepath.Dir(o.Programs.Envoy)), "envoy-")
	f.Init, err = linesOfInit(ctx, filepath.Join(o.Repository, "bin", "crossbill"), o.Work)
	return f, err
}

// line is what a file of the system says under a name.
func line(file, name string) string {
	text, _ := os.ReadFile(file)
	for l := range strings.Lines(string(text)) {
		if before, after, ok := strings.Cut(l, map[bool]string{true: ":", false: "="}[strings.HasPrefix(file, "/proc/")]); ok && strings.TrimSpace(before) == name {
			return strings.TrimSpace(after)
		}
	}
	return "unknown"
}

func memoryOfMachine() float64 {
	var kib float64
	if _, err := fmt.Sscanf(line("/proc/meminfo", "MemTotal"), "%f kB", &kib); err != nil {
		return 0
	}
	return kib / (1 << 20)
}

// linesOfInit runs `crossbill init` in an empty repository, and counts what it writes for the pipeline.
func linesOfInit(ctx context.Context, crossbill, work string) (map[string]int, error) {
	dir := filepath.Join(work, "init")
	if err := os.MkdirAll(filepath.Join(dir, "k8s"), 0o755); err != nil {
		return nil, err
	}
	values := values{App: "app", Namespace: "production", Image: "registry.example.com/our-org/app", Replicas: 2, ProgressDeadline: 60}
	text, err := values.render("crossbill.yaml")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "k8s", "app.yaml"), []byte(text), 0o644); err != nil {
		return nil, err
	}
	zeros := strings.Repeat("0", 64)
	for _, args := range [][]string{
		{"git", "init", "--quiet", "--initial-branch=main"}, {"git", "remote", "add", "origin", "git@github.com:our-org/app.git"},
		{crossbill, "init", "--yes", "--project", "our-org/infrastructure", "--image", "registry.example.com/our-org/app", "--context", "production",
			"--namespace", "production", "--prometheus", "http://prometheus.istio-system:9090", "--component", "$CI_SERVER_FQDN/our-org/crossbill/release@1.0.0",
			"--crossbill-image", "registry.example.com/our-org/crossbill@sha256:" + zeros, "--workflow", "our-org/crossbill/.github/workflows/deliver.yml@" + zeros[:40]},
	} {
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%s: %w\n%s", strings.Join(args[:2], " "), err, out)
		}
	}
	lines := map[string]int{}
	for _, name := range []string{"crossbill.yaml", ".gitlab-ci.yml"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		lines[name] = countLines(string(text))
	}
	return lines, nil
}

// countLines counts those that say something.
func countLines(text string) (n int) {
	for l := range strings.Lines(text) {
		if l = strings.TrimSpace(l); l != "" && l != "---" && !strings.HasPrefix(l, "#") {
			n++
		}
	}
	return n
}

// writeWhole writes a file that appears whole.
func writeWhole(path string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", text, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
