// Package config reads crossbill.yaml, which describes an app and its surroundings: what is the same for each
// command of its releases. [Options] is the one table of its keys, with the flag and the environment variables
// of each. Libraries name an option in their errors by its key there.
//
// A flag wins over a CROSSBILL_ variable, that wins over the file, and the file over what GitLab and GitHub set
// for each of their jobs. Secrets are never in the file. It promises that a file is either read as it was meant
// or refused, with the line and the field of everything that is wrong in it.
package config

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/our-org/crossbill/internal/approval"
	"github.com/our-org/crossbill/internal/bundle"
	"github.com/our-org/crossbill/internal/hook"
	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/provenance"
	"github.com/our-org/crossbill/internal/usererr"
	"github.com/our-org/crossbill/internal/verdict"
)

// FileName is the file that is read from the working directory when no other one is named.
const FileName = "crossbill.yaml"

// Variable names another file, as --config does.
const Variable = "CROSSBILL_CONFIG"

// Config is the content of crossbill.yaml. What it leaves out is zero; [Config.Resolve] adds the rest. The table
// [Options] says what each field means.
type Config struct {
	App         string             `json:"app,omitempty"`
	Manifests   string             `json:"manifests,omitempty"`
	Router      string             `json:"router,omitempty"`
	Render      Render             `json:"render,omitzero"`
	Cluster     Cluster            `json:"cluster,omitzero"`
	Prometheus  Prometheus         `json:"prometheus,omitzero"`
	GitLab      GitLab             `json:"gitlab,omitzero"`
	Notify      Notify             `json:"notify,omitzero"`
	Image       Image              `json:"image,omitzero"`
	ApplyOthers bool               `json:"applyOthers,omitempty"`
	Canary      Canary             `json:"canary,omitzero"`
	Steps       []Step             `json:"steps,omitempty"`
	Shift       Shift              `json:"shift,omitzero"`
	Promote     Promote            `json:"promote,omitzero"`
	Rollback    Rollback           `json:"rollback,omitzero"`
	Queue       Queue              `json:"queue,omitzero"`
	Guard       Guard              `json:"guard,omitzero"`
	Preview     Preview            `json:"preview,omitzero"`
	Probe       Probe              `json:"probe,omitzero"`
	Analysis    *verdict.SLO       `json:"analysis,omitempty"`
	ImagePolicy *provenance.Policy `json:"imagePolicy,omitempty"`
	Bundle      bundle.Policy      `json:"bundle,omitzero"`
	Approval    *approval.Policy   `json:"approval,omitempty"`
	Hooks       []hook.Hook        `json:"hooks,omitempty"`
	GitOps      GitOps             `json:"gitops,omitzero"`

	file     string               // "" when there is none
	verifier *provenance.Verifier // of ImagePolicy; nil when there is none
	previews *provenance.Verifier // of Preview.ImagePolicy; nil when there is none
	found    map[string]setting
}

// Render is how the manifests are rendered.
type Render struct {
	Subfolders  bool     `json:"subfolders,omitempty"`
	Values      []string `json:"values,omitempty"`
	ReleaseName string   `json:"releaseName,omitempty"`
	KubeVersion string   `json:"kubeVersion,omitempty"`
	AllowLookup bool     `json:"allowLookup,omitempty"`
	AllowRemote bool     `json:"allowRemote,omitempty"`
	Gateway     string   `json:"gateway,omitempty"`
	Hosts       []string `json:"hosts,omitempty"`
}

// Cluster is where the app runs.
type Cluster struct {
	Context   string          `json:"context,omitempty"`
	Namespace string          `json:"namespace,omitempty"`
	Timeout   metav1.Duration `json:"timeout,omitzero"`
}

// Prometheus is what the canary's requests are read from.
type Prometheus struct {
	URL        string `json:"url,omitempty"`
	HTTPConfig string `json:"httpConfig,omitempty"`
	Matcher    string `json:"matcher,omitempty"`
}

