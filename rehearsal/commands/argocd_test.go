package commands_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/our-org/crossbill/rehearsal/gitops"
	"github.com/our-org/crossbill/rehearsal/setup"
)

var argocd = flag.Bool("argocd", false, "TestArgoCD: run it; the first time it compiles Argo CD, in about 10 minutes")

// startArgoCD starts the Argo CD that all tests share.
var startArgoCD = sync.OnceValues(func() (*gitops.ArgoCD, error) {
	ctx := context.Background()
	programs, err := setup.EnsureArgoCD(ctx, "", func(string, ...any) {})
	if err != nil {
		return nil, err
	}
	return gitops.StartArgoCD(ctx, running, programs, filepath.Join(filepath.Dir(running.Kubeconfig), "argocd"))
})

// TestArgoCD releases apps that the real Argo CD applies from Git and keeps in sync by itself, under steady traffic, while others
// commit: with the settings that `gitops config` prints, and with those that are refused, to see that Argo CD does undo a
// release with them.
func TestArgoCD(t *testing.T) {
	if !*argocd {
		t.Skip("run it with -argocd: in rehearsal, go test ./commands -run TestArgoCD -argocd; the first time it compiles Argo CD")
	}
	t.Run("side by side", func(t *testing.T) {
		t.Run("a whole release", func(t *testing.T) {
			t.Parallel()
			newBesideA(t, argo, "cluster", "argo", "drains a").releases("argocd", false)
		})
		t.Run("a whole release while others commit", func(t *testing.T) {
			t.Parallel()
			newBesideA(t, argo, "cluster", "argo-busy", "drains a").releases("argocd", true)
		})
		t.Run("rollbacks", func(t *testing.T) {
			t.Parallel()
			newBesideA(t, argo, "cluster", "argo-backed", "drains a").rollbacks()
		})
		t.Run("the least rights", func(t *testing.T) {
			t.Parallel()
			x := newBesideA(t, argo, "cluster", "argo-least", "drains a")
			x.leastRights(x.argoConfig()[1:])
		})
		t.Run("every step a commit", func(t *testing.T) {
			t.Parallel()
			testArgoStepsInGit(newBesideA(t, argoAsItIs, "git", "argo-git", "drains a"))
		})
		for i, row := range argoSettings {
			t.Run("settings/"+row.name, func(t *testing.T) {
				t.Parallel()
				testArgoSettings(newBesideA(t, argo, "cluster", fmt.Sprintf("argo-%d", i), "drains a"), row)
			})
		}
	})
	t.Run("Argo CD is stopped", testArgoCDStopped) // for all of them
}

// testArgoStepsInGit: each step of a release is a commit that Argo CD applies.
func testArgoStepsInGit(x *beside) {
	began := time.Now()
	quiet, invariants := x.traffic(besideRate), x.observe()
	seen := &offRoute{since: map[string]time.Time{"drains b": began, "drains c": began}}
	seen.on("drains b")
	x.do([]string{"canary", "--image", images["drains b"]}, []string{"shift", "--steps", "50"}, []string{"healthy"}, []string{"promote"}, []string{"cleanup"})
	seen.off("drains a")
	x.rests("drains b")
	seen.on("drains c")
	x.do([]string{"canary", "--image", images["drains c"]}, []string{"rollback"})
	seen.off("drains c")
	x.rests("drains b")
	x.more(began, seen)
	took := x.takes()
	invariants()
	seen.end()
	tally := quiet()
	run := besideRun{Controller: "argocd", Mode: "git", Requests: tally.Requests, Lost: tally.Lost, WrongVersion: seen.wrong(x.load), SecondsCommitToApplied: took.Seconds()}
	if run.WrongVersion != 0 {
		x.Errorf("%d answers by a version that was off the route", run.WrongVersion)
	}
	keepRun(x.T, run)
	x.logCommits()
}

