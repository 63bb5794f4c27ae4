package gitops

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/our-org/crossbill/rehearsal/cluster"
	"github.com/our-org/crossbill/rehearsal/setup"
)

// argoNamespace is where Argo CD's settings and its Applications are.
const argoNamespace = "argocd"

// ArgoCD is the real one, running in a rehearsal's cluster.
type ArgoCD struct {
	RepoServer, Application *Controller
	// Ready is the time from StartArgoCD's begin until both were ready.
	Ready time.Duration

	namespace string // of objects that name none
	objects   dynamic.Interface
}

// StartArgoCD makes Argo CD's kinds and settings in a cluster, and starts its repo-server and application-controller, as
// administrators and with the settings of an installation. They keep what they write in a folder, which is made, and end with
// the cluster. Their store is miniredis. There is no API server of Argo CD, no ApplicationSet and no notification.
func StartArgoCD(ctx context.Context, c *cluster.Cluster, programs setup.ArgoCD, dir string) (*ArgoCD, error) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	env, err := argoFolders(dir, programs.Tools)
	if err != nil {
		return nil, err
	}
	kubeconfig := filepath.Join(dir, "kubeconfig")
	if err := inNamespace(c.Kubeconfig, kubeconfig); err != nil {
		return nil, err
	}
	a := &ArgoCD{namespace: c.Namespace}
	if a.objects, err = dynamic.NewForConfig(c.RESTConfig); err != nil {
		return nil, err
	}
	if err := c.Establish(ctx, programs.Kinds); err != nil {
		return nil, fmt.Errorf("argo cd: %w", err)
	}
	if err := a.makeSettings(ctx); err != nil {
		return nil, fmt.Errorf("argo cd: %w", err)
	}
	const store = "127.0.0.1:6379"
	if _, err := c.Run("argocd-redis", nil, programs.Program, "redis", store); err != nil {
		return nil, err
	}
	if err := await(ctx, func(context.Context) error { return dial(store) }); err != nil {
		return nil, err
	}
	// https://kubernetes.default.svc, which Applications name, is the cluster of the kubeconfig.
	env = append(env, "KUBECONFIG="+kubeconfig, "ARGOCD_FAKE_IN_CLUSTER=true", "ARGOCD_GPG_ENABLED=false")
	a.RepoServer = &Controller{
		cluster: c, name: "argocd-repo-server", program: programs.Program, env: env, health: "http://127.0.0.1:8084/healthz?full=true",
		args: []string{
			"repo-server", "--redis=" + store, "--disable-tls", "--client-ca-path=",
			"--address=127.0.0.1", "--port=8081", "--metrics-address=127.0.0.1", "--metrics-port=8084",
		},
	}
	a.Application = &Controller{
		cluster: c, name: "argocd-application-controller", program: programs.Program, health: "http://127.0.0.1:8085/healthz",
		env: append(env, "HOSTNAME=argocd-application-controller-0"),
		args: []string{
			"application-controller", "--redis=" + store, "--repo-server=127.0.0.1:8081", "--repo-server-plaintext",
			"--metrics-port=8085", "--kubeconfig=" + kubeconfig,
		},
	}
	if err := startAll(ctx, a.RepoServer, a.Application); err != nil {
		return nil, err
	}
	a.Ready = time.Since(began)
	return a, nil
}

// argoFolders makes the folders that Argo CD expects in its images, and gives the environment that names them.
func argoFolders(dir, tools string) ([]string, error) {
	env := []string{"PATH=" + tools + string(os.PathListSeparator) + os.Getenv("PATH"), "ARGOCD_ASK_PASS_SOCK=" + filepath.Join(dir, "askpass.sock")}
	for variable, name := range map[string]string{
		"ARGOCD_TLS_DATA_PATH": "tls", "ARGOCD_SSH_DATA_PATH": "ssh", "ARGOCD_GNUPGHOME": "gpg", "ARGOCD_PLUGINSOCKFILEPATH": "plugins", "TMPDIR": "tmp", "HOME": "home",
	} {
		folder := filepath.Join(dir, name)
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return nil, err
		}
		env = append(env, variable+"="+folder)
	}
	return env, nil
}

// inNamespace copies a kubeconfig, with Argo CD's namespace as that of its context: where it looks for its settings.
func inNamespace(from, to string) error {
	config, err := clientcmd.LoadFromFile(from)
	if err != nil {
		return err
	}
	config.Contexts[config.CurrentContext].Namespace = argoNamespace
	return clientcmd.WriteToFile(*config, to)
}

func dial(address string) error {
	connection, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		return err
	}
	return connection.Close()
}

// makeSettings makes what an installation of Argo CD comes with, and the project that its API server would make.
func (a *ArgoCD) makeSettings(ctx context.Context) error {
	if err := makeNamespace(ctx, a.objects, argoNamespace); err != nil {
		return err
	}
	for _, made := range []struct {
		resource schema.GroupVersionResource
		object   *unstructured.Unstructured
	}{
		{schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}, object("v1", "ConfigMap", "argocd-cm", nil)},
		{schema.GroupVersionResource{Version: "v1", Resource: "secrets"}, object("v1", "Secret", "argocd-secret", nil)},
		{argoResource("appprojects"), object("argoproj.io/v1alpha1", "AppProject", "default", map[string]any{
			"sourceRepos": []any{"*"}, "destinations": []any{map[string]any{"server": "*", "namespace": "*"}}, "clusterResourceWhitelist": []any{map[string]any{"group": "*", "kind": "*"}},
		})},
	} {
		made.object.SetLabels(map[string]string{"app.kubernetes.io/part-of": "argocd"})
		if _, err := a.objects.Resource(made.resource).Namespace(argoNamespace).Create(ctx, made.object, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("create %s %s: %w", made.object.GetKind(), made.object.GetName(), err)
		}
	}
	return nil
}