// GitLab is the project that deploys.
type GitLab struct {
	URL     string `json:"url,omitempty"`
	Project string `json:"project,omitempty"`
	Ref     string `json:"ref,omitempty"`
	User    string `json:"user,omitempty"` // who owns the trigger token
	Jobs    Jobs   `json:"jobs,omitzero"`
}

// Jobs are the names of the jobs in GitLab's pipeline.
type Jobs struct {
	Canary   string `json:"canary,omitempty"`
	Verify   string `json:"verify,omitempty"`
	Promote  string `json:"promote,omitempty"`
	Rollback string `json:"rollback,omitempty"`
}

// Notify is who is notified of a release.
type Notify struct {
	GitHub       GitHub `json:"github,omitzero"`
	GitLab       Code   `json:"gitlab,omitzero"`
	Chat         Chat   `json:"chat,omitzero"`
	Pushgateway  string `json:"pushgateway,omitempty"`
	OTLPEndpoint string `json:"otlpEndpoint,omitempty"`
}

// GitHub is the repository that a release came from, where its state is shown.
type GitHub struct {
	Repository     string `json:"repository,omitempty"`
	URL            string `json:"url,omitempty"`
	EnvironmentURL string `json:"environmentUrl,omitempty"`
	PullRequest    *bool  `json:"pullRequest,omitempty"`
}

// Code is the GitLab project where the code of releases is.
type Code struct {
	Project string `json:"project,omitempty"`
	URL     string `json:"url,omitempty"`
}

// Chat is what people read of a release in their chats. Their addresses are secrets.
type Chat struct {
	Events      []string        `json:"events,omitempty"`
	RemindAfter metav1.Duration `json:"remindAfter,omitzero"`
}

// Image is how the app's image is built, and whether its origin has to be checked.
type Image struct {
	AppDir       string   `json:"appDir,omitempty"`
	Base         string   `json:"base,omitempty"`
	Platforms    []string `json:"platforms,omitempty"`
	AssetsFolder string   `json:"assetsFolder,omitempty"`

	RequireProvenance bool `json:"requireProvenance,omitempty"`
}

// Canary is how a release starts.
type Canary struct {
	Weight       int             `json:"weight,omitempty"`
	Match        string          `json:"match,omitempty"`
	Mirror       string          `json:"mirror,omitempty"`
	Sticky       bool            `json:"sticky,omitempty"`
	StickyAssets string          `json:"stickyAssets,omitempty"`
	Baseline     bool            `json:"baseline,omitempty"`
	SettleDelay  metav1.Duration `json:"settleDelay,omitzero"`
	AllowTags    []string        `json:"allowTags,omitempty"`
}

// Step is one step of the way before promotion: one of its fields is set.
type Step struct {
	Match   string          `json:"match,omitempty"`
	Mirror  string          `json:"mirror,omitempty"`
	Weight  int             `json:"weight,omitempty"`
	Pause   metav1.Duration `json:"pause,omitzero"`
	Analyze *Analyze        `json:"analyze,omitempty"`
	Approve *Approve        `json:"approve,omitempty"`
}

// Analyze is what a step's analysis asks for, where it differs from the section analysis.
type Analyze struct {
	MinRequests float64         `json:"minRequests,omitempty"`
	MinDuration metav1.Duration `json:"minDuration,omitzero"`
	MaxDuration metav1.Duration `json:"maxDuration,omitzero"`
}

// Approve is a step that waits for an approval. It has no fields yet.
type Approve struct{}

// Shift is how the canary's weight grows.
type Shift struct {
	Steps []int           `json:"steps,omitempty"`
	Pause metav1.Duration `json:"pause,omitzero"`
}

// Promote is how a release is promoted.
type Promote struct {
	Bake          metav1.Duration `json:"bake,omitzero"`
	Traffic       string          `json:"traffic,omitempty"`
	MaxVerdictAge metav1.Duration `json:"maxVerdictAge,omitzero"`
}

