package rollout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/our-org/crossbill/internal/environment"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// GitLedgers is the folder of an environment repository with a folder of each app whose releases are commits: its ledger, its
// lock, and where it is. Nil is one without any.
type GitLedgers struct {
	Repository Repository
	Folder     string
}

// placeFile says beside the ledger where the app is: whoever reads the ledgers of all apps knows it from nowhere else.
const placeFile = "app.json"

// place is where an app is.
type place struct {
	Namespace string `json:"namespace"` // in the cluster
	Path      string `json:"path"`      // of the folder with its manifests, in the repository
}

// keptInGit is what the repository keeps of an app.
type keptInGit struct {
	app   string
	place place
	state *corev1.ConfigMap
	lock  *coordinationv1.Lease // nil when nobody has it
	err   error                 // why some of it cannot be read

	canary bool // the app's folder has one
}

// read reads what is kept of the apps of a namespace, of every namespace for "", at the head of the branch. An app that does not
// say where it is may be anywhere.
func (g *GitLedgers) read(ctx context.Context, namespace string) ([]keptInGit, error) {
	if g == nil {
		return nil, nil
	}
	tree, err := g.Repository.Read(ctx)
	if err != nil {
		return nil, g.unread(err)
	}
	files, err := tree.Files(g.Folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, g.unread(err)
	}
	var all []keptInGit
	for _, file := range files {
		app, name := path.Split(strings.TrimPrefix(file, path.Clean(g.Folder)+"/"))
		if app = strings.TrimSuffix(app, "/"); name != ledgerKey || release.CheckApp("app", app) != nil {
			continue
		}
		one := g.readOne(tree, app, namespace)
		if err := tree.Err(); err != nil { // it is not the app's
			return nil, g.unread(err)
		}
		if namespace == "" || one.place.Namespace == namespace {
			all = append(all, one)
		}
	}
	return all, nil
}

func (g *GitLedgers) unread(err error) error {
	return fmt.Errorf("ledgers (%s in Git): %w", g.Folder, err)
}

// readOne reads what is kept of an app. Where it does not say so itself, it is in the namespace that is asked for.
func (g *GitLedgers) readOne(tree *environment.Tree, app, namespace string) keptInGit {
	one := keptInGit{app: app}
	s := gitStore{&Cluster{Git: &GitStore{Ledgers: g.Folder}}}
	one.state, one.err = s.stateIn(tree, statePrefix+app)
	if one.err == nil {
		one.lock, one.err = s.leaseIn(tree, statePrefix+app)
	}
	if one.err == nil {
		one.place, one.err = s.placeIn(tree, app, one.state)
	}
	one.canary = one.place.Path != "" && tree.Has(path.Join(one.place.Path, canaryFile))
	if one.place.Namespace == "" {
		one.place.Namespace = namespace
	}
	if one.state != nil {
		one.state.Namespace, one.state.Labels["app"] = one.place.Namespace, app
	}
	return one
}

// placeIn reads where an app is. Before Crossbill wrote that, only the objects of a release say its namespace.
func (s gitStore) placeIn(tree *environment.Tree, app string, state *corev1.ConfigMap) (p place, err error) {
	name := path.Join(s.Git.Ledgers, app, placeFile)
	text, err := file(tree, name)
	if err != nil {
		return place{}, err
	}
	if text == nil {
		if ledger, err := release.ParseLedger(app, state.Data[ledgerKey]); err == nil {
			if objects := objectsOf(ledger); objects != nil {
				p.Namespace = objects.Namespace
			}
		}
		return p, nil
	}
	if err := json.Unmarshal(text, &p); err != nil {
		return place{}, fmt.Errorf("%s: %w; the next command on the app writes it anew", name, err)
	}
	if len(validation.IsDNS1123Label(p.Namespace)) > 0 || !fs.ValidPath(p.Path) {
		return place{}, fmt.Errorf("%s: it names no namespace and folder; the next command on the app writes it anew", name)
	}
	return p, nil
}

