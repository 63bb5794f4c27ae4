package rollout_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/our-org/crossbill/internal/environment"
	"github.com/our-org/crossbill/internal/gitops"
	"github.com/our-org/crossbill/internal/hook"
	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

// gitApp is the prefix of a stage of an app whose releases are commits, which Flux applies.
const gitApp = "git, "

// repository stands for an environment repository, as package environment makes one of it: an edit of the head that was read,
// and a push that names it as its parent. What package environment tries again does not show here.
type repository struct {
	mu       sync.Mutex
	commits  []map[string][]byte
	subjects []string
	down     error
}

const (
	appFolder    = "apps/shop"
	ledgerFolder = "releases"
)

func (r *repository) head() (int, map[string][]byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := len(r.commits) - 1
	if last < 0 {
		return last, nil
	}
	return last, r.commits[last]
}

func treeAt(n int, files map[string][]byte) (*environment.Tree, error) {
	return environment.TreeOf(fmt.Sprintf("%040x", n+1), files)
}

func (r *repository) Read(context.Context) (*environment.Tree, error) {
	if r.down != nil {
		return nil, r.down
	}
	return treeAt(r.head())
}

// commit makes one; pushing is called before each push.
func (r *repository) commit(subject string, edit func(*environment.Tree) error, pushing func()) (environment.Commit, error) {
	for {
		if r.down != nil {
			return environment.Commit{}, r.down
		}
		parent, files := r.head()
		tree, err := treeAt(parent, files)
		if err == nil {
			err = edit(tree)
		}
		if err != nil {
			return environment.Commit{}, err
		}
		next, err := filesOf(tree)
		if err != nil {
			return environment.Commit{}, err
		}
		if maps.EqualFunc(files, next, bytes.Equal) {
			return environment.Commit{Hash: tree.Head()}, nil
		}
		if pushing != nil {
			pushing()
		}
		if hash := r.push(parent, subject, next); hash != "" {
			return environment.Commit{Hash: hash, New: true}, nil
		}
	}
}

func (r *repository) push(parent int, subject string, files map[string][]byte) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.commits)-1 != parent {
		return ""
	}
	r.commits, r.subjects = append(r.commits, files), append(r.subjects, subject)
	return fmt.Sprintf("%040x", len(r.commits))
}

func filesOf(tree *environment.Tree) (map[string][]byte, error) {
	names, err := tree.Files("")
	files := map[string][]byte{}
	for i := 0; i < len(names) && err == nil; i++ {
		files[names[i]], err = tree.Read(names[i])
	}
	return files, err
}

// renderings are those of folders, by all of their files.
var renderings memory[[sha256.Size]byte, []manifest.Object]

// rendered are the objects of the app's folder. What they point to is shared.
func rendered(files map[string][]byte) ([]manifest.Object, error) {
	h, folder := sha256.New(), map[string][]byte{}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if path.Dir(name) == appFolder {
			folder[name] = files[name]
			fmt.Fprintf(h, "%q %q\n", name, files[name])
		}
	}
	key := [sha256.Size]byte(h.Sum(nil))
	all, known := renderings.get(key)
	if !known {
		var err error
		if all, err = render(folder); err != nil {
			return nil, err
		}
		renderings.put(key, all)
	}
	return slices.Clone(all), nil
}

func render(folder map[string][]byte) (all []manifest.Object, err error) {
	if folder[kustomizationFile] != nil {
		return kustomized(folder)
	}
	for _, name := range slices.Sorted(maps.Keys(folder)) {
		raw, err := yaml.YAMLToJSON(folder[name])
		if err != nil {
			return nil, err
		}
		var u unstructured.Unstructured
		if err := u.UnmarshalJSON(raw); err != nil {
			return nil, err
		}
		all = append(all, manifest.Object{GroupVersionKind: u.GroupVersionKind(), Name: u.GetName(), Raw: raw})
	}
	return all, nil
}

// kustomizationFile is the app's, where it has one.
var kustomizationFile = path.Join(appFolder, "kustomization.yaml")

