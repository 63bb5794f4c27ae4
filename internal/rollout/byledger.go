package rollout

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	applyappsv1 "k8s.io/client-go/applyconfigurations/apps/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// App is an app that is known by its ledger alone.
type App struct {
	Namespace, Name string
	Manifests       *manifest.Set // as much of them as a rollback needs
	Err             error         // why its ledger does not say that
	Unreleased      bool          // nothing has been started yet: its first release waits for its turn
	InGit           bool          // its ledger is in Git, and its releases are commits
	Path            string        // of the folder with its manifests, in Git; "" where its ledger does not say it
	AtRest          bool          // no release is in flight, and no canary is known to be left
	inFlight        bool
}

// Apps are the apps of a namespace that have a ledger, in the cluster or in Git, of every namespace for "". It takes one request
// and one look at the repository. What one of the two does not give keeps nothing of the other away: its error comes with what
// was read. One with a ledger in both places is where Git says.
func Apps(ctx context.Context, kube kubernetes.Interface, git *GitLedgers, namespace string) ([]App, error) {
	apps, failed := git.Apps(ctx, namespace)
	here, err := appsInCluster(ctx, kube, namespace)
	for _, app := range here {
		if !slices.ContainsFunc(apps, func(a App) bool { return a.Namespace == app.Namespace && a.Name == app.Name }) {
			apps = append(apps, app)
		}
	}
	slices.SortStableFunc(apps, func(a, b App) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	return apps, errors.Join(err, failed)
}

func appsInCluster(ctx context.Context, kube kubernetes.Interface, namespace string) ([]App, error) {
	ledgers, err := kube.CoreV1().ConfigMaps(namespace).List(ctx, metav1.ListOptions{LabelSelector: ofLedgers})
	if err != nil {
		return nil, fmt.Errorf("ledgers (ConfigMaps): %w; nothing was changed", err)
	}
	var apps []App
	for i := range ledgers.Items {
		if _, ok := ledgers.Items[i].Data[ledgerKey]; ok {
			apps = append(apps, appOf(&ledgers.Items[i]))
		}
	}
	return apps, nil
}

// FindApp is the app of a name; for "" the only one of the namespace, or the only one with a release in flight.
func FindApp(ctx context.Context, kube kubernetes.Interface, namespace, name string) (App, error) {
	if name != "" {
		state, err := kube.CoreV1().ConfigMaps(namespace).Get(ctx, statePrefix+name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			return App{}, &usererr.Error{Field: "app", Problem: fmt.Sprintf("%q has no ledger in namespace %s", name, namespace), Fix: "check app and namespace; `crossbill status --all` lists them"}
		case err != nil:
			return App{}, fmt.Errorf("ledger (ConfigMap %s/%s): %w; nothing was changed", namespace, statePrefix+name, err)
		}
		app := appOf(state)
		return app, app.Err
	}
	apps, err := appsInCluster(ctx, kube, namespace)
	if err != nil {
		return App{}, err
	}
	return choose(apps, namespace)
}

// choose gives the only app of a namespace, or the only one with a release in flight.
func choose(apps []App, namespace string) (App, error) {
	var names []string
	var inFlight []App
	for _, app := range apps {
		names = append(names, app.Name)
		if app.inFlight {
			inFlight = append(inFlight, app)
		}
	}
	switch {
	case len(apps) == 0:
		return App{}, &usererr.Error{Field: "app", Problem: fmt.Sprintf("no app has a ledger in namespace %s", namespace), Fix: "check the namespace"}
	case len(apps) == 1:
		return apps[0], apps[0].Err
	case len(inFlight) == 1:
		return inFlight[0], inFlight[0].Err
	}
	return App{}, &usererr.Error{Field: "app", Problem: fmt.Sprintf("namespace %s has several: %s", namespace, strings.Join(names, ", ")), Fix: "name the one that is meant"}
}

// ReadLedger reads an app's ledger, and who is at work on it: "" for nobody who lives. It needs no manifests.
func ReadLedger(ctx context.Context, kube kubernetes.Interface, api *Contact, namespace, app string) (l *release.Ledger, worker string, err error) {
	j := &job{Cluster: &Cluster{Kube: kube, API: api, Namespace: namespace, Manifests: &manifest.Set{App: app}}}
	if err := j.readLedger(ctx); err != nil {
		return nil, "", err
	}
	holder, alive, err := j.liveLock(ctx)
	if !alive {
		holder = ""
	}
	return j.ledger, holder, err
}

func appOf(state *corev1.ConfigMap) App {
	app := App{Namespace: state.Namespace, Name: strings.TrimPrefix(state.Name, statePrefix)}
	ledger, err := release.ParseLedger(app.Name, state.Data[ledgerKey])
	if err != nil {
		app.Err = err
		return app
	}
	app.inFlight, app.AtRest = ledger.Release != nil, ledger.Release == nil && ledger.Warm == nil
	if app.Unreleased = ledger.Release == nil && len(ledger.History) == 0; app.Unreleased {
		app.Err = &usererr.Error{Field: "app", Problem: fmt.Sprintf("nothing of %q has been released yet in namespace %s", app.Name, app.Namespace), Fix: "check app and namespace; `crossbill status --all` lists them"}
		return app
	}
	objects := objectsOf(ledger)
	if objects == nil {
		app.Err = &usererr.Error{
			Field:   "manifests",
			Problem: fmt.Sprintf("they are missing, and the ledger of %s does not name its objects: an earlier Crossbill has written it", app.Name),
			Fix:     "give the folder with the app's manifests",
		}
		return app
	}
	app.Manifests = ofObjects(app.Name, objects, ledger.Release)
	return app
}

// objectsOf are the names of what the release in flight is made of, else of the last release that has them; nil when none has.
func objectsOf(l *release.Ledger) *release.Objects {
	if l.Release != nil {
		return l.Release.Objects
	}
	for _, f := range l.History {
		if f.Objects != nil {
			return f.Objects
		}
	}
	return nil
}

func ofObjects(app string, objects *release.Objects, r *release.Release) *manifest.Set {
	set := manifest.OfObjects(app, objects)
	if r != nil && r.Replicas > 0 {
		set.Deployment.Spec.Replicas = &r.Replicas
	}
	return set
}

// goByLedger makes the names in the ledger those of this job, where the manifests have others: what the release in
// flight has written is what has to be put back.
func (j *job) goByLedger() {
	c := j.byLedger()
	if c == j.Cluster {
		return
	}
	if !j.Manifests.NamesOnly {
		j.log("manifests", "they name other objects than those of release %s; going by the ledger", j.ledger.Release.ID)
	}
	j.Cluster = c
}

// byLedger is the cluster by the names in the ledger: as this job has it where the manifests have the same.
func (j *job) byLedger() *Cluster {
	r := j.ledger.Release
	if r == nil || r.Objects == nil {
		return j.Cluster
	}
	names, err := j.Manifests.Objects(j.Namespace)
	if err == nil && sameForm(names) == sameForm(r.Objects) {
		return j.Cluster
	}
	c := *j.Cluster
	c.Manifests, c.given = ofObjects(j.app(), r.Objects, r), j.jobManifests()
	return &c
}

// sameForm is how names are compared: as the ledger keeps them.
func sameForm(o *release.Objects) string {
	text, err := json.Marshal(o)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// ownFields is a Deployment with the fields of it that are ours: what is not named in an apply is given up.
func ownFields(live *appsv1.Deployment) (*appsv1.Deployment, error) {
	fields, err := applyappsv1.ExtractDeployment(live, fieldManager)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(fields)
	if err != nil {
		return nil, err
	}
	own := &appsv1.Deployment{}
	if err := json.Unmarshal(text, own); err != nil {
		return nil, err
	}
	own.Spec.Selector, own.Spec.Replicas = live.Spec.Selector, nil
	delete(own.Annotations, previousAnnotation) // of the template that is to go
	return own, nil
}

// previousPrimary is primary as it was before the release, to be applied.
func (j *job) previousPrimary(ctx context.Context, live *appsv1.Deployment) (desired *appsv1.Deployment, err error) {
	switch {
	case j.previous != "":
	case j.Manifests.NamesOnly:
		return nil, errors.New("the ledger does not have primary's previous pod template: give the app's manifests")
	default:
		if err := inOrder(ctx, j.bind, j.ensureCopies); err != nil {
			return nil, err
		}
	}
	if desired, err = j.Manifests.Track(release.Primary, j.Namespace, j.ledger.Release.Previous); err != nil {
		return nil, err
	}
	if j.Manifests.NamesOnly && live != nil {
		if desired, err = ownFields(live); err != nil {
			return nil, err
		}
		desired.TypeMeta = metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"}
	}
	if j.previous != "" {
		var template corev1.PodTemplateSpec
		if err := json.Unmarshal([]byte(j.previous), &template); err != nil {
			return nil, fmt.Errorf("%s: primary's previous pod template is not readable: %w", j.ledgerName(), err)
		}
		desired.Spec.Template = template
	}
	switch objects := j.ledger.Release.Objects; { // the manifests may be later ones, with another selector
	case live != nil:
		desired.Spec.Selector = live.Spec.Selector.DeepCopy()
	case objects != nil:
		desired.Spec.Selector.MatchLabels = maps.Clone(objects.Selectors[release.Primary])
	}
	return desired, nil
}
