package rollout_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/our-org/crossbill/internal/environment"
	"github.com/our-org/crossbill/internal/release"
)

var gitSchedules = flag.Int("git.schedules", 12, "TestSchedulesInGit: how many")

var gitJSON = flag.String("git.json", "", "TestSchedulesInGit: file for what became of them, to which it is added")

// gitCounts are what became of the schedules.
var gitCounts struct{ cases, violations, unfinished, different atomic.Int64 }

// keepGitCounts adds them to a file that others add to as well.
func keepGitCounts(t *testing.T) {
	if *gitJSON == "" {
		return
	}
	kept := map[string]any{}
	text, err := os.ReadFile(*gitJSON)
	if err == nil {
		err = json.Unmarshal(text, &kept)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	c := &gitCounts
	kept["cases"], kept["violations"], kept["unfinished"], kept["atRestDifferent"] = c.cases.Load(), c.violations.Load(), c.unfinished.Load(), c.different.Load()
	if text, err = json.MarshalIndent(kept, "", "  "); err == nil {
		err = errors.Join(os.MkdirAll(filepath.Dir(*gitJSON), 0o755), os.WriteFile(*gitJSON, append(text, '\n'), 0o644))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// outsider is what somebody else does in Git, or with its controller. keeps: it leads no traffic to what is not ready.
type outsider struct {
	keeps bool
	do    func(*world, *rand.Rand)
}

var outsiders = map[string]outsider{
	"commits beside the app": {true, func(w *world, r *rand.Rand) { w.otherCommit("README.md", fmt.Sprintln(r.Int())) }},
	"changes the route": {true, func(w *world, r *rand.Rand) {
		w.editInGit("virtualservice", func(text string) string {
			if strings.Contains(text, "timeout:") {
				return text
			}
			return strings.Replace(text, "  - name: release\n", fmt.Sprintf("  - name: release\n    timeout: %ds\n", 1+r.IntN(9)), 1)
		})
	}},
	"edits the weights": {false, func(w *world, _ *rand.Rand) {
		w.editInGit("virtualservice", func(text string) string { return strings.Replace(text, "weight: 90", "weight: 70", 1) })
	}},
	"changes the template": {true, func(w *world, r *rand.Rand) {
		w.editInGit("deployment", func(text string) string {
			return strings.Replace(text, "terminationGracePeriodSeconds: 30", fmt.Sprintf("terminationGracePeriodSeconds: %d", 31+r.IntN(9)), 1)
		})
	}},
	"reverts the last commit": {false, func(w *world, _ *rand.Rand) {
		g := w.git.repository
		g.mu.Lock()
		if n := len(g.commits); n > 1 {
			g.commits, g.subjects = append(g.commits, g.commits[n-2]), append(g.subjects, "revert")
		}
		g.mu.Unlock()
		w.git.wakeUp()
	}},
	"pushes by force": {false, func(w *world, _ *rand.Rand) {
		g := w.git.repository
		g.mu.Lock()
		if n := len(g.commits); n > 1 {
			g.commits, g.subjects = g.commits[:n-1:n-1], g.subjects[:n-1:n-1]
		}
		g.mu.Unlock()
		w.git.wakeUp()
	}},
	"suspends the controller for a while": {true, func(w *world, r *rand.Rand) {
		w.git.suspended = true
		wait := time.Duration(1+r.IntN(120)) * time.Second
		go func() {
			select {
			case <-time.After(wait):
				w.git.suspended = false
				w.git.wakeUp()
			case <-w.Context().Done():
			}
		}()
	}},
}

// edit changes a manifest of the app in Git.
func (w *world) editInGit(kind string, change func(string) string) {
	_, err := w.git.repository.commit("somebody else", func(tree *environment.Tree) error {
		names, err := tree.Files(appFolder)
		for i := 0; i < len(names) && err == nil; i++ {
			var text []byte
			if text, err = tree.Read(names[i]); err == nil && strings.HasPrefix(path.Base(names[i]), kind) && !strings.Contains(names[i], "canary") {
				err = tree.Write(names[i], []byte(change(string(text))))
			}
		}
		return err
	}, nil)
	w.must(nil, err)
	w.git.wakeUp()
}

// TestSchedulesInGit: jobs that die anywhere, and others who commit, revert, push by force and suspend the controller. When all is
// quiet and rolled back, Git and the cluster are the same.
func TestSchedulesInGit(t *testing.T) {
	t.Cleanup(func() { keepGitCounts(t) })
	for seed := range *gitSchedules {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			at(t, gitApp+"rest", func(w *world) { w.gitSchedule(rand.New(rand.NewPCG(uint64(seed), 1))) })
		})
	}
}

func (w *world) gitSchedule(r *rand.Rand) {
	w.Helper()
	var story []string
	say := func(format string, args ...any) { story = append(story, fmt.Sprintf(format, args...)) }
	kept, canaries := true, 1
	for range 4 + r.IntN(8) {
		if r.IntN(3) == 0 {
			name := slices.Sorted(maps.Keys(outsiders))[r.IntN(len(outsiders))]
			say("somebody %s", name)
			outsiders[name].do(w, r)
			kept = kept && outsiders[name].keeps
			continue
		}
		command := []string{"canary", "verify healthy", "promote", "cleanup", "shift", "rollback"}[r.IntN(6)]
		if r.IntN(3) > 0 {
			command = w.nextInLine()
		}
		j := w.job(strings.ReplaceAll(command, " ", "-"))
		if r.IntN(3) == 0 {
			j.at, j.fault = 1+r.IntN(6), []fault{dies, refused, outdated}[r.IntN(3)]
		}
		var err error
		if command == "canary" {
			canaries++
			_, err = j.Canary(j.ctx, wanted(fmt.Sprint(2+canaries%3)))
		} else {
			_, err = commands[command](j.ctx, j)
		}
		say("%s (%s at write %d): %v", command, j.fault, j.at, err)
	}
	time.Sleep(3 * time.Minute)
	for n := 1; ; n++ {
		j := w.job("back")
		_, err := j.Rollback(w.Context(), "the end")
		say("rollback: %v", err)
		if err == nil {
			break
		}
		if n == 3 {
			gitCounts.unfinished.Add(1)
			w.Fatalf("no way back:\n%s\n%s\n%s", strings.Join(story, "\n"), strings.Join(j.logged, "\n"), strings.Join(w.git.repository.subjects, "\n"))
		}
	}
	time.Sleep(time.Minute)
	gitCounts.cases.Add(1)
	if differs := w.gitDiffers(); differs != "" {
		gitCounts.different.Add(1)
		w.Errorf("%s\n%s\n%s", differs, strings.Join(story, "\n"), strings.Join(w.git.repository.subjects, "\n"))
	}
	w.Log(strings.Join(story, "\n"))
	w.server.mu.Lock()
	defer w.server.mu.Unlock()
	if !kept { // what they did leads traffic wherever they wanted
		w.observer.problems = nil
	}
	gitCounts.violations.Add(int64(len(w.observer.problems)))
}

// nextInLine is the command that the release in flight, or the next one, waits for.
func (w *world) nextInLine() string {
	status, err := w.job("look").Status(w.Context())
	switch {
	case err != nil || status.Release == nil:
		return "canary"
	case status.Release.Stage == release.StageCanary:
		return "verify healthy"
	case status.Release.Stage == release.StageVerified, status.Release.Stage == release.StagePromoting:
		return "promote"
	case status.Release.Stage == release.StagePromoted:
		return "cleanup"
	}
	return "rollback"
}

// gitDiffers says in what the cluster is not as Git has it, or what a release has left there.
func (w *world) gitDiffers() string {
	w.Helper()
	status, err := w.job("look").Status(w.Context())
	if err != nil {
		return err.Error()
	}
	_, files := w.git.repository.head()
	if status.Release != nil || status.Lock != "" {
		return fmt.Sprintf("release %v, lock %q", status.Release, status.Lock)
	}
	objects, err := rendered(files)
	w.must(objects, err)
	for _, o := range objects {
		u := &unstructured.Unstructured{}
		w.must(nil, u.UnmarshalJSON(o.Raw))
		live, err := w.git.client.Resource(resources[u.GetKind()]).Namespace(namespace).Get(w.Context(), u.GetName(), metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		if u.GetKind() == "Deployment" && strings.HasSuffix(u.GetName(), "canary") {
			return "the canary is in Git"
		}
		before := live.DeepCopy()
		after, err := w.git.of(u).Apply(w.Context(), u.GetName(), labeled(u), metav1.ApplyOptions{FieldManager: fluxByName, Force: true})
		w.must(after, err)
		if diff := cmp.Diff(before.Object["spec"], after.Object["spec"]); diff != "" {
			return u.GetKind() + " (-live +Git):\n" + diff
		}
	}
	if text := bytes.TrimSpace(files[path.Join(ledgerFolder, w.set.App, "lock.json")]); len(text) > 0 {
		return "the lock is left"
	}
	return ""
}

// labeled is an object with the labels that Flux gives it.
func labeled(u *unstructured.Unstructured) *unstructured.Unstructured {
	u = u.DeepCopy()
	u.SetNamespace(namespace)
	labels := maps.Clone(u.GetLabels())
	if labels == nil {
		labels = map[string]string{}
	}
	labels["kustomize.toolkit.fluxcd.io/name"], labels["kustomize.toolkit.fluxcd.io/namespace"] = "apps", "flux-system"
	u.SetLabels(labels)
	return u
}