// kustomized is what kustomize makes of the app's folder.
func kustomized(folder map[string][]byte) ([]manifest.Object, error) {
	dir, err := os.MkdirTemp("", "crossbill-test-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	for name, text := range folder {
		if err := os.WriteFile(filepath.Join(dir, path.Base(name)), text, 0o600); err != nil {
			return nil, err
		}
	}
	made, err := manifest.Render(context.Background(), manifest.Source{Path: dir})
	if err != nil {
		return nil, err
	}
	return made.Objects, nil
}

// view is a job's way to the repository: a commit is one of its writes.
type view struct {
	*repository
	job *job
}

func (v view) Commit(_ context.Context, message environment.Message, edit func(*environment.Tree) error) (made environment.Commit, err error) {
	w := v.job.world
	err = v.job.beside("commit "+message.Subject, func() error {
		made, err = v.commit(message.Subject, edit, v.job.pushing())
		return err
	})
	if made.New {
		w.server.mu.Lock()
		w.effects = append(w.effects, effect{by: v.job.name, action: "commit", object: message.Subject})
		w.server.mu.Unlock()
		w.git.wakeUp()
	}
	if kill := killedAt[v.job.killOn]; kill != "" && made.New && strings.Contains(message.Subject, kill) {
		v.job.mu.Lock()
		v.job.killed = true
		v.job.mu.Unlock()
		v.job.kill()
		return environment.Commit{}, errKilled
	}
	return made, err
}

// killedAt is the commit after which a job is killed, by the write of the API server that it stands for.
var killedAt = map[string]string{
	"note r2 started": "r2: canary begins", "update primary image 2": "primary runs release", "update vs 0/100": "100% to canary",
	"update primary image 1": "primary runs release", "note r1 promoted": "r1 is at stage promoted",
}

// pushing is what somebody does before the push that meets a fault: commits of others, beside the app and to it.
func (n *network) pushing() func() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fault != outdated || n.seen != n.at {
		return nil
	}
	return sync.OnceFunc(func() { n.world.otherCommit("README.md", fmt.Sprintf("%d\n", n.at)) })
}

// otherCommit is one of somebody else.
func (w *world) otherCommit(name, text string) {
	_, err := w.git.repository.commit("somebody else", func(tree *environment.Tree) error { return tree.Write(name, []byte(text)) }, nil)
	w.must(nil, err)
	w.git.wakeUp()
}

// gitFlux stands for Flux with a folder of whole objects. It was checked against kustomize-controller 1.9.6: each object is
// applied on its own, in no order that a release could rely on, and what the folder has no more is pruned at the end. Where
// it differs, it is worse: it fetches and applies whenever somebody commits or writes to the app's objects.
type gitFlux struct {
	*flux
	repository *repository
	inventory  map[string]*unstructured.Unstructured
	suspended  bool
	slow       bool // it begins late, unless it is asked to apply
}

func (g *gitFlux) wakeUp() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

func (g *gitFlux) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.wake:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(lag):
		}
		if g.slow {
			time.Sleep(10 * time.Second)
		}
		g.reconcile(ctx)
	}
}

func (g *gitFlux) reconcile(ctx context.Context) {
	g.turn <- struct{}{}
	defer func() { <-g.turn }()
	if g.suspended {
		return
	}
	_, files := g.repository.head()
	objects, err := rendered(files)
	if err != nil {
		panic(err)
	}
	now := map[string]*unstructured.Unstructured{}
	for _, o := range objects {
		u := &unstructured.Unstructured{}
		if err := u.UnmarshalJSON(o.Raw); err != nil {
			panic(err)
		}
		u = labeled(u)
		now[u.GetKind()+" "+u.GetName()] = u
		if live, err := g.client.Resource(resources[u.GetKind()]).Namespace(namespace).Get(ctx, u.GetName(), metav1.GetOptions{}); err == nil && live.GetAnnotations()[holdKey] == "disabled" {
			continue
		}
		if _, err := g.of(u).Apply(ctx, u.GetName(), u, metav1.ApplyOptions{FieldManager: fluxByName, Force: true}); err != nil && ctx.Err() == nil {
			panic(fmt.Sprintf("flux: %s %s: %v", u.GetKind(), u.GetName(), err))
		}
	}
	for name, u := range g.inventory {
		if now[name] == nil {
			_ = g.of(u).Delete(ctx, u.GetName(), metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationBackground)})
		}
	}
	g.inventory = now
}

