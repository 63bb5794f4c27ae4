// Package scaffold writes the files that a repository needs for its first release: crossbill.yaml, GitLab's pipeline file,
// and GitHub's workflow, which refer to what Crossbill publishes. It looks at what is there first. It promises that what it
// writes is valid, that the same answers give the same files, and that nothing is written before it was shown.
package scaffold

import (
	"context"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"

	"github.com/our-org/crossbill/internal/manifest"
)

// Found is what a folder shows of an app. What it does not show is empty.
type Found struct {
	Manifests  string // relative to the folder
	App        string
	Namespace  string
	Service    string
	Image      string   // repository
	AppDir     string   // with a package.json
	Package    string   // manager: pnpm, npm, or yarn
	Missing    []string // scripts that the workflow runs and package.json lacks
	Assets     string   // prefix of the paths of files that a bundler names by their content, of an app that a VirtualService leads to
	Dockerfile bool
	Repository string // in GitHub, by the remote
	Project    string // in GitLab, by the remote
	Remotes    Remotes

	Problem error // why the manifests could not be read
}

// places are where manifests usually are, in the order in which they are looked for.
var places = []string{"k8s", "kubernetes", "deploy", "manifests", "chart", "charts/*", "helm", "kustomize", "overlays/production"}

// Look looks at a folder. manifests is where the manifests are; "" looks for them. app is the one that is meant, if they have
// several. appDir is the folder of its source; "" looks for it.
func Look(ctx context.Context, dir, manifests, app, appDir string) Found {
	found := Found{Manifests: manifests}
	candidates, byVirtualService := []string{manifests}, false
	if manifests == "" {
		candidates = present(dir)
	}
	for _, place := range candidates {
		path := place
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, place)
		}
		set, err := manifest.Read(ctx, manifest.Source{Path: path, App: app})
		if err != nil {
			if found.Problem == nil {
				found.Problem, found.Manifests = err, place
			}
			continue
		}
		found.Problem, found.Manifests = nil, place
		found.App, found.Namespace, found.Service, found.Image = set.App, set.Deployment.Namespace, set.Service.Name, set.Repository()
		byVirtualService = set.Route == nil
		break
	}
	found.source(dir, appDir)
	if found.AppDir != "" && byVirtualService { // by the Gateway API, a sticky release is refused
		found.Assets = assets(filepath.Join(dir, found.AppDir))
	}
	found.Remotes = RemotesOf(dir)
	found.Repository, found.Project = found.Remotes.GitHub(), found.Remotes.GitLab()
	return found
}

// present are the places that there are, and the folder itself if it is a kustomization.
func present(dir string) (found []string) {
	for _, place := range places {
		names, _ := filepath.Glob(filepath.Join(dir, place)) // the patterns are right
		for _, name := range names {
			if info, err := os.Stat(name); err == nil && info.IsDir() {
				relative, _ := filepath.Rel(dir, name)
				found = append(found, filepath.ToSlash(relative))
			}
		}
	}
	for _, name := range []string{"kustomization.yaml", "Chart.yaml"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			found = append(found, ".")
		}
	}
	return found
}

// source looks at what the app is built from.
func (f *Found) source(dir, appDir string) {
	exists := func(parts ...string) bool {
		_, err := fs.Stat(os.DirFS(dir), filepath.ToSlash(filepath.Join(parts...)))
		return err == nil
	}
	folders := []string{"app", "."}
	if appDir != "" {
		folders = []string{appDir}
	}
	for _, folder := range folders {
		if !exists(folder, "package.json") {
			continue
		}
		f.AppDir, f.Missing = folder, missing(filepath.Join(dir, folder, "package.json"))
		for _, lock := range [][2]string{{"pnpm-lock.yaml", "pnpm"}, {"package-lock.json", "npm"}, {"yarn.lock", "yarn"}} {
			if f.Package == "" && exists(folder, lock[0]) {
				f.Package = lock[1]
			}
		}
		break
	}
	f.Dockerfile = slices.ContainsFunc([]string{"Dockerfile", "app/Dockerfile", "Containerfile"}, func(name string) bool { return exists(name) })
}

// missing are the scripts that the workflow runs and a package.json does not have.
func missing(file string) (names []string) {
	text, err := os.ReadFile(file)
	var of struct{ Scripts map[string]string }
	if err != nil || json.Unmarshal(text, &of) != nil {
		return nil // pnpm says what is wrong with it
	}
	for _, name := range []string{"check", "build"} {
		if of.Scripts[name] == "" {
			names = append(names, name)
		}
	}
	return names
}