func argoResource(name string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "argoproj.io", Version: "v1alpha1", Resource: name}
}

// An Application is a folder of a repository that Argo CD applies to the cluster.
type Application struct {
	name       string
	repository *Repository
	objects    dynamic.ResourceInterface
}

// Apply has Argo CD apply a folder of a repository from now on, remove what is no longer there, and undo drift.
func (a *ArgoCD) Apply(ctx context.Context, name string, r *Repository, folder string) (*Application, error) {
	app := &Application{name: name, repository: r, objects: a.objects.Resource(argoResource("applications")).Namespace(argoNamespace)}
	live := object("argoproj.io/v1alpha1", "Application", name, map[string]any{
		"project":     "default",
		"source":      map[string]any{"repoURL": r.URL, "targetRevision": "main", "path": folder, "directory": map[string]any{"recurse": true}},
		"destination": map[string]any{"server": "https://kubernetes.default.svc", "namespace": a.namespace},
		"syncPolicy":  map[string]any{"automated": map[string]any{"prune": true, "selfHeal": true}},
	})
	if _, err := app.objects.Create(ctx, live, metav1.CreateOptions{}); err != nil {
		return nil, fmt.Errorf("create Application %s: %w", name, err)
	}
	return app, nil
}

// Change merges fields into the Application: a list takes the place of one, and nil removes.
func (a *Application) Change(ctx context.Context, fields map[string]any) error {
	patch, err := json.Marshal(fields)
	if err != nil {
		return err
	}
	_, err = a.objects.Patch(ctx, a.name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "argocd"})
	return err
}

const refreshAnnotation = "argocd.argoproj.io/refresh"

// Request implements Applied: the branch is resolved anew, and what differs is synced. It asks where nobody has asked, so that
// the answer is to this request.
func (a *Application) Request(ctx context.Context) error {
	return await(ctx, func(ctx context.Context) error {
		live, err := a.objects.Get(ctx, a.name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if _, pending := live.GetAnnotations()[refreshAnnotation]; pending {
			return fmt.Errorf("argo cd has not answered an earlier request for %s", a.name)
		}
		return a.Change(ctx, map[string]any{"metadata": map[string]any{
			"resourceVersion": live.GetResourceVersion(), "annotations": map[string]any{refreshAnnotation: "normal"},
		}}) // a conflict is an error too: it is asked again
	})
}

// RequestApply implements Applied: there is one request for both.
func (a *Application) RequestApply(ctx context.Context) error { return a.Request(ctx) }

// ApplicationStatus is what an Application says of itself.
type ApplicationStatus struct {
	Asked    bool   // a request is not answered
	Syncing  bool   // a sync was asked for, and has not ended
	Revision string // commit that the cluster was compared with
	Sync     string // Synced or OutOfSync
	Phase    string // of the last sync
	Message  string // of the last sync
	Synced   string // commit that was synced last
}

// Status reads it.
func (a *Application) Status(ctx context.Context) (s ApplicationStatus, err error) {
	live, err := a.objects.Get(ctx, a.name, metav1.GetOptions{})
	if err != nil {
		return s, err
	}
	_, s.Asked = live.GetAnnotations()[refreshAnnotation]
	_, s.Syncing = live.Object["operation"]
	for field, at := range map[*string][]string{
		&s.Revision: {"sync", "revision"}, &s.Sync: {"sync", "status"},
		&s.Phase: {"operationState", "phase"}, &s.Message: {"operationState", "message"}, &s.Synced: {"operationState", "syncResult", "revision"},
	} {
		if *field, _, err = unstructured.NestedString(live.Object, append([]string{"status"}, at...)...); err != nil {
			return s, err
		}
	}
	return s, nil
}

// WaitApplied implements Applied. A commit that changes nothing that is compared has no sync.
func (a *Application) WaitApplied(ctx context.Context, commit string) error {
	return a.await(ctx, func(s ApplicationStatus) bool {
		return s.Revision != "" && a.repository.contains(s.Revision, commit) && (s.Sync == "Synced" || s.Synced == s.Revision && s.Phase == "Succeeded")
	})
}

// WaitHandled implements Applied.
func (a *Application) WaitHandled(ctx context.Context) error {
	return a.await(ctx, func(ApplicationStatus) bool { return true })
}

// await waits until no request is open, no sync is under way, and more. A request that Argo CD has missed is repeated.
func (a *Application) await(ctx context.Context, more func(ApplicationStatus) bool) error {
	again, kinds := time.Now().Add(5*time.Second), []string{"hard", "normal"}
	return await(ctx, func(ctx context.Context) error {
		s, err := a.Status(ctx)
		if err == nil && s.Asked && time.Now().After(again) {
			again, kinds = time.Now().Add(5*time.Second), []string{kinds[1], kinds[0]}
			err = a.Change(ctx, map[string]any{"metadata": map[string]any{"annotations": map[string]any{refreshAnnotation: kinds[1]}}})
		}
		if err == nil && (s.Asked || s.Syncing || !more(s)) {
			err = fmt.Errorf("argo cd is not done with %s: %+v", a.name, s)
		}
		return err
	})
}
