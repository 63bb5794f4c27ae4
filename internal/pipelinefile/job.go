package pipelinefile

import (
	"fmt"
	"maps"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// job reads one job, with everything that it inherits. Keys of the job replace those of default, they are not merged.
func (r *inheritance) job(key *yaml.Node) (Job, error) {
	merged, err := r.merged(key.Value, 0)
	if err != nil {
		return Job{}, fmt.Errorf("line %d: job %s: %w", key.Line, key.Value, err)
	}
	filled := map[string]any{}
	if defaults, ok := r.values["default"].(map[string]any); ok {
		maps.Copy(filled, defaults)
	}
	maps.Copy(filled, merged)
	resolved, err := r.resolve(filled, 0)
	if err != nil {
		return Job{}, fmt.Errorf("line %d: job %s: %w", key.Line, key.Value, err)
	}
	values, _ := resolved.(map[string]any)
	job := Job{Name: key.Value, Line: key.Line, Stage: "test", Trigger: values["trigger"] != nil}
	if stage, ok := values["stage"].(string); ok {
		job.Stage = stage
	}
	job.When, _ = values["when"].(string)
	job.ResourceGroup, _ = values["resource_group"].(string)
	job.variables, _ = values["variables"].(map[string]any)
	if interruptible, ok := values["interruptible"].(bool); ok {
		job.Interruptible = &interruptible
	}
	job.AllowFailure = allowFailureOf(values["allow_failure"])
	job.exitCodes = exitCodesOf(values["allow_failure"])
	job.Rules, job.HasRules = rulesOf(values["rules"])
	job.Needs, job.HasNeeds = needsOf(values["needs"])
	job.optional = optionalOf(values["needs"])
	job.Environment = environmentOf(values["environment"])
	job.RetryWhen = retryWhenOf(values["retry"])
	for _, part := range []string{"before_script", "script", "after_script"} {
		job.Script = append(job.Script, stringsIn([]any{values[part]})...)
	}
	return job, nil
}

func allowFailureOf(value any) *bool {
	switch allow := value.(type) {
	case bool:
		return &allow
	case map[string]any: // allow_failure:exit_codes
		return new(false)
	}
	return nil
}

// needsOf are the jobs of this pipeline that a job needs, and whether it has needs at all.
func needsOf(value any) (needs []string, ok bool) {
	items, ok := value.([]any)
	for _, item := range items {
		switch need := item.(type) {
		case string:
			needs = append(needs, need)
		case map[string]any:
			if name, ok := need["job"].(string); ok && need["pipeline"] == nil && need["project"] == nil {
				needs = append(needs, name)
			}
		}
	}
	return needs, ok
}

// optionalOf are the needs that a pipeline can do without.
func optionalOf(value any) (names []string) {
	items, _ := value.([]any)
	for _, item := range items {
		if need, ok := item.(map[string]any); ok && need["optional"] == true {
			name, _ := need["job"].(string)
			names = append(names, name)
		}
	}
	return names
}

// exitCodesOf are the exit codes with which a job may fail.
func exitCodesOf(value any) (codes []int) {
	allow, _ := value.(map[string]any)
	for _, code := range stringsIn([]any{allow["exit_codes"]}) {
		if number, err := strconv.Atoi(code); err == nil {
			codes = append(codes, number)
		}
	}
	return codes
}

func environmentOf(value any) (e Environment) {
	switch environment := value.(type) {
	case string:
		e.Name = environment
	case map[string]any:
		e.Name, _ = environment["name"].(string)
		e.Action, _ = environment["action"].(string)
	}
	return e
}

func retryWhenOf(value any) []string {
	switch retry := value.(type) {
	case string:
		if retry == "0" {
			return nil
		}
	case map[string]any:
		if when := stringsIn([]any{retry["when"]}); when != nil {
			return when
		}
	default:
		return nil
	}
	return []string{"always"}
}

func rulesOf(value any) ([]Rule, bool) {
	items, ok := value.([]any)
	var found []Rule
	for _, item := range items {
		values, _ := item.(map[string]any)
		rule := Rule{}
		rule.If, _ = values["if"].(string)
		rule.When, _ = values["when"].(string)
		if allow, ok := values["allow_failure"].(bool); ok {
			rule.AllowFailure = &allow
		}
		rule.conditional = values["if"] != nil || values["changes"] != nil || values["exists"] != nil
		found = append(found, rule)
	}
	return found, ok
}