// Rollback is what is kept to go back to.
type Rollback struct {
	KeepWarm     metav1.Duration `json:"keepWarm,omitzero"`
	KeepReleases int             `json:"keepReleases,omitempty"`
}

// Queue is how releases wait for each other.
type Queue struct {
	Policy string          `json:"policy,omitempty"`
	Wait   metav1.Duration `json:"wait,omitzero"`
	Turn   metav1.Duration `json:"turn,omitzero"`
}

// GitOps is the repository that a GitOps controller applies the app's manifests from.
type GitOps struct {
	Controller     string `json:"controller,omitempty"`
	Store          string `json:"store,omitempty"`
	Namespace      string `json:"namespace,omitempty"`
	Repository     string `json:"repository,omitempty"`
	Branch         string `json:"branch,omitempty"`
	Path           string `json:"path,omitempty"`
	Value          string `json:"value,omitempty"`
	Releases       string `json:"releases,omitempty"`
	User           string `json:"user,omitempty"`
	TokenFile      string `json:"tokenFile,omitempty"`
	SSHKeyFile     string `json:"sshKeyFile,omitempty"`
	KnownHostsFile string `json:"knownHostsFile,omitempty"`
	SigningKeyFile string `json:"signingKeyFile,omitempty"`

	AllowedSignersFile string `json:"allowedSignersFile,omitempty"`
	Approvals          int    `json:"approvals,omitempty"`
	Author             string `json:"author,omitempty"`
}

// Guard is when a release counts as abandoned.
type Guard struct {
	Dead    metav1.Duration `json:"dead,omitzero"`
	Waiting metav1.Duration `json:"waiting,omitzero"`
}

// Preview is how the images of pull requests run beside the app.
type Preview struct {
	Header   string          `json:"header,omitempty"`
	Lasts    metav1.Duration `json:"lasts,omitzero"`
	Limit    int             `json:"limit,omitempty"`
	Replicas int             `json:"replicas,omitempty"`
	Labels   []string        `json:"labels,omitempty"`
	// ImagePolicy says which images are admitted as previews; nil: those that may be released.
	ImagePolicy *provenance.Policy `json:"imagePolicy,omitempty"`
}

// Probe is the requests that verify makes itself.
type Probe struct {
	URL    string  `json:"url,omitempty"`
	Rate   float64 `json:"rate,omitempty"`
	Header string  `json:"header,omitempty"`
}

// Load reads the file that --config names; else the one of $CROSSBILL_CONFIG; else crossbill.yaml in the working
// directory; else there is none, and all is as by default, as with /dev/null. Errors are *usererr.Error, joined when there are more.
func Load(named string, getenv func(string) string) (*Config, error) {
	file, field := named, "config"
	if file == "" {
		file, field = getenv(Variable), Variable
	}
	optional := file == ""
	if optional {
		file, field = FileName, FileName
	}
	if file == os.DevNull {
		return &Config{}, nil
	}
	text, err := os.ReadFile(file)
	switch {
	case optional && errors.Is(err, fs.ErrNotExist):
		if err := misnamed(".", FileName); err != nil {
			return nil, err
		}
		return &Config{}, nil
	case err != nil:
		return nil, &usererr.Error{Field: field, Problem: err.Error(), Fix: "give a readable file, or none"}
	}
	return Parse(file, text)
}

// File is where the configuration was read from, "" when there is no file.
func (c *Config) File() string { return c.file }

// SLO is what canaries are judged by: the file that --slo names, else the section analysis, else the default.
// For one more release slo.yaml in the folder of the manifests is read too; the warning says where its content
// belongs.
func (c *Config) SLO(named, manifests string) (slo *verdict.SLO, warning string, err error) {
	if named != "" {
		slo, err = verdict.LoadSLO(named, true)
		return slo, "", err
	}
	file, warning, err := c.legacy(manifests, manifest.SLOFile, "analysis", c.Analysis != nil)
	switch {
	case err != nil:
		return nil, "", err
	case file != "":
		slo, err = verdict.LoadSLO(file, true)
		return slo, warning, err
	case c.Analysis != nil:
		return c.Analysis, "", nil
	}
	return verdict.DefaultSLO(), "", nil
}

