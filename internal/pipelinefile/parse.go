package pipelinefile

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// keywords are top-level keys that are not jobs.
var keywords = []string{"spec", "default", "stages", "workflow", "variables", "include", "image", "services", "cache", "before_script", "after_script", "pages"}

// Parse reads a pipeline file. Interpolations ($[[ inputs.x ]]) stay as they are. Errors say what is wrong with the
// file, and where.
func Parse(data []byte) (*File, error) {
	documents, err := decodeDocuments(data)
	if err != nil {
		return nil, err
	}
	file := &File{Inputs: map[string]Input{}}
	if len(documents) == 2 {
		var header struct {
			Spec struct {
				Inputs map[string]Input `yaml:"inputs"`
			} `yaml:"spec"`
		}
		if err := documents[0].Decode(&header); err != nil {
			return nil, fmt.Errorf("the header: %w", err)
		}
		if header.Spec.Inputs != nil {
			file.Inputs = header.Spec.Inputs
		}
		documents = documents[1:]
	}
	if len(documents) != 1 || documents[0].Kind != yaml.MappingNode {
		return nil, errors.New("not a pipeline file: it must be one mapping, perhaps after a spec header")
	}
	if err := file.read(documents[0]); err != nil {
		return nil, err
	}
	return file, nil
}

// read fills in what the file's mapping says.
func (f *File) read(root *yaml.Node) error {
	inherited, names, err := readTopLevel(root)
	if err != nil {
		return err
	}
	f.included = inherited.values["include"] != nil
	f.variables, _ = inherited.values["variables"].(map[string]any)
	f.Stages = []string{".pre", "build", "test", "deploy", ".post"}
	if stages, ok := inherited.values["stages"].([]any); ok {
		f.Stages = append(append([]string{".pre"}, stringsIn(stages)...), ".post")
	}
	if workflow, ok := inherited.values["workflow"].(map[string]any); ok {
		f.Name, _ = workflow["name"].(string)
		f.Workflow, _ = rulesOf(workflow["rules"])
		if cancel, ok := workflow["auto_cancel"].(map[string]any); ok {
			f.cancelsOnFailure = cancel["on_job_failure"] == "all"
		}
	}
	for _, name := range names {
		job, err := inherited.job(name)
		if err != nil {
			return err
		}
		f.Jobs = append(f.Jobs, job)
	}
	return f.checkReferences()
}

// readTopLevel decodes the file's mapping. names are its jobs, in their order. A file that has something else in
// the place of a job, or no job at all, is not a pipeline file.
func readTopLevel(root *yaml.Node) (inherited *inheritance, names []*yaml.Node, err error) {
	inherited = &inheritance{values: map[string]any{}}
	for i := 0; i+1 < len(root.Content); i += 2 {
		key := root.Content[i]
		value, err := decode(root.Content[i+1], 0)
		if err != nil {
			return nil, nil, err
		}
		inherited.values[key.Value] = value
		if slices.Contains(keywords, key.Value) || strings.HasPrefix(key.Value, ".") {
			continue
		}
		if _, ok := value.(map[string]any); !ok {
			return nil, nil, fmt.Errorf("not a pipeline file: line %d: %q is neither a keyword of GitLab CI/CD nor a job", key.Line, key.Value)
		}
		names = append(names, key)
	}
	if len(names) == 0 && inherited.values["include"] == nil {
		return nil, nil, errors.New("not a pipeline file: it has no jobs")
	}
	return inherited, names, nil
}

// checkReferences checks that every stage and needed job of a job is in the file.
func (f *File) checkReferences() error {
	for _, job := range f.Jobs {
		if !slices.Contains(f.Stages, job.Stage) {
			return fmt.Errorf("line %d: job %s has stage %q, which is not in stages", job.Line, job.Name, job.Stage)
		}
		for _, need := range job.Needs {
			if f.Job(need) == nil {
				return fmt.Errorf("line %d: job %s needs %q, which is not a job of this file", job.Line, job.Name, need)
			}
		}
	}
	return nil
}
