package pipelinefile

// use is what a keyword of a job is to this package.
type use byte

const (
	indifferent  use = iota // it changes neither the order of the jobs nor what their scripts do
	checkedApart            // what it says is text that is checked by itself
	decides                 // it decides whether, when and how often a job runs
)

// jobKeywords are the keywords of a job that GitLab knows: its JSON Schema (editor/schema/ci.json) and
// Gitlab::Ci::Config::Entry::Job, Bridge and Processable. A keyword that is not here is a finding.
var jobKeywords = map[string]use{
	"artifacts": checkedApart, "before_script": checkedApart, "script": checkedApart, "after_script": checkedApart, "hooks": checkedApart,
	"image": checkedApart, "services": checkedApart, "tags": checkedApart, "variables": checkedApart, "resource_group": checkedApart,
	"run": checkedApart, "trigger": checkedApart,
	"cache": indifferent, "coverage": indifferent, "dast_configuration": indifferent, "dependencies": indifferent,
	"id_tokens": indifferent, "identity": indifferent, "manual_confirmation": indifferent, "pages": indifferent, "publish": indifferent,
	"release": indifferent, "secrets": indifferent, "timeout": indifferent,
	"allow_failure": decides, "environment": decides, "except": decides, "extends": decides, "inherit": decides,
	"interruptible": decides, "needs": decides, "only": decides, "parallel": decides, "retry": decides, "rules": decides,
	"stage": decides, "start_in": decides, "when": decides,
}

// defaultKeywords are the keywords of `default` (Gitlab::Ci::Config::Entry::Default).
var defaultKeywords = []string{
	"after_script", "artifacts", "before_script", "cache", "hooks", "id_tokens", "identity", "image", "interruptible",
	"retry", "services", "tags", "timeout",
}

// Keywords of the values of other keywords: GitLab knows no further ones.
var (
	workflowKeywords     = []string{"name", "rules", "auto_cancel"}
	workflowRuleKeywords = []string{"if", "changes", "exists", "variables", "when", "auto_cancel"}
	ruleKeywords         = []string{"if", "changes", "exists", "variables", "when", "start_in", "allow_failure", "needs", "interruptible"}
	environmentKeywords  = []string{"name", "url", "action", "on_stop", "auto_stop_in", "deployment_tier", "kubernetes"}
	needKeywords         = []string{"job", "artifacts", "optional", "parallel", "pipeline", "project", "ref"}
	hookKeywords         = []string{"pre_get_sources_script"}
)

// jobWhens and ruleWhens are the values of `when`.
var (
	jobWhens  = []string{"on_success", "on_failure", "always", "manual", "delayed"}
	ruleWhens = append([]string{"never"}, jobWhens...)
)