// Policy says which images are admitted: the file that --trust names, else the section imagePolicy, else nil: all
// of them. For one more release trust.yaml in the folder of the manifests is read too; the warning says where its
// content belongs.
func (c *Config) Policy(named, manifests string) (verifier *provenance.Verifier, warning string, err error) {
	if named != "" {
		verifier, err = provenance.ReadVerifier(named)
		return verifier, "", err
	}
	file, warning, err := c.legacy(manifests, manifest.TrustFile, "imagePolicy", c.ImagePolicy != nil)
	switch {
	case err != nil:
		return nil, "", err
	case file != "":
		verifier, err = provenance.ReadVerifier(file)
		return verifier, warning, err
	}
	return c.verifier, "", nil
}

// HasPreviews says whether the file has the section preview.
func (c *Config) HasPreviews() bool {
	_, ok := c.found["preview"]
	return ok
}

// PreviewPolicy says which images are admitted as previews: preview.imagePolicy if there is one, else what Policy says.
func (c *Config) PreviewPolicy(named, manifests string) (verifier *provenance.Verifier, warning string, err error) {
	if named == "" && c.previews != nil {
		return c.previews, "", nil
	}
	return c.Policy(named, manifests)
}

// legacy finds a file that has become a section of crossbill.yaml.
func (c *Config) legacy(manifests, name, section string, both bool) (file, warning string, err error) {
	if bundle.Named(manifests) {
		folder := cmp.Or(c.Manifests, filepath.Join(filepath.Dir(c.file), "k8s"))
		if old := filepath.Join(folder, name); !both && !bundle.Named(folder) {
			if _, err := os.Lstat(old); err == nil {
				return "", "", &usererr.Error{Field: old, Problem: "a bundle is released without this file", Fix: fmt.Sprintf("move its content to %s: in %s", section, FileName)}
			}
		}
		return "", "", nil
	}
	file = filepath.Join(manifests, name)
	switch _, err := os.Lstat(file); { // a link that leads nowhere is there as well: reading it says so
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR): // the manifests may be one file
		return "", "", misnamed(manifests, name)
	case both:
		here := fmt.Sprintf("%s:%d", c.file, c.found[section].line)
		return "", "", &usererr.Error{Field: file, Problem: fmt.Sprintf("%s has the section %s as well", here, section), Fix: "keep the section and remove " + file}
	}
	return file, fmt.Sprintf("%s: the next version does not read this file; move its content to %s: in %s", file, section, FileName), nil
}

// misnamed finds the file that somebody has meant by a name which is not read: with another extension, in another case,
// or a link that leads nowhere. Such a file would be left out without a word.
func misnamed(folder, name string) error {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil // there is no such folder: that is said elsewhere
	}
	stem := func(name string) string {
		name = strings.TrimPrefix(strings.ToLower(name), ".")
		return strings.TrimSuffix(strings.TrimSuffix(name, ".yaml"), ".yml")
	}
	for _, entry := range entries {
		switch found := entry.Name(); {
		case found == name: // and yet it was not found
			return &usererr.Error{Field: filepath.Join(folder, found), Problem: "it is a link that leads nowhere", Fix: "restore what it links to, or remove it"}
		case stem(found) == stem(name) && stem(found) != strings.TrimPrefix(strings.ToLower(found), "."):
			return &usererr.Error{Field: filepath.Join(folder, found), Problem: "only " + name + " is read", Fix: "rename it" + map[bool]string{true: ", or name it with --config"}[name == FileName]}
		}
	}
	return nil
}