// argo has Argo CD apply an app, with the settings that `gitops config` prints.
func argo(x *beside) (string, error) {
	controller, err := argoAsItIs(x)
	if err != nil {
		return "", err
	}
	return controller, x.argo.Change(x.Context(), x.argoSettings())
}

// argoAsItIs has it apply an app without any.
func argoAsItIs(x *beside) (string, error) {
	argo, err := startArgoCD()
	if err != nil {
		return "", err
	}
	x.argo, err = argo.Apply(x.Context(), x.name, x.git, "apps")
	x.by = x.argo
	return "argocd", err
}

// argoConfig are the objects that `gitops config` prints.
func (x *beside) argoConfig() []string {
	x.Helper()
	return x.gitOpsConfig("--controller", "argocd", "--application", x.name)
}

// argoSettings are those of the Application among them.
func (x *beside) argoSettings() map[string]any {
	x.Helper()
	var application map[string]any
	if err := yaml.Unmarshal([]byte(x.argoConfig()[0]), &application); err != nil {
		x.Fatal(err)
	}
	return map[string]any{"spec": application["spec"]}
}

// testArgoCDStopped: a release that has to wait for Argo CD says so, and goes on when it is back.
func testArgoCDStopped(t *testing.T) {
	x := newBesideA(t, argo, "cluster", "argo-stopped", "drains a")
	quiet, invariants := x.traffic(50), x.observe()
	argo, err := startArgoCD()
	if err != nil {
		t.Fatal(err)
	}
	x.do([]string{"canary", "--image", images["drains b"]}, []string{"healthy"})
	argo.Application.Stop()
	x.do([]string{"promote"})
	if code, out := x.run("cleanup", "--timeout", "8s"); code == 0 || !strings.Contains(out, "is Argo CD's application controller running?") {
		t.Errorf("cleanup without Argo CD: exit code %d", code)
	}
	x.is(atRest, "drains b")
	if err := argo.Application.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	x.do([]string{"cleanup"})
	x.rests("drains b")
	invariants()
	quiet()
}

// argoSetting is one way to set an Application up.
type argoSetting struct {
	name    string
	ignore  []any // its ignoreDifferences; nil for those that `gitops config` prints
	options []any // its syncOptions, likewise
	more    map[string]any
	deaf    bool // with it Argo CD does not look when it is asked
	// says is what doctor and canary refuse it with: the object, what is wrong, and the fix. Empty: they do not.
	says []string
	does argoDoes
}

// argoDoes is what Argo CD does to a release in flight, and to commits.
type argoDoes struct {
	Weights string // of the release: kept, or put back as soon as they are written
	Commit  string // of others, while the release is in flight: applied or not
	After   string // the weights then
	Primary string // what it runs after promotion: kept, or put back. Empty where there is nothing left to promote
	Pod     string // a later change of primary's pod template in Git, after promotion or at rest: applied or not
	Route   string // a later change of the route in Git, at rest: applied or not
}

// peace is what a release needs.
var peace = argoDoes{Weights: leftAlone, Commit: applied, After: leftAlone, Primary: leftAlone, Pod: applied, Route: applied}

const (
	leftAlone  = "kept"
	putBack    = "put back"
	applied    = "applied"
	notApplied = "not applied"
)

func ignored(group, kind, key string, values ...any) map[string]any {
	return map[string]any{"group": group, "kind": kind, key: values}
}

var (
	weightsByPath   = ignored("networking.istio.io", "VirtualService", "jqPathExpressions", ".spec.http[].route[].weight")
	weightsByOwner  = ignored("networking.istio.io", "VirtualService", "managedFieldsManagers", "crossbill")
	imageByPath     = ignored("apps", "Deployment", "jqPathExpressions", ".spec.template.spec.containers[].image")
	imageByOwner    = ignored("apps", "Deployment", "managedFieldsManagers", "crossbill")
	respected       = []any{"RespectIgnoreDifferences=true"}
	respectedServer = []any{"RespectIgnoreDifferences=true", "ServerSideApply=true"}
)