// putPlace writes where the app is.
func (s gitStore) putPlace(tree *environment.Tree, name string) error {
	text, err := json.MarshalIndent(place{s.Namespace, path.Clean(s.Git.Folder)}, "", "  ")
	if err != nil {
		return err
	}
	return put(tree, path.Join(s.dir(name), placeFile), string(text))
}

// Apps are the apps of a namespace whose ledger is in Git, of every namespace for "". It asks for the head of the branch once.
func (g *GitLedgers) Apps(ctx context.Context, namespace string) ([]App, error) {
	all, err := g.read(ctx, namespace)
	var apps []App
	for _, one := range all {
		app := App{Namespace: one.place.Namespace, Name: one.app, Err: one.err}
		if one.err == nil {
			app = appOf(one.state)
		}
		app.InGit, app.Path, app.AtRest = true, one.place.Path, app.AtRest && !one.canary
		apps = append(apps, app)
	}
	return apps, err
}

// Find is the app of a name; for "" the only one of the namespace, or the only one with a release in flight.
func (g *GitLedgers) Find(ctx context.Context, namespace, name string) (App, error) {
	apps, err := g.Apps(ctx, namespace)
	if err != nil {
		return App{}, fmt.Errorf("%w; nothing was changed", err)
	}
	if name == "" {
		return choose(apps, namespace)
	}
	for _, app := range apps {
		if app.Name == name {
			return app, app.Err
		}
	}
	return App{}, &usererr.Error{Field: "app", Problem: fmt.Sprintf("%q has no ledger in Git (%s) for namespace %s", name, g.Folder, namespace), Fix: "check app and namespace; `crossbill status --all` lists them"}
}

// gitWatch is what the repository keeps of the apps of a namespace, as it was read last.
type gitWatch struct {
	ledgers   *GitLedgers
	namespace string

	mu       sync.Mutex
	kept     []keptInGit
	answered time.Time // when it was read
	failed   error     // why it is not read now
}

// gitLookFor bounds one of its looks.
const gitLookFor = 10 * time.Second

// watchGit looks once, and then again and again until ctx ends.
func watchGit(ctx context.Context, ledgers *GitLedgers, namespace string, changed func()) *gitWatch {
	w := &gitWatch{ledgers: ledgers, namespace: namespace}
	if ledgers == nil {
		return w
	}
	w.look(ctx)
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(statePoll):
			}
			if w.look(ctx) {
				changed()
			}
		}
	}()
	return w
}

// look reads the repository, and says whether there is something new to see.
func (w *gitWatch) look(ctx context.Context) (news bool) {
	ctx, cancel := context.WithTimeout(ctx, gitLookFor)
	defer cancel()
	kept, err := w.ledgers.read(ctx, w.namespace)
	w.mu.Lock()
	defer w.mu.Unlock()
	news = errorText(err) != errorText(w.failed)
	if w.failed = err; err != nil {
		return news
	}
	before := w.kept
	w.kept, w.answered = kept, time.Now()
	news = news || len(kept) != len(before)
	for i := range kept {
		if i >= len(before) || !kept[i].sameAs(before[i]) {
			news = true
		} else {
			kept[i] = before[i] // whose ledger was parsed already
		}
	}
	return news
}

// sameAs says whether the repository keeps the same of the app as before.
func (k *keptInGit) sameAs(before keptInGit) bool {
	version := func(state *corev1.ConfigMap) string {
		if state == nil {
			return ""
		}
		return state.ResourceVersion
	}
	return k.app == before.app && k.place == before.place && errorText(k.err) == errorText(before.err) &&
		version(k.state) == version(before.state) && versionOf(k.lock) == versionOf(before.lock)
}

func (w *gitWatch) has() []keptInGit {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.kept
}

func (w *gitWatch) answers() (answered time.Time, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.answered, w.failed
}