func (g *gitFlux) of(u *unstructured.Unstructured) dynamicClient {
	return g.client.Resource(resources[u.GetKind()]).Namespace(namespace)
}

type dynamicClient interface {
	Apply(context.Context, string, *unstructured.Unstructured, metav1.ApplyOptions, ...string) (*unstructured.Unstructured, error)
	Delete(context.Context, string, metav1.DeleteOptions, ...string) error
}

func (g *gitFlux) Fetch(ctx context.Context, _ []gitops.Object) (string, error) {
	time.Sleep(300 * time.Millisecond)
	if g.suspended {
		return "", &usererr.Error{Field: "Kustomization flux-system/apps", Problem: "it is suspended", Fix: "resume it"}
	}
	g.wakeUp()
	head, _ := g.repository.head()
	return fmt.Sprintf("%040x", head+1), nil
}

func (g *gitFlux) Apply(ctx context.Context, _ []gitops.Object) error {
	g.reconcile(ctx)
	return nil
}

// commitApp puts the app, as it is, into Git.
func (w *world) commitApp() {
	w.Helper()
	files := map[string][]byte{}
	for _, u := range w.flux.objects(image("1"), nil) {
		u.SetLabels(without(u.GetLabels(), "kustomize.toolkit.fluxcd.io/"))
		u.SetNamespace("")
		writeZeroWeights(u)
		text, err := yaml.Marshal(u.Object)
		w.must(text, err)
		files[path.Join(appFolder, strings.ToLower(u.GetKind()+"-"+u.GetName())+".yaml")] = append([]byte("# The app.\n"), text...)
	}
	state, err := w.kube.CoreV1().ConfigMaps(namespace).Get(w.Context(), "crossbill-"+w.set.App, metav1.GetOptions{})
	w.must(state, err)
	files[path.Join(ledgerFolder, w.set.App, "ledger.json")] = []byte(state.Data["ledger.json"] + "\n")
	w.must(nil, w.kube.CoreV1().ConfigMaps(namespace).Delete(w.Context(), state.Name, metav1.DeleteOptions{}))
	w.git.repository.commits, w.git.repository.subjects = []map[string][]byte{files}, []string{"the app"}
	w.git.reconcile(w.Context())
	w.adopt()
	w.git.inventory = map[string]*unstructured.Unstructured{}
	w.git.reconcile(w.Context())
}

// writeZeroWeights writes out the weight 0 of a track, which a VirtualService's type leaves out, as people do.
func writeZeroWeights(u *unstructured.Unstructured) {
	if u.GetKind() != "VirtualService" {
		return
	}
	for _, route := range u.Object["spec"].(map[string]any)["http"].([]any) {
		to, _ := route.(map[string]any)["route"].([]any)
		for _, destination := range to {
			if destination := destination.(map[string]any); len(to) > 1 && destination["weight"] == nil {
				destination["weight"] = int64(0)
			}
		}
	}
}

func without(labels map[string]string, prefix string) map[string]string {
	maps.DeleteFunc(labels, func(key, _ string) bool { return strings.HasPrefix(key, prefix) })
	return labels
}

// inGit gives a job the repository as its store. It may write nothing else.
func (w *world) inGit(j *job) {
	j.Git = &rollout.GitStore{
		Controller: w.git, Repository: view{w.git.repository, j}, Folder: appFolder, Ledgers: ledgerFolder,
		Render: func(_ context.Context, tree *environment.Tree) ([]manifest.Object, error) {
			files, err := filesOf(tree)
			if err != nil {
				return nil, err
			}
			return rendered(files)
		},
	}
	j.before = func(r *http.Request) error {
		if r.Method != http.MethodGet && !strings.HasPrefix(r.URL.Path, "/commit") {
			w.Errorf("%s wrote to the cluster: %s %s", j.name, r.Method, r.URL.Path)
		}
		return nil
	}
}

