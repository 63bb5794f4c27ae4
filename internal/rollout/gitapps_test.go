package rollout_test

import (
	"context"
	"errors"
	"net/http"
	"path"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/environment"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
)

// ledgersInGit are the ledgers in the repository, as a job sees them.
func (w *world) ledgersInGit(j *job) *rollout.GitLedgers {
	return &rollout.GitLedgers{Repository: view{w.git.repository, j}, Folder: ledgerFolder}
}

// inGitToo adds apps to the one of the world: beside it in Git, and in the cluster.
func (w *world) inGitToo() {
	w.Helper()
	_, files := w.git.repository.head()
	own := string(files[path.Join(ledgerFolder, w.set.App, "ledger.json")])
	of := func(app string) string { return strings.Replace(own, `"app": "`+w.set.App+`"`, `"app": "`+app+`"`, 1) }
	for name, text := range map[string]string{
		"elsewhere/ledger.json": of("elsewhere"), "elsewhere/app.json": `{"namespace": "staging", "path": "apps/elsewhere"}`,
		"broken/ledger.json": "{", "broken/app.json": `{"namespace": "` + namespace + `", "path": "apps/broken"}`,
		"lost/ledger.json": of("lost"), "lost/app.json": `{"namespace": "../kube-system", "path": "."}`,
		"out/ledger.json": of("out"), "out/app.json": `{"namespace": "` + namespace + `", "path": "../etc"}`,
		"other.yaml": "app: other\n", "notes/README.md": "Ours\n", "Up/ledger.json": of("Up"), "deep/in/ledger.json": of("in"),
	} {
		w.otherCommit(path.Join(ledgerFolder, name), text)
	}
	for _, app := range []string{w.set.App, "beside"} {
		w.must(w.kube.CoreV1().ConfigMaps(namespace).Create(w.Context(), &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: "crossbill-" + app, Labels: map[string]string{"app": app, "app.kubernetes.io/managed-by": "crossbill"}},
			Data:       map[string]string{ledgerKey: (&release.Ledger{Version: release.LedgerVersion, App: app}).String()},
		}, metav1.CreateOptions{}))
	}
}

// line is an app among all, for people.
type line struct {
	Namespace, App string
	Stage          release.Stage
	InGit          bool
	Canary         int32
	Problem        string
}

func linesOf(apps []rollout.AppStatus) (lines []line) {
	for _, a := range apps {
		l := line{Namespace: a.Namespace, App: a.App, InGit: a.InGit, Problem: a.Problem}
		if a.Release != nil {
			l.Stage = a.Release.Stage
		}
		if c := a.Tracks[release.Canary]; c != nil {
			l.Canary = c.Ready
		}
		lines = append(lines, l)
	}
	return lines
}

