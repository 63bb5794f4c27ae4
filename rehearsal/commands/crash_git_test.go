package commands_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/our-org/crossbill/internal/environment"
	controllers "github.com/our-org/crossbill/internal/gitops"
	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/rollout"
)

const (
	ledgerFolder = "releases"
	// crashesAtOnce are the apps that are released beside each other. Two cores are enough for one Flux with so many.
	crashesAtOnce = 4
	// crashTurn makes the short form: every so many-th group, and of that one of the first three pushes, which verify's turn
	// has to be the first of.
	crashTurn = 7
)

var pushFaults = []fault{never, silent, dies, forGood, late}

// gitCases are the commands that push.
func gitCases() []commandCase {
	cases := slices.DeleteFunc(slices.Clone(commandCases), func(c commandCase) bool { return !c.by("HTTPRoute") })
	return append(cases, commandCase{"verify", func(a *app, image string) {
		a.prepare(func(c *rollout.Cluster) (rollout.Result, error) { return c.Canary(a.Context(), wanted(c, image)) })
	}, func(ctx context.Context, c *rollout.Cluster, _ string) error { return judge(ctx, c) }})
}

// testCrashesInGit is TestCrashMatrix of releases by commits that Flux applies: what meets the faults is each push. At rest, Git
// and cluster have to be equal.
func testCrashesInGit(t *testing.T) {
	groups := make(chan crashGroup, 100)
	turn := 0
	for _, command := range gitCases() {
		for _, f := range pushFaults {
			for _, way := range command.ways() {
				g := crashGroup{command: command, fault: f, rollBack: way == "rollback", first: 1, stride: 1, last: 100}
				if *crashStride > 1 {
					g.first = 1 + (turn/crashTurn+2)%3
					g.last = g.first
				}
				if *crashStride == 1 || turn%crashTurn == 0 {
					groups <- g
				}
				turn++
			}
		}
	}
	close(groups)
	count, atLeast := &crashCount{Router: "VirtualService, by commits", counts: pushes}, len(groups)
	if *crashStride == 1 {
		atLeast = 100
	}
	t.Run("matrix", func(t *testing.T) {
		for i := range crashesAtOnce {
			t.Run(fmt.Sprint("app ", i+1), func(t *testing.T) {
				t.Parallel()
				var a *app
				made := 0
				for g := range groups {
					if a == nil {
						made++
						a = committing(t, fmt.Sprintf("crash-g-%d-%d", i+1, made))
					}
					began := time.Now()
					rests := count.all(g, func(int) *app { return a })
					t.Logf("%s, a push %s, rollback %t: %s", g.command.name, g.fault, g.rollBack, time.Since(began).Round(time.Second))
					if !rests {
						a.commits.x.logCommits()
						a = nil
					}
				}
			})
		}
	})
	count.report(t, atLeast)
	keep(t, "crashes", func(json.RawMessage) (any, error) {
		return map[string]int{"cases": count.Cases, "violations": count.Violations, "unfinished": count.Unfinished, "atRestDifferent": count.different}, nil
	})
}

// committing is an app that Flux has brought into the cluster, with a route of others in it, and whose releases are commits.
func committing(t *testing.T, name string) *app {
	t.Helper()
	x := newBesideA(t, flux, "git", name, "one", func(a *app) {
		file := filepath.Join(a.manifests, "virtual-service.yaml")
		text, err := os.ReadFile(file)
		if err != nil {
			a.Fatal(err)
		}
		const release = "    - name: release\n"
		theirs := "    - name: theirs\n      match: [{uri: {prefix: /theirs}}]\n      route: [{destination: {host: other}}]\n      timeout: 3s\n"
		if err := os.WriteFile(file, []byte(strings.Replace(string(text), release, theirs+release, 1)), 0o644); err != nil {
			a.Fatal(err)
		}
	})
	x.commits = &commits{x: x, before: x.tree()}
	return x.app
}

// commits are the releases of an app that are written to its environment repository, by jobs in this process.
type commits struct {
	x      *beside
	before map[string]string // the app's files in Git before all releases

	mu     sync.Mutex
	events chan watch.Event // of the ledger, while somebody watches it
}