// unrestOfGit says in what Git is not as it was before all releases, but for the image that primary runs.
func (w *world) unrestOfGit(digit string) string {
	w.Helper()
	_, is := w.git.repository.head()
	for name, was := range w.git.repository.commits[0] {
		if path.Dir(name) != appFolder {
			continue
		}
		want := strings.ReplaceAll(string(was), release.DigestOf(image("1")), release.DigestOf(image(digit)))
		if digit != "1" {
			want = strings.ReplaceAll(want, "newTag: v1\n", "digest: "+release.DigestOf(image(digit))+"\n")
		}
		if diff := cmp.Diff(want, string(is[name])); diff != "" {
			return name + " in Git (-want +got):\n" + diff
		}
	}
	for name := range is {
		if _, was := w.git.repository.commits[0][name]; !was && path.Dir(name) == appFolder || path.Base(name) == "lock.json" {
			return name + " is left in Git"
		}
	}
	w.git.reconcile(w.Context())
	time.Sleep(30 * time.Second)
	if runs := w.running(release.Primary); runs != digit {
		return "Flux has put " + runs + " on primary"
	}
	return ""
}

func init() {
	for _, c := range append(slices.Clone(besideCrashes), crashCase{"canary", "verify healthy", "2"}) {
		c.stage = gitApp + c.stage
		crashes = append(crashes, c)
	}
}

// TestStepsInGit: each step of a release is a commit of its own, with a message that a person can read.
func TestStepsInGit(t *testing.T) {
	at(t, gitApp+"rest", func(w *world) {
		for _, command := range []string{"canary", "verify healthy", "promote", "cleanup"} {
			j := w.job(command)
			if _, err := commands[command](w.Context(), j); err != nil {
				w.Fatalf("%s: %v\n%s", command, err, strings.Join(j.logged, "\n"))
			}
		}
		w.Log("\n" + strings.Join(w.git.repository.subjects, "\n"))
		if unrest := w.unrest("2"); unrest != "" {
			w.Error(unrest)
		}
	})
}

// TestImagesOfAKustomization: where its entry for the image decides what primary runs, a promotion changes that entry, and the
// canary is of the other image all the same.
func TestImagesOfAKustomization(t *testing.T) {
	for name, entry := range map[string]string{
		"by its name":   "- name: registry.example.com/our-org/qwik-node-app # the app\n  digest: DIGEST\n",
		"by a new name": "- name: shop\n  newName: registry.example.com/our-org/qwik-node-app\n  digest: DIGEST # of the release\n",
		"by its tag":    "- name: registry.example.com/our-org/qwik-node-app # the app\n  newTag: v1\n",
		"with affixes":  "- {name: shop, newName: registry.example.com/our-org/qwik-node-app, digest: DIGEST}\nnamePrefix: qwik-\n",
		"among others":  "- name: proxy\n  newTag: v2\n\n# The app.\n- {name: registry.example.com/our-org/qwik-node-app, digest: DIGEST}\n",
	} {
		for _, last := range []string{"cleanup", "rollback"} {
			t.Run(name+", "+last, func(t *testing.T) {
				at(t, gitApp+"rest", func(w *world) {
					w.kustomize(entry)
					for _, command := range []string{"canary", "verify healthy", "promote", last} {
						j := w.job(command)
						if _, err := commands[command](w.Context(), j); err != nil {
							w.Fatalf("%s: %v\n%s", command, err, strings.Join(j.logged, "\n"))
						}
						if command != "canary" {
							continue
						}
						if runs := w.running(release.Canary); runs != "2" {
							w.Errorf("the canary runs %s", runs)
						}
						if _, files := w.git.repository.head(); strings.Contains(entry, "name: registry") != strings.Contains(string(files[kustomizationFile]), "crossbill-canary") {
							w.Errorf("the kustomization:\n%s", files[kustomizationFile])
						}
					}
					if unrest := w.unrest(map[string]string{"cleanup": "2", "rollback": "1"}[last]); unrest != "" {
						w.Error(unrest)
					}
				})
			})
		}
	}
}

