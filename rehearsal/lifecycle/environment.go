package lifecycle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/our-org/crossbill/rehearsal/gitops"
)

// EnvironmentPath is the folder with the app's manifests in the environment repository.
const EnvironmentPath = "apps/" + name

// Environment is what a GitOps controller applies the app from.
type Environment struct {
	Repository *gitops.Repository
	// Token is a file with the token that may push to it.
	Token string
	// Controller is what it is called: Flux, Argo CD. Apply has it apply a folder of the repository.
	Controller string
	Apply      func(ctx context.Context, name string, r *gitops.Repository, folder string) (gitops.Applied, error)
	// Plain is for a controller that renders no kustomization here, and that no annotation keeps off.
	Plain bool

	applied gitops.Applied
}

// URL is the address of the repository; "" without one.
func (e *Environment) URL() string {
	if e == nil {
		return ""
	}
	return e.Repository.URL
}

// Variables are the files that the jobs of a project need for it, by the names of the variables that are these files.
func (e *Environment) Variables() map[string]string {
	if e == nil {
		return nil
	}
	return map[string]string{"CROSSBILL_GITOPS_TOKEN_FILE": e.Token}
}

// Versions are those that are released: where a changed pod template cannot be committed with the image, it is refused, and
// with it the version that is nothing but that.
func (r *Rehearsal) Versions() []Version {
	if r.Only > 0 {
		return Versions[:r.Only]
	}
	return slices.DeleteFunc(slices.Clone(Versions), func(v Version) bool { return r.Environment != nil && r.Environment.Plain && v.Timeout != "" })
}

// introduce commits the app's manifests with a version's image, and has the controller bring them into the cluster: the app is
// there before its first release.
func (r *Rehearsal) introduce(ctx context.Context, v Version) error {
	err := r.Screen.Step("git", func(progress func(string)) (string, error) {
		progress("the app's manifests, into the environment repository")
		files, err := r.environmentFiles(v)
		if err != nil {
			return "", err
		}
		commit, err := r.Environment.Repository.Commit("Add "+name+" "+v.Number, files)
		if err != nil {
			return "", err
		}
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		began := time.Now()
		if r.Environment.applied, err = r.Environment.Apply(ctx, name, r.Environment.Repository, EnvironmentPath); err != nil {
			return "", err
		}
		if err := r.Environment.applied.WaitApplied(ctx, commit); err != nil {
			return "", err
		}
		return fmt.Sprintf("%s has applied commit %.7s after %.1fs", r.Environment.Controller, commit, time.Since(began).Seconds()), nil
	})
	if err != nil {
		return err
	}
	return r.startTraffic(ctx)
}

// environmentFiles are a version's manifests for the environment repository, with a kustomization that sets namespace and image,
// or the image in the manifests: Git says what runs.
func (r *Rehearsal) environmentFiles(v Version) (map[string]string, error) {
	folder := r.folder(v)
	names, err := filepath.Glob(filepath.Join(folder, "*.yaml"))
	if err != nil {
		return nil, err
	}
	tagged, digest, _ := strings.Cut(r.image(v), "@")
	repository := strings.TrimSuffix(tagged, ":"+v.Number)
	const image = "registry.example.com/our-org/" + name
	files, resources := map[string]string{}, []string{}
	for _, file := range names {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if r.Environment.Plain {
			text = bytes.ReplaceAll(text, []byte("image: "+image+"\n"), []byte("image: "+repository+"@"+digest+"\n"))
		}
		files[path.Join(EnvironmentPath, filepath.Base(file))] = string(text)
		resources = append(resources, filepath.Base(file))
	}
	if r.Environment.Plain {
		delete(files, path.Join(EnvironmentPath, "kustomization.yaml"))
		return files, nil
	}
	files[path.Join(EnvironmentPath, "kustomization.yaml")] = fmt.Sprintf(`namespace: %s
resources: [%s]
images:
  - name: %s
    newName: %s
    digest: %s
`, r.Cluster.Namespace, strings.Join(resources, ", "), image, repository, digest)
	return files, nil
}

// setInTemplate gives the app's timeout to the container in a manifest.
func setInTemplate(file, timeout string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	const before = "            - name: DRAIN_MS\n"
	if !bytes.Contains(text, []byte(before)) {
		return fmt.Errorf("%s does not set DRAIN_MS, which the timeout is put before", file)
	}
	setting := fmt.Sprintf("            - name: PRICE_TIMEOUT_MS\n              value: %q\n", timeout)
	return os.WriteFile(file, bytes.Replace(text, []byte(before), []byte(setting+before), 1), 0o644)
}

// settled has the controller apply all that Git has, and checks that primary runs what Git says, and has not moved.
func (r *Rehearsal) settled(ctx context.Context) error {
	return r.Screen.Step("git", func(progress func(string)) (string, error) {
		progress("whether Git says what runs")
		before, err := r.primary(ctx)
		if err != nil {
			return "", err
		}
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		head, err := r.Environment.Repository.Head()
		if err == nil {
			err = errors.Join(r.Environment.applied.Request(ctx), r.Environment.applied.WaitApplied(ctx, head))
		}
		if err == nil {
			err = errors.Join(r.Environment.applied.RequestApply(ctx), r.Environment.applied.WaitHandled(ctx))
		}
		if err != nil {
			return "", err
		}
		after, err := r.primary(ctx)
		if err != nil {
			return "", err
		}
		if before.Generation != after.Generation {
			return "", fmt.Errorf("%s has changed primary after the release: its generation was %d, and is %d", r.Environment.Controller, before.Generation, after.Generation)
		}
		log, err := r.Environment.Repository.Log()
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("%s has applied commit %.7s, %q: nothing moves", r.Environment.Controller, head, log[0]), nil
	})
}

// primary is its live Deployment.
func (r *Rehearsal) primary(ctx context.Context) (*appsv1.Deployment, error) {
	kube, err := kubernetes.NewForConfig(r.Cluster.RESTConfig)
	if err != nil {
		return nil, err
	}
	return kube.AppsV1().Deployments(r.Cluster.Namespace).Get(ctx, name+"-primary", metav1.GetOptions{})
}