// assets are where an app's bundler puts the files of pages, by what the app depends on; "" for none that is known.
func assets(dir string) string {
	text, _ := os.ReadFile(filepath.Join(dir, "package.json")) // which exists
	var depends struct{ Dependencies, DevDependencies map[string]any }
	if json.Unmarshal(text, &depends) != nil {
		return ""
	}
	for _, bundler := range [][2]string{{"@builder.io/qwik", "/build/"}, {"vite", "/assets/"}} {
		if depends.Dependencies[bundler[0]] != nil || depends.DevDependencies[bundler[0]] != nil {
			return bundler[1]
		}
	}
	return ""
}

// Remote is where a folder's repository is pushed to.
type Remote struct {
	URL  string // of the host
	Path string // owner/name in GitHub, group/project in GitLab
}

// Remotes are those of one repository, or of several.
type Remotes []Remote

// address is that of a repository: https://HOST/PATH, ssh://git@HOST/PATH, or git@HOST:PATH.
var address = regexp.MustCompile(`^(?:([a-z+]+)://)?(?:[^@/]+@)?([^:/]+)(:[0-9]+)?[:/](.+?)(?:\.git)?/?$`)

// repositoryOf is the repository that a folder is in, also as a linked work tree; nil for none.
func repositoryOf(dir string) *git.Repository {
	repository, err := git.PlainOpenWithOptions(dir, &git.PlainOpenOptions{DetectDotGit: true, EnableDotGitCommonDir: true})
	if err != nil {
		return nil
	}
	return repository
}

// BranchOf is the branch of a folder's repository that others start from: its origin's, if a clone has recorded that. Without, the
// one that is checked out, unless that is beside main or master: somebody's work. "" where nothing shows it.
func BranchOf(dir string) string {
	repository := repositoryOf(dir)
	if repository == nil {
		return ""
	}
	target := func(name plumbing.ReferenceName) plumbing.ReferenceName {
		reference, err := repository.Reference(name, false)
		if err != nil || reference.Type() != plumbing.SymbolicReference {
			return ""
		}
		return reference.Target()
	}
	if branch, ok := strings.CutPrefix(target(plumbing.NewRemoteHEADReferenceName("origin")).String(), "refs/remotes/origin/"); ok {
		return branch
	}
	head, _ := strings.CutPrefix(target(plumbing.HEAD).String(), "refs/heads/")
	usual := []string{"main", "master"}
	if slices.Contains(usual, head) {
		return head
	}
	for _, branch := range usual {
		for _, name := range []plumbing.ReferenceName{plumbing.NewBranchReferenceName(branch), plumbing.NewRemoteReferenceName("origin", branch)} {
			if _, err := repository.Reference(name, false); err == nil {
				return branch
			}
		}
	}
	return head
}

// RemotesOf are the remotes of a folder's repository.
func RemotesOf(dir string) (found Remotes) {
	repository := repositoryOf(dir)
	if repository == nil {
		return nil
	}
	remotes, err := repository.Remotes()
	if err != nil {
		return nil
	}
	for _, remote := range remotes {
		for _, url := range remote.Config().URLs {
			match := address.FindStringSubmatch(url)
			if match == nil {
				continue
			}
			scheme, host, port := match[1], strings.ToLower(match[2]), match[3]
			switch {
			case scheme == "https", scheme == "http" && port != "":
			case scheme == "http": // which a GitLab with a certificate redirects
				scheme = "https"
			default: // the port is that of SSH
				scheme, port = "https", ""
				host = strings.TrimPrefix(strings.TrimPrefix(host, "altssh."), "ssh.")
			}
			found = append(found, Remote{URL: scheme + "://" + host + port, Path: match[4]})
		}
	}
	return found
}

func (r Remote) inGitHub() bool { return r.URL == "https://github.com" }

// GitHub is the repository in GitHub; "" for none.
func (all Remotes) GitHub() string {
	if i := slices.IndexFunc(all, Remote.inGitHub); i >= 0 {
		return all[i].Path
	}
	return ""
}

// GitLab is the project on a host whose name has gitlab in it; "" for none.
func (all Remotes) GitLab() string {
	if i := slices.IndexFunc(all, func(r Remote) bool { return strings.Contains(r.URL, "gitlab") }); i >= 0 {
		return all[i].Path
	}
	return ""
}

// URL is the address of the GitLab that has a project, whatever its name; "" if no remote is of this project.
func (all Remotes) URL(project string) string {
	if i := slices.IndexFunc(all, func(r Remote) bool { return !r.inGitHub() && strings.EqualFold(r.Path, project) }); i >= 0 {
		return all[i].URL
	}
	return ""
}