// kustomize gives the app's folder a kustomization, an entry of which decides the image.
func (w *world) kustomize(entry string) {
	w.Helper()
	entry = strings.ReplaceAll(entry, "DIGEST", release.DigestOf(image("1")))
	short := "registry.example.com/our-org/qwik-node-app"
	if strings.Contains(entry, "name: shop") {
		short = "shop"
	}
	text := "resources:\n"
	files := maps.Clone(w.git.repository.commits[0]) // other worlds have them too
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if path.Dir(name) == appFolder {
			text += "- " + path.Base(name) + "\n"
			files[name] = []byte(strings.ReplaceAll(string(files[name]), image("1"), short))
			if strings.Contains(entry, "namePrefix: qwik-") {
				files[name] = bytes.ReplaceAll(files[name], []byte("\n  name: qwik-"), []byte("\n  name: "))
			}
		}
	}
	files[kustomizationFile] = []byte(text + "images: # by digest\n" + entry)
	w.git.repository.commits = []map[string][]byte{files}
	w.git.reconcile(w.Context())
}

// TestRefusedInGit: what cannot be released by commits is said before the first one.
func TestRefusedInGit(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*world, *job)
		says   string
	}{
		"an HPA": {func(w *world, _ *job) {
			w.must(w.kube.AutoscalingV2().HorizontalPodAutoscalers(namespace).Create(w.Context(), &autoscalingv2.HorizontalPodAutoscaler{
				ObjectMeta: metav1.ObjectMeta{Name: "grows", Namespace: namespace},
				Spec:       autoscalingv2.HorizontalPodAutoscalerSpec{ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{Kind: "Deployment", Name: w.set.Name(release.Primary)}, MaxReplicas: 4},
			}, metav1.CreateOptions{}))
		}, "HorizontalPodAutoscaler grows: it sets the replicas of Deployment prod/qwik-node-app-primary"},
		"a hook that is a Job": {func(_ *world, j *job) {
			j.Hooks = []hook.Hook{{Name: "smoke", Job: "smoke", Point: release.BeforeCanary}}
		}, "hooks: smoke is a Job, which only the API server can make"},
		"a Service that Git has otherwise": {func(w *world, j *job) {
			j.Manifests = w.own()
			j.Manifests.Service.Spec.SessionAffinity = "ClientIP"
		}, "Service prod/qwik-node-app-service: "},
		"weights that two places share": {func(w *world, _ *job) {
			w.editInGit("virtualservice", func(text string) string {
				return strings.Replace(text, "weight: 100", "weight: &all 100", 1)
			})
		}, "weight"},
		"a server that refuses": {func(w *world, _ *job) {
			w.git.repository.down = &usererr.Error{Field: "gitops.tokenFile", Problem: "the token may not read the repository", Fix: "give one that may"}
		}, "gitops.tokenFile: the token may not read the repository"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at(t, gitApp+"rest", func(w *world) {
				j := w.job("refused")
				c.change(w, j)
				before, _ := w.git.repository.head()
				_, err := j.Canary(w.Context(), wanted("2"))
				if !errors.As(err, new(*usererr.Error)) || !strings.Contains(err.Error(), c.says) {
					t.Errorf("got %v, want a refusal with %q", err, c.says)
				}
				if after, _ := w.git.repository.head(); after != before {
					t.Errorf("it committed: %v", w.git.repository.subjects[before+1:])
				}
			})
		})
	}
}

// TestAskedInGit: a job that commits nothing of the release for a long time says that it lives, from time to time and once when it
// is asked, and guard leaves the release to it.
func TestAskedInGit(t *testing.T) {
	at(t, gitApp+"canary", func(w *world) {
		working, done := w.job("working"), make(chan error, 1)
		go func() {
			_, err := working.Shift(w.Context(), []int{25, 50}, time.Hour)
			done <- err
		}()
		time.Sleep(40 * time.Minute)
		status, err := w.job("status").Status(w.Context())
		w.must(status, err)
		if status.Lock == "" || status.Expired {
			w.Errorf("lock %q, expired %v, of a job that lives", status.Lock, status.Expired)
		}
		result, err := w.job("guard").Guard(w.Context(), rollout.Limits{Dead: time.Minute, Waiting: time.Minute})
		w.must(result, err)
		if !strings.Contains(result.Message, working.By) {
			w.Errorf("guard: %s", result.Message)
		}
		time.Sleep(10 * time.Minute)
		w.must(nil, <-done)
		lives := 0
		for _, subject := range w.git.repository.subjects {
			if strings.HasSuffix(subject, "lives") {
				lives++
			}
		}
		if got, want := lives, 4; got != want {
			w.Errorf("%d commits say that a job lives, want %d:\n%s", got, want, strings.Join(w.git.repository.subjects, "\n"))
		}
	})
}