// Fragments of what is said; NAME is the app's.
const (
	lacksRespect     = "Application argocd/NAME: its spec.syncPolicy.syncOptions lack RespectIgnoreDifferences=true"
	addRespect       = "add RespectIgnoreDifferences=true to them"
	weightsBack      = "VirtualService ns-NAME/NAME-vs: Application argocd/NAME would put its weights back"
	addOwner         = "{group: networking.istio.io, kind: VirtualService, name: NAME-vs, managedFieldsManagers: [crossbill]}"
	imageBack        = "Deployment ns-NAME/NAME-primary: Application argocd/NAME would put back what a release changes of it"
	addImage         = "{group: apps, kind: Deployment, name: NAME-primary, jqPathExpressions: ['.spec.template.spec.containers[].image']}"
	copiesRoutes     = "VirtualService ns-NAME/NAME-vs: Application argocd/NAME ignores its weights by path"
	hidesDeployment  = "Deployment ns-NAME/NAME-primary: Application argocd/NAME ignores what the manager crossbill owns of it"
	removePath       = "remove jqPathExpressions and jsonPointers for it"
	imageByPathAlone = "ignore the Deployment's image by jqPathExpressions"
)

var argoSettings = []argoSetting{
	{name: "those that gitops config prints", does: peace},
	{name: "the same, by server-side apply", options: respectedServer, does: peace},
	{name: "the same, by patterns and pointers", ignore: []any{
		ignored("*.istio.io", "Virtual*", "managedFieldsManagers", "other", "crossbill"), ignored("apps", "Deployment", "jsonPointers", "/spec/template/spec/containers/0/image"),
	}, does: peace},
	{name: "nothing", ignore: []any{}, options: []any{}, says: []string{lacksRespect, addRespect, weightsBack, addOwner, imageBack, addImage},
		does: argoDoes{Weights: putBack, Commit: applied, After: putBack, Pod: applied, Route: applied}},
	{name: "weights and image by path", ignore: []any{weightsByPath, imageByPath}, options: []any{}, says: []string{lacksRespect, addRespect, copiesRoutes, removePath},
		does: argoDoes{Weights: leftAlone, Commit: applied, After: putBack, Pod: applied, Route: applied}},
	{name: "weights and image by path, respected", ignore: []any{weightsByPath, imageByPath}, says: []string{copiesRoutes, removePath, addOwner},
		does: argoDoes{Weights: leftAlone, Commit: applied, After: leftAlone, Primary: leftAlone, Pod: applied, Route: notApplied}},
	{name: "the same, respected, by server-side apply", ignore: []any{weightsByPath, imageByPath}, options: respectedServer, says: []string{copiesRoutes, removePath, addOwner},
		does: argoDoes{Weights: leftAlone, Commit: applied, After: leftAlone, Primary: leftAlone, Pod: applied, Route: notApplied}},
	{name: "everything by its manager", ignore: []any{ignored("*", "*", "managedFieldsManagers", "crossbill")}, options: respectedServer, says: []string{hidesDeployment, imageByPathAlone},
		does: argoDoes{Weights: leftAlone, Commit: applied, After: leftAlone, Primary: leftAlone, Pod: notApplied, Route: applied}},
	{name: "Deployment by its manager and the image by path", ignore: []any{weightsByOwner, imageByPath, imageByOwner}, says: []string{hidesDeployment, imageByPathAlone},
		does: argoDoes{Weights: leftAlone, Commit: applied, After: leftAlone, Primary: leftAlone, Pod: notApplied, Route: applied}},
	{name: "not respected", options: []any{}, says: []string{lacksRespect, addRespect},
		does: argoDoes{Weights: leftAlone, Commit: applied, After: putBack, Pod: applied, Route: applied}},
	{name: "the image not ignored", ignore: []any{weightsByOwner}, says: []string{imageBack, addImage},
		does: argoDoes{Weights: leftAlone, Commit: applied, After: leftAlone, Primary: putBack, Pod: applied, Route: applied}},
	{name: "the weights not ignored", ignore: []any{imageByPath}, says: []string{weightsBack, addOwner},
		does: argoDoes{Weights: putBack, Commit: applied, After: putBack, Pod: applied, Route: applied}},
	{name: "the weights both ways", ignore: []any{weightsByOwner, weightsByPath, imageByPath}, says: []string{copiesRoutes, removePath},
		does: argoDoes{Weights: leftAlone, Commit: applied, After: leftAlone, Primary: leftAlone, Pod: applied, Route: notApplied}},
	{name: "skipped", deaf: true, more: map[string]any{"metadata": map[string]any{"annotations": map[string]any{"argocd.argoproj.io/skip-reconcile": "true"}}},
		says: []string{"Application argocd/NAME: it has the annotation argocd.argoproj.io/skip-reconcile", "remove the annotation"},
		does: argoDoes{Weights: leftAlone, Commit: notApplied, After: leftAlone, Primary: leftAlone, Pod: notApplied, Route: notApplied}},
	{name: "another branch", more: map[string]any{"spec": map[string]any{"source": map[string]any{"targetRevision": "other"}}},
		says: []string{"Application argocd/NAME: it follows other, and gitops.branch is main", "name one branch in both"},
		does: argoDoes{Weights: leftAlone, Commit: notApplied, After: leftAlone, Primary: leftAlone, Pod: notApplied, Route: notApplied}},
}