// TestAllAppsInGit: the apps whose ledger is in Git are among all, what is wrong with one hides no other, and what Git or the
// cluster does not say hides nothing of the other.
func TestAllAppsInGit(t *testing.T) {
	const unreadable = "ledger of broken is not readable: unexpected end of JSON input"
	at(t, gitApp+"canary", func(w *world) {
		w.inGitToo()
		own := line{namespace, w.set.App, release.StageCanary, true, 1, ""}
		beside := line{namespace, "beside", "", false, 0, ""}
		broken := line{namespace, "broken", "", true, 0, unreadable}
		noPlace := func(in, app string) line {
			return line{in, app, "", true, 0, "releases/" + app + "/app.json: it names no namespace and folder; the next command on the app writes it anew"}
		}
		for asked, want := range map[string][]line{
			namespace: {beside, broken, noPlace(namespace, "lost"), noPlace(namespace, "out"), own},
			"":        {noPlace("", "lost"), noPlace("", "out"), beside, broken, own, {"staging", "elsewhere", release.StageCanary, true, 0, ""}},
			"staging": {{"staging", "elsewhere", release.StageCanary, true, 0, ""}, noPlace("staging", "lost"), noPlace("staging", "out")},
		} {
			j := w.job("look")
			all, err := rollout.StatusOfAll(w.Context(), j.Kube, w.ledgersInGit(j), asked)
			w.must(all, err)
			if diff := cmp.Diff(want, linesOf(all)); diff != "" {
				t.Errorf("%q (-want +got):\n%s", asked, diff)
			}
		}

		j := w.job("look")
		apps, err := rollout.Apps(w.Context(), j.Kube, w.ledgersInGit(j), namespace)
		w.must(apps, err)
		got := map[string]string{}
		for _, app := range apps {
			switch {
			case app.Unreleased:
				got[app.Name] = "unreleased"
			case app.Err != nil:
				got[app.Name] = "error"
			default:
				got[app.Name] = app.Path
			}
		}
		if diff := cmp.Diff(map[string]string{"beside": "unreleased", "broken": "error", "lost": "error", "out": "error", w.set.App: appFolder}, got); diff != "" {
			t.Errorf("apps (-want +got):\n%s", diff)
		}

		w.git.repository.down = errors.New("Git is away")
		all, err := rollout.StatusOfAll(w.Context(), j.Kube, w.ledgersInGit(j), namespace)
		if diff := cmp.Diff([]line{beside, {namespace, w.set.App, "", false, 1, ""}}, linesOf(all)); diff != "" || err == nil || !strings.Contains(err.Error(), "ledgers (releases in Git): Git is away") {
			t.Errorf("without Git: %v (-want +got):\n%s", err, diff)
		}
		if apps, err := rollout.Apps(w.Context(), j.Kube, w.ledgersInGit(j), namespace); len(apps) != 2 || err == nil {
			t.Errorf("without Git: %+v, %v", apps, err)
		}
		w.git.repository.down = nil
		j.before = func(*http.Request) error { return errors.New("the cluster is away") }
		if all, err = rollout.StatusOfAll(w.Context(), j.Kube, w.ledgersInGit(j), ""); len(all) != 5 || err == nil || !strings.Contains(err.Error(), "the cluster is away") {
			t.Errorf("without the cluster: %+v, %v", all, err)
		}
	})
}