// TestRemovedInGit: a release that only removes a field of the pod template is not taken for applied before it is.
func TestRemovedInGit(t *testing.T) {
	at(t, gitApp+"rest", func(w *world) {
		less := w.own()
		less.Deployment.Spec.Template.Spec.Containers[0].StartupProbe = nil
		less.Deployment.Spec.Template.Spec.TerminationGracePeriodSeconds = nil
		for _, command := range []string{"canary", "verify healthy", "promote", "cleanup"} {
			j := w.job(command)
			j.Manifests = less
			before := j.before
			j.before = func(r *http.Request) error {
				w.git.slow = strings.Contains(r.URL.Path, "primary runs") || w.git.slow && !strings.Contains(r.URL.Path, "/commit")
				return before(r)
			}
			var err error
			if command == "canary" {
				_, err = j.Canary(w.Context(), release.Release{ID: "less", Image: image("1"), Weight: 10})
			} else {
				_, err = commands[command](w.Context(), j)
			}
			if err != nil {
				w.Fatalf("%s: %v\n%s", command, err, strings.Join(j.logged, "\n"))
			}
		}
	})
}

// TestRefusedMeanwhile: a server that refuses after the first commit is no bad input, of which nothing was changed.
func TestRefusedMeanwhile(t *testing.T) {
	at(t, gitApp+"rest", func(w *world) {
		j := w.job("canary")
		refused := &usererr.Error{Field: "gitops.branch", Problem: "it is protected", Fix: "let the token push to it"}
		before := j.before
		j.before = func(r *http.Request) error {
			if strings.Contains(r.URL.Path, "run the canary") {
				return refused
			}
			return before(r)
		}
		_, err := j.Canary(w.Context(), wanted("2"))
		if err == nil || errors.As(err, new(*usererr.Error)) || !strings.Contains(err.Error(), "it is protected") || !strings.Contains(err.Error(), "rollback ends the release") {
			t.Errorf("got %v", err)
		}
		w.must(w.job("back").Rollback(w.Context(), "test"))
		if unrest := w.unrest("1"); unrest != "" {
			t.Error(unrest)
		}
	})
}

// TestMovedCanary: a canary that somebody has moved to another file is named, not waited for.
func TestMovedCanary(t *testing.T) {
	at(t, gitApp+"canary", func(w *world) {
		canary := path.Join(appFolder, "canary.yaml")
		_, files := w.git.repository.head()
		w.otherCommit(path.Join(appFolder, "other.yaml"), string(files[canary]))
		_, err := w.git.repository.commit("moved", func(tree *environment.Tree) error { return tree.Remove(canary) }, nil)
		w.must(nil, err)
		if _, err := w.job("back").Rollback(w.Context(), "test"); err == nil || !strings.Contains(err.Error(), "moved it to another file than canary.yaml") {
			t.Errorf("got %v", err)
		}
		_, err = w.git.repository.commit("gone", func(tree *environment.Tree) error { return tree.Remove(path.Join(appFolder, "other.yaml")) }, nil)
		w.must(nil, err)
		w.must(w.job("back").Rollback(w.Context(), "test"))
		if unrest := w.unrest("1"); unrest != "" {
			t.Error(unrest)
		}
	})
}

