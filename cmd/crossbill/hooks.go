package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/hook"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/usererr"
)

// hookOptions are the hooks of crossbill.yaml, for the commands at whose points they run.
type hookOptions struct {
	enabled bool // the command runs hooks
	begins  bool // it runs hooks before the promotion: what keeps them from running is bad input
	logs    string

	hooks     []hook.Hook // after load
	allowTags []string
}

// addHooks adds the flags of the commands that run hooks. begins: those that lead to the promotion.
func (o *lifecycleOptions) addHooks(cmd *cobra.Command, begins bool) {
	o.hooks.enabled, o.hooks.begins = true, begins
	cmd.Flags().StringVar(&o.hooks.logs, "hook-logs", "", "folder for what hooks write, a file for each (default: hooks in a job of GitLab CI or GitHub Actions, else none)")
}

// load finds the hooks, their secrets and their Jobs. A command that ends a release goes on without what it cannot find.
func (o *hookOptions) load(cmd *cobra.Command, cluster *clusterOptions) error {
	if !o.enabled {
		return nil
	}
	if o.logs == "" && (os.Getenv("GITLAB_CI") == "true" || os.Getenv("GITHUB_ACTIONS") == "true") {
		o.logs = "hooks"
	}
	o.hooks, o.allowTags = slices.Clone(configOf(cmd).Hooks), configOf(cmd).Canary.AllowTags
	var problems []error
	for i := range o.hooks {
		h := &o.hooks[i]
		if h.SecretEnv == "" {
			continue
		}
		if h.Secret = os.Getenv(h.SecretEnv); h.Secret == "" {
			problems = append(problems, &usererr.Error{Field: fmt.Sprintf("hooks[%d].secretEnv", i), Problem: fmt.Sprintf("$%s is empty: hook %s could not be signed", h.SecretEnv, h.Name), Fix: "give the job this variable"})
		}
	}
	if set := cluster.set; set != nil {
		for i, h := range o.hooks {
			if h.Job == "" {
				continue
			}
			if err := set.TakeJobs(h.Job); err != nil {
				problems = append(problems, fmt.Errorf("hooks[%d]: %w", i, err))
			}
		}
	}
	for _, problem := range problems {
		if o.begins {
			return problem
		}
		warn(cmd, fmt.Sprintf("%v; going on without it", problem))
	}
	return nil
}

// apply gives a cluster's commands the hooks.
func (o *hookOptions) apply(c *rollout.Cluster) {
	c.Hooks, c.AllowTags = o.hooks, o.allowTags
	if o.logs != "" {
		c.HookLog = o.keep
	}
}

// keep writes what a hook said to a file of its own.
func (o *hookOptions) keep(releaseID string, run release.HookRun, text string) error {
	if err := os.MkdirAll(o.logs, 0o755); err != nil {
		return err
	}
	name := releaseID + "-" + string(run.Point)
	if run.Step > 0 {
		name += fmt.Sprintf("-%d", run.Step)
	}
	return writeWhole(filepath.Join(o.logs, name+"-"+run.Name+".log"), []byte(text))
}