// store gives a cluster the repository, through the network of a configuration, as gitops.store: git does.
func (g *commits) store(c *rollout.Cluster, config *rest.Config) {
	g.x.Helper()
	c.Timeout = time.Minute // Flux has several apps
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		g.x.Fatal(err)
	}
	controller, err := controllers.New("flux", client, controllers.Options{
		Branch: "main", Repository: g.x.git.URL, Ledgers: ledgerFolder, Timeout: c.Timeout,
		Log: func(format string, args ...any) {
			if c.Log != nil {
				c.Log(rollout.Event{At: time.Now(), Object: "flux", Message: fmt.Sprintf(format, args...)})
			}
		},
	})
	if err != nil {
		g.x.Fatal(err)
	}
	var transport http.RoundTripper = g
	if config.WrapTransport != nil {
		transport = config.WrapTransport(g)
	}
	git, err := environment.New(environment.Options{URL: g.x.git.URL, Branch: "main", Attempts: 4, Transport: transport})
	if err != nil {
		g.x.Fatal(err)
	}
	const folder = "apps/app"
	c.Manifests = c.Manifests.WithoutConfiguration()
	c.Git = &rollout.GitStore{
		Controller: controller, Repository: git, Folder: folder, Ledgers: ledgerFolder,
		Render: (&controllers.Repository{Git: git, Folder: folder, Render: manifest.Source{App: g.x.name, Namespace: c.Namespace}}).Rendered,
	}
}

// pushes are the requests that push.
func pushes(r *http.Request) bool {
	return r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/git-receive-pack")
}

// RoundTrip implements http.RoundTripper. It returns from a push when that has ended: the server answers while it works. Who
// watches the ledger is shown it then as of before the push, so that it comes before all that it brings about.
func (g *commits) RoundTrip(r *http.Request) (*http.Response, error) {
	if !pushes(r) {
		return http.DefaultTransport.RoundTrip(r)
	}
	now, err := g.x.kube.CoreV1().Pods(g.x.namespace).List(r.Context(), metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	response.Body = io.NopCloser(bytes.NewReader(body))
	g.mu.Lock()
	defer g.mu.Unlock()
	if ledger := g.ledger(now.ResourceVersion); ledger != nil && g.events != nil {
		g.events <- watch.Event{Type: watch.Modified, Object: ledger}
	}
	return response, nil
}

// ledger is that in Git, as the observer knows one; nil when there is none.
func (g *commits) ledger(revision string) *corev1.ConfigMap {
	text, err := g.x.git.Show(ledgerFolder + "/" + g.x.name + "/ledger.json")
	if err != nil {
		return nil
	}
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: g.x.name, ResourceVersion: revision}, Data: map[string]string{"ledger.json": text}}
}

// watch shows the ledger until ctx ends, as a watch of the API server does.
func (g *commits) watch(ctx context.Context) (watch.Interface, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	events := make(chan watch.Event, 1000)
	g.events = events
	if ledger := g.ledger("0"); ledger != nil {
		events <- watch.Event{Type: watch.Added, Object: ledger}
	}
	events <- watch.Event{Type: watch.Bookmark, Object: &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{metav1.InitialEventsAnnotationKey: "true"}}}}
	context.AfterFunc(ctx, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.events = nil
		close(events)
	})
	return watch.NewProxyWatcher(events), nil
}

// different says in what Git and the cluster differ at rest, or either from what it was before but for the image.
func (g *commits) different() (found []string) {
	x := g.x
	x.Helper()
	x.applied()
	want := map[string]string{}
	for name, text := range g.before {
		want[name] = regexp.MustCompile(`image: \S+`).ReplaceAllLiteralString(text, "image: "+x.image("primary"))
	}
	if diff := cmp.Diff(want, x.tree()); diff != "" {
		found = append(found, "the app in Git (-want +got):\n"+diff)
	}
	if _, err := x.git.Show(ledgerFolder + "/" + x.name + "/lock.json"); err == nil {
		found = append(found, "the lock is left in Git")
	}
	before := x.state()
	if err := errors.Join(x.by.RequestApply(x.Context()), x.by.WaitHandled(x.Context())); err != nil {
		x.Fatal(err)
	}
	if after := x.state(); !maps.Equal(before, after) {
		found = append(found, "Flux changes what is at rest:\n"+cmp.Diff(before, after))
	}
	return found
}

// takes sends a push of a job that is dead, on a head that is not the last one any more, and says so if the server takes it.
func (g *commits) takes(held func() (*http.Response, error)) (problems []string) {
	g.x.Helper()
	before := g.head()
	response, err := held()
	if err != nil {
		g.x.Fatal(err)
	}
	response.Body.Close()
	if g.head() != before {
		problems = append(problems, "a push of a dead job was taken")
	}
	return problems
}

func (g *commits) head() string {
	g.x.Helper()
	head, err := g.x.git.Head()
	if err != nil {
		g.x.Fatal(err)
	}
	return head
}

// tree is the app's folder in Git: the text of each file.
func (x *beside) tree() map[string]string {
	x.Helper()
	names, err := x.git.Git("ls-tree", "-r", "--name-only", "main", "--", "apps")
	if err != nil {
		x.Fatal(err)
	}
	files := map[string]string{}
	for name := range strings.Lines(names) {
		name = strings.TrimSpace(name)
		files[name] = x.show(name)
	}
	return files
}