// TestWatchAllInGit: a watch asks for the repository every few seconds, whoever looks, and sees what is committed. While it is
// away, what it said last is there, with since when.
func TestWatchAllInGit(t *testing.T) {
	at(t, gitApp+"canary", func(w *world) {
		ctx, stop := context.WithCancel(w.Context())
		defer stop()
		j := w.job("look")
		ledgers := w.ledgersInGit(j)
		reads := &counted{Repository: ledgers.Repository}
		ledgers.Repository = reads
		var changes atomic.Int64
		watched, err := rollout.WatchAll(ctx, j.Kube, ledgers, "", func() { changes.Add(1) })
		w.must(watched, err)
		look := func(want ...line) {
			t.Helper()
			all, err := watched.Apps()
			w.must(all, err)
			if diff := cmp.Diff(want, linesOf(all)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		}
		own := line{namespace, w.set.App, release.StageCanary, true, 1, ""}
		time.Sleep(10 * time.Second) // until the app is quiet
		before, first := changes.Load(), reads.n.Load()
		changed := func() bool { defer func() { before = changes.Load() }(); return changes.Load() > before }
		for range 10 {
			look(own)
			time.Sleep(time.Second)
		}
		if n := reads.n.Load() - first; n > 3 || changed() {
			t.Errorf("%d reads in ten seconds, or changes", n)
		}
		w.otherCommit("releases/broken/ledger.json", "{")
		time.Sleep(6 * time.Second)
		look(line{"", "broken", "", true, 0, "ledger of broken is not readable: unexpected end of JSON input"}, own)
		if _, err := watched.Git(); err != nil || !changed() {
			t.Errorf("%v, or no change", err)
		}
		w.git.repository.down = errors.New("Git is away")
		since := time.Now()
		time.Sleep(time.Minute)
		look(line{"", "broken", "", true, 0, "ledger of broken is not readable: unexpected end of JSON input"}, own)
		if answered, err := watched.Git(); err == nil || since.Sub(answered) > 6*time.Second || !changed() {
			t.Errorf("%s before, %v, or no change", since.Sub(answered), err)
		}
		w.git.repository.down = nil
		time.Sleep(6 * time.Second)
		if _, err := watched.Git(); err != nil {
			t.Error(err)
		}
	})
}

// counted counts the reads of a repository.
type counted struct {
	rollout.Repository
	n atomic.Int64
}

func (c *counted) Read(ctx context.Context) (*environment.Tree, error) {
	c.n.Add(1)
	return c.Repository.Read(ctx)
}

// TestTakenBackLedger: a job that has lost its lock stays fenced when somebody takes the ledger of its successor back in Git, where
// a step of the successor stays. The next job goes on from there.
func TestTakenBackLedger(t *testing.T) {
	at(t, gitApp+"healthy", func(w *world) {
		ledger := path.Join(ledgerFolder, w.set.App, "ledger.json")
		lock := path.Join(ledgerFolder, w.set.App, "lock.json")
		first, goOn := w.hold("promote", 4)
		_, files := w.git.repository.head()
		before := map[string][]byte{ledger: files[ledger], lock: files[lock]}
		if _, err := w.job("back").Rollback(w.Context(), "test"); err != nil {
			t.Fatal(err)
		}
		for name, text := range before {
			w.otherCommit(name, string(text))
		}
		n, _ := w.git.repository.head()
		if err := goOn(); !errors.Is(err, rollout.ErrLockLost) {
			t.Errorf("%v\n%s", err, strings.Join(first.logged, "\n"))
		}
		for _, subject := range w.git.repository.subjects[n+1:] {
			if !strings.HasSuffix(subject, "has ended") {
				t.Errorf("it has committed: %s", subject)
			}
		}
		w.must(w.job("again").Rollback(w.Context(), "test"))
		if unrest := w.unrest("1"); unrest != "" {
			t.Error(unrest)
		}
	})
}

// TestCanaryOfNoReleaseInGit: a canary whose release is in no ledger any more is known by its stamp, and goes; so do pods that were
// kept for long enough.
func TestCanaryOfNoReleaseInGit(t *testing.T) {
	for _, command := range []string{"rollback", "guard"} {
		for _, left := range []string{"lost", "restored", "warm"} {
			at(t, gitApp+map[string]string{"lost": "canary", "restored": "canary", "warm": "promoted"}[left], func(w *world) {
				first := path.Join(ledgerFolder, w.set.App, "ledger.json")
				switch left {
				case "lost":
					_, err := w.git.repository.commit("somebody else", func(tree *environment.Tree) error { return tree.Remove(first) }, nil)
					w.must(nil, err)
				case "restored":
					w.otherCommit(first, string(w.git.repository.commits[0][first]))
				case "warm":
					w.editInGit("virtualservice", func(text string) string {
						return strings.Replace(text, "  gateways:\n", "  gateways:\n  - mesh\n", 1)
					})
					time.Sleep(time.Minute)
					w.must(commands["cleanup warm"](w.Context(), w.job("cleanup")))
					apps, err := w.ledgersInGit(w.job("look")).Apps(w.Context(), namespace)
					if err != nil || len(apps) != 1 || apps[0].AtRest {
						t.Errorf("%+v, %v", apps, err)
					}
					time.Sleep(time.Hour)
				}
				j := w.job("job")
				result, err := commands[command](w.Context(), j)
				if _, files := w.git.repository.head(); err != nil || files[path.Join(appFolder, "canary.yaml")] != nil {
					t.Errorf("%s, %s: the canary is left: %+v, %v\n%s", left, command, result, err, strings.Join(j.logged, "\n"))
				}
			})
		}
	}
}