// testArgoSettings sees what doctor and canary say of settings, and what Argo CD does to a release with them: what is refused
// has to be what would not leave it in peace.
func testArgoSettings(x *beside, row argoSetting) {
	x.Helper()
	if _, err := x.git.Git("branch", "other"); err != nil {
		x.Fatal(err)
	}
	good := x.argoSettings()
	good["metadata"] = map[string]any{"annotations": map[string]any{"argocd.argoproj.io/skip-reconcile": nil}}
	good["spec"].(map[string]any)["source"] = map[string]any{"targetRevision": "main"}
	deaf := false // now
	set := func(fields map[string]any) {
		x.Helper()
		if err := x.argo.Change(x.Context(), fields); err != nil {
			x.Fatal(err)
		}
		x.asked(deaf)
	}
	setGood := func() {
		x.Helper()
		deaf = false
		set(good)
	}
	setBad := func() {
		x.Helper()
		spec := map[string]any{}
		if row.ignore != nil {
			spec["ignoreDifferences"] = row.ignore
		}
		if row.options != nil {
			spec["syncPolicy"] = map[string]any{"syncOptions": row.options}
		}
		if set(map[string]any{"spec": spec}); row.more != nil {
			deaf = row.deaf
			set(row.more)
		}
	}

	setBad()
	x.saysOfSettings(row.says)
	setGood()
	x.do([]string{"canary", "--image", images["drains b"]})
	setBad()
	does := argoDoes{Weights: leftAlone, Primary: leftAlone}
	if x.becomes(x.weightsAreBack) {
		does.Weights = putBack
	}
	does.Commit = x.isApplied(deaf, func() error { return x.commitOthers("meanwhile") }, func() bool { return x.othersValue() == "meanwhile" })
	does.After = leftAlone
	if x.weightsAreBack() {
		does.After = putBack
	}
	pod := func() error {
		_, err := x.git.Commit("Another pod template", map[string]string{deploymentFile: strings.Replace(x.show(deploymentFile), `value: "5000"`, `value: "5001"`, 1)})
		return err
	}
	switch {
	case does.After == putBack:
		does.Primary = ""
		setGood()
		x.do([]string{"rollback"})
	default:
		x.healthy()
		if code, _ := x.run("promote", "--timeout", "20s"); code != 0 || x.becomes(func() bool { return x.image("primary") == exact(images["drains a"]) }) {
			does.Primary = putBack
			setGood()
			x.do([]string{"rollback"})
			break
		}
		does.Pod = x.isApplied(deaf, pod, x.podIsChanged)
		setGood()
		x.do([]string{"cleanup"})
	}
	setBad()
	if does.Pod == "" {
		does.Pod = x.isApplied(deaf, pod, x.podIsChanged)
	}
	does.Route = x.isApplied(deaf, func() error {
		_, err := x.git.Commit("A timeout", map[string]string{routeFile: strings.Replace(x.show(routeFile), "    - name: release\n", "    - name: release\n      timeout: 7s\n", 1)})
		return err
	}, func() bool { return x.timeout() == 7*time.Second })

	if diff := cmp.Diff(row.does, does); diff != "" {
		x.Errorf("what Argo CD does (-want +got):\n%s", diff)
	}
	if admitted := len(row.says) == 0; admitted != (does == peace) {
		x.Errorf("admitted %t, and Argo CD does %+v", admitted, does)
	}
}

