package pipelinefile

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// safeRetries are the failures after which a job has certainly not started its script, or was lost with its
// runner: every command can be run again.
var safeRetries = []string{"runner_system_failure", "scheduler_failure", "stale_schedule", "runner_unsupported"}

// jobs checks each job by itself, and their environments together.
func (c *checker) jobs() {
	environments := map[string]string{}
	for i := range c.file.Jobs {
		job := &c.file.Jobs[i]
		c.images(job)
		c.variables(job, job.variables)
		for _, when := range job.RetryWhen {
			if !slices.Contains(safeRetries, when) {
				c.report(job, RuleRetry, fmt.Sprintf("it is retried after %s", when), "retry only "+strings.Join(safeRetries[:2], " and "))
			}
		}
		if job.Environment.Name == "" {
			continue
		}
		if job.Interruptible == nil || *job.Interruptible {
			c.report(job, RuleOneByOne, "a newer pipeline may stop it halfway", "add `interruptible: false`")
		}
		if job.ResourceGroup == "" && !c.isRollback(job.Name) {
			c.report(job, RuleOneByOne, "two pipelines may run it at the same time", "add `resource_group`")
		}
		if action := job.Environment.Action; action == "" || action == "start" {
			if other := environments[job.Environment.Name]; other != "" {
				c.report(job, RuleEnvironment, fmt.Sprintf("it deploys to the environment of %s: GitLab may refuse the older deployment", other), "give it an environment of its own, or another action")
			}
			environments[job.Environment.Name] = job.Name
		}
	}
	c.variables(nil, c.file.variables)
}

// guarded are variables that say where, with which rights and by which code a job works. Trigger variables
// win over those of the file, so the file must not rely on its own.
var guarded = regexp.MustCompile(`^(KUBE.*|.*NAMESPACE.*|.*TOKEN.*|.*PASSWORD.*|.*IMAGE|DOCKER_HOST|DAGGER_MODULE|CLI|_EXPERIMENTAL_DAGGER_RUNNER_HOST|PROMETHEUS.*)$`)

func (c *checker) variables(job *Job, variables map[string]any) {
	names := make([]string, 0, len(variables))
	for name := range variables {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if guarded.MatchString(name) {
			c.report(job, RuleOverridable, fmt.Sprintf("variable %s of the file can be overridden by a trigger variable", name), "assign it in before_script, or use an input with options")
		}
	}
}