// TestRollbackNow: while Git and its controller are down, the traffic goes back in the cluster; when they are back, the commits of
// a rollback put Git right, and the controller has the route again.
func TestRollbackNow(t *testing.T) {
	for _, app := range []string{gitApp, gatewayApp + gitApp} {
		t.Run(app, func(t *testing.T) {
			t.Parallel()
			at(t, app+"canary", func(w *world) {
				w.git.suspended, w.git.repository.down = true, errors.New("the Git server does not answer")
				now := func() (rollout.Result, error) {
					j := w.job("now")
					j.before = nil // it writes the route in the cluster
					if err := j.RouteNow(w.Context()); err != nil {
						return rollout.Result{}, err
					}
					return j.Rollback(w.Context(), "it is bad")
				}
				if _, err := now(); err == nil || !strings.Contains(err.Error(), "does not answer") {
					t.Errorf("while Git is down: %v", err)
				}
				if at := w.weight(); at != 0 {
					t.Errorf("the canary has %d%%", at)
				}
				w.git.suspended, w.git.repository.down = false, nil
				w.git.wakeUp()
				time.Sleep(time.Minute)
				if at := w.weight(); at != 0 {
					t.Errorf("its controller gives the canary %d%% again", at)
				}
				w.must(now())
				if unrest := w.unrest("1"); unrest != "" {
					t.Error(unrest)
				}
			})
		})
	}
}

// TestRollbackNowRefuses: nothing in the cluster has what primary ran once promotion has replaced it.
func TestRollbackNowRefuses(t *testing.T) {
	at(t, gitApp+"promoting", func(w *world) {
		time.Sleep(time.Minute)
		j := w.job("now")
		if err := j.RouteNow(w.Context()); !errors.As(err, new(*rollout.StageError)) {
			t.Errorf("got %v", err)
		}
	})
}

// weight is the canary's, as the route is live.
func (w *world) weight() int {
	w.Helper()
	j := w.job("look")
	j.Git, j.before = nil, nil
	status, err := j.Status(w.Context())
	w.must(status, err)
	return int(status.Weights.Canary)
}

// TestForeignCanaryInGit: a Deployment of the canary's name that is in no commit keeps no command up, and is refused before the first
// commit.
func TestForeignCanaryInGit(t *testing.T) {
	at(t, gitApp+"started", func(w *world) {
		w.observer.started = false
		w.somebodys(release.Canary, true)
		if _, err := w.job("back").Rollback(w.Context(), "test"); err != nil || !w.theirs(release.Canary) {
			t.Errorf("%v", err)
		}
	})
	at(t, gitApp+"rest", func(w *world) {
		w.observer.started = false
		w.somebodys(release.Canary, true)
		before, _ := w.git.repository.head()
		_, err := w.job("canary").Canary(w.Context(), wanted("2"))
		if bad, ok := errors.AsType[*usererr.Error](err); !ok || !strings.Contains(bad.Problem, "no release has made it") {
			t.Errorf("%v", err)
		}
		if after, _ := w.git.repository.head(); after != before {
			t.Errorf("it committed: %v", w.git.repository.subjects[before+1:])
		}
	})
}

// TestRollbackOfAThirdImageInGit: as in the cluster, what somebody has committed for primary after the promotion goes, too.
func TestRollbackOfAThirdImageInGit(t *testing.T) {
	at(t, gitApp+"promoted", func(w *world) {
		w.observer.started = false // no canary has proved that one
		w.editInGit("deployment", func(text string) string { return strings.ReplaceAll(text, image("2"), image("3")) })
		time.Sleep(time.Minute)
		if is := w.running(release.Primary); is != "3" {
			t.Fatalf("primary runs %s", is)
		}
		w.must(w.job("back").Rollback(w.Context(), "it is bad"))
		if unrest := w.unrest("1"); unrest != "" {
			t.Error(unrest)
		}
	})
}

// TestQueueIsNoSignOfLife: who enters the line does not renew the lock of a job that is dead.
func TestQueueIsNoSignOfLife(t *testing.T) {
	at(t, gitApp+"started", func(w *world) {
		lock := path.Join(ledgerFolder, w.set.App, "lock.json")
		_, before := w.git.repository.head()
		if before[lock] == nil {
			t.Fatal("there is no lock: this proves nothing")
		}
		j := w.job("queue").queues(release.QueueInOrder)
		j.Line.Wait = 30 * time.Second
		_, _ = j.Queue(w.Context(), handed("3", 13))
		if _, after := w.git.repository.head(); !bytes.Equal(before[lock], after[lock]) {
			t.Errorf("the lock was\n%s\nand is\n%s", before[lock], after[lock])
		}
	})
}