// saysOfSettings checks that doctor and canary say this of an Application's settings, and change nothing.
func (x *beside) saysOfSettings(says []string) {
	x.Helper()
	if len(says) == 0 {
		if code, out := x.run("doctor"); code != 0 || !strings.Contains(out, "✓ controller") {
			x.Errorf("doctor: exit code %d", code)
		}
		return
	}
	before := x.state()
	for _, command := range [][]string{{"doctor"}, {"canary", "--image", images["drains b"]}} {
		code, out := x.run(command...)
		for _, part := range says {
			if part = strings.ReplaceAll(part, "NAME", x.name); code != 2 || !strings.Contains(out, part) {
				x.Errorf("%s: exit code %d, or no word of %q", command[0], code, part)
			}
		}
	}
	if after := x.state(); !maps.Equal(before, after) {
		x.Errorf("something was changed: %v, then %v", before, after)
	}
}

// asked has Argo CD look, and waits until it has. Where it is deaf, it has not looked after a while.
func (x *beside) asked(deaf bool) {
	x.Helper()
	patience := time.Minute
	if deaf {
		patience = 5 * time.Second
	}
	ctx, cancel := context.WithTimeout(x.Context(), patience)
	defer cancel()
	if err := errors.Join(x.argo.Request(ctx), x.argo.WaitHandled(ctx)); (err != nil) != deaf {
		x.Errorf("Argo CD was asked to look, and is deaf: %t, said: %v", deaf, err)
	}
}

// isApplied commits a change, and says what becomes of it.
func (x *beside) isApplied(deaf bool, commit func() error, check func() bool) string {
	x.Helper()
	if err := commit(); err != nil {
		x.Fatal(err)
	}
	x.asked(deaf)
	if x.becomes(check) {
		return applied
	}
	return notApplied
}

// becomes waits until something is so. It is not when Argo CD says that all is in sync, or does nothing for a while although
// something is not.
func (x *beside) becomes(so func() bool) bool {
	x.Helper()
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		s, err := x.argo.Status(x.Context()) // before the look: what was synced is seen then
		if err != nil {
			x.Fatal(err)
		}
		if so() {
			return true
		}
		if s.Sync == "Synced" && !s.Asked && !s.Syncing {
			return false
		}
	}
	return false
}

func (x *beside) weightsAreBack() bool { return x.weights() == atRest }

func (x *beside) othersValue() string {
	x.Helper()
	live, err := x.kube.CoreV1().ConfigMaps(x.namespace).List(x.Context(), metav1.ListOptions{FieldSelector: "metadata.name=" + x.name + "-others"})
	if err != nil {
		x.Fatal(err)
	}
	if len(live.Items) == 0 {
		return ""
	}
	return live.Items[0].Data["value"]
}

// podIsChanged says whether primary has what was committed for its pod template.
func (x *beside) podIsChanged() bool {
	x.Helper()
	live, err := x.kube.AppsV1().Deployments(x.namespace).Get(x.Context(), x.name+"-primary", metav1.GetOptions{})
	if err != nil {
		x.Fatal(err)
	}
	for _, variable := range live.Spec.Template.Spec.Containers[0].Env {
		if variable.Name == "DRAIN_MS" {
			return variable.Value == "5001"
		}
	}
	return false
}
