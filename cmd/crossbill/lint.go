package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/our-org/crossbill/internal/gitlab"
	"github.com/our-org/crossbill/internal/pipelinefile"
	"github.com/our-org/crossbill/internal/usererr"
)

type lintOptions struct {
	paths  []string
	jobs   pipelinefile.Options
	out    io.Writer
	files  []*pipelinefile.File // after validate
	texts  []string
	output outputOptions

	include  []string
	includes map[string]string // after validate

	merged bool
	gitlab gitlabOptions
	log    io.Writer
	client *gitlab.Client // with merged
}

func newLintCommand() *cobra.Command {
	o := &lintOptions{}
	cmd := &cobra.Command{
		Use:   "lint [FILE...]",
		Short: "Prove that a .gitlab-ci.yml promotes nothing before its approval gate",
		Long: `Prove that in a .gitlab-ci.yml no job that changes the cluster can run before
somebody has pressed the approval gate, that rollback can be reached from every
state, and that nothing is deployed by tag. What cannot be proved is a finding
as well. It sends nothing to GitLab. The default FILE is .gitlab-ci.yml.

It reads what the file includes too, as GitLab merges it: local files from the
repository, and the components release, guard, and preview of this version of
crossbill.
--include gives the text of any other file: a component, a remote file,
FILE@PROJECT:REF of another project, or a template of GitLab's. A file that is
not given is a finding.

--merged has GitLab itself read the file in --project: its errors are findings,
and what GitLab includes is checked as well. Inputs have their defaults there;
what they can do is checked in the file. It needs GITLAB_TOKEN, scope api.

Each finding is one line: file:line: message (rule). -o sarif is SARIF 2.1.0,
-o codequality is GitLab's Code Quality report.

Exit codes: 0 no finding, 1 findings, 2 no such file, or not a pipeline file.`,
		Example: `  # Check the file of this repository
  crossbill lint

  # Check another file, whose jobs have other names, in a program
  crossbill lint deploy.yml --promote-job promote --canary-job canary -o json

  # With a component of your own that the file includes
  crossbill lint --include gitlab.example.com/our-org/ci/notify@2.0.0=notify.yml

  # As GitLab itself merges the file
  crossbill lint --merged --gitlab-url https://gitlab.example.com --project infra/deploy

  # Show the findings in a merge request
  crossbill lint -o codequality > gl-code-quality-report.json`,
		Args: cobra.ArbitraryArgs,
		RunE: runs(o),
	}
	inSection(cmd.Flags(), gitlabSection, func(flags *pflag.FlagSet) {
		flags.StringArrayVar(&o.include, "include", nil, "text of a file that the pipeline file includes: ADDRESS=FILE; repeatable")
		flags.BoolVar(&o.merged, "merged", false, "also check the file as GitLab merges it with what it includes")
		flags.StringVar(&o.jobs.Gate, "promote-job", "promote_to_production", "job that promotes the release: the approval gate")
		flags.StringVar(&o.jobs.Canary, "canary-job", "deploy_canary", "job that starts the canary")
		flags.StringVar(&o.jobs.Verify, "verify-job", "verify_canary", "job that judges the canary")
		flags.StringVar(&o.jobs.Rollback, "rollback-job", "rollback", "prefix of the names of the rollback jobs")
	})
	// Until the next release these flags have their old names as well.
	earlier := map[string]string{"gate": "promote-job", "canary": "canary-job", "verify": "verify-job", "rollback": "rollback-job"}
	cmd.Flags().SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if renamed, ok := earlier[name]; ok {
			name = renamed
		}
		return pflag.NormalizedName(name)
	})
	o.gitlab.add(cmd, "api")
	o.output.add(cmd, "sarif", "codequality")
	return cmd
}

func (o *lintOptions) complete(cmd *cobra.Command, args []string) error {
	o.out, o.log, o.paths = cmd.OutOrStdout(), cmd.ErrOrStderr(), []string{".gitlab-ci.yml"}
	if len(args) > 0 {
		o.paths = args
	}
	return nil
}

func (o *lintOptions) validate() error {
	if err := o.output.validate(); err != nil {
		return err
	}
	var err error
	if o.includes, err = addresses(o.include); err != nil {
		return err
	}
	for _, path := range o.paths {
		data, err := os.ReadFile(path)
		if err != nil {
			return &usererr.Error{Field: "FILE", Problem: err.Error(), Fix: "give a .gitlab-ci.yml"}
		}
		file, err := pipelinefile.ParseIncluding(data, includes{repositoryOf(path), o.includes, buildVersion()}.find)
		if err != nil {
			return &usererr.Error{Field: path, Problem: err.Error(), Fix: "give a .gitlab-ci.yml"}
		}
		o.files, o.texts = append(o.files, file), append(o.texts, string(data))
	}
	if !o.merged {
		return nil
	}
	connection, err := o.gitlab.connection(o.log)
	if err != nil {
		return err
	}
	o.client, err = gitlab.Connect(connection)
	return err
}

// check gives the findings of one of the files.
func (o *lintOptions) check(ctx context.Context, i int) ([]pipelinefile.Finding, error) {
	written := pipelinefile.Check(o.files[i], o.jobs)
	if !o.merged {
		return written, nil
	}
	answer, err := o.client.Merge(ctx, o.texts[i])
	if err != nil {
		return nil, err
	}
	if !answer.Valid {
		for _, problem := range answer.Errors {
			written = append(written, pipelinefile.Finding{Rule: ruleRejected, Problem: "GitLab rejects the file: " + problem, Fix: "correct it"})
		}
		return written, nil
	}
	merged, err := pipelinefile.Parse([]byte(answer.YAML))
	if err != nil {
		return append(written, pipelinefile.Finding{Rule: pipelinefile.RuleNotUnderstood, Problem: "the merged file cannot be read: " + err.Error(), Fix: "check it in GitLab's pipeline editor"}), nil
	}
	return together(o.files[i], written, pipelinefile.Check(merged, o.jobs)), nil
}

// ruleRejected is the rule of GitLab's own errors.
const ruleRejected = "gitlab-accepts-the-file"

// ofInputs are rules that are about inputs, or about what stands in their places: in a merged file their defaults do.
var ofInputs = []string{pipelinefile.RuleInput, pipelinefile.RuleByDigest, pipelinefile.RuleOverridable, pipelinefile.RuleName, pipelinefile.RuleWorkflow}

// together are the findings of a file and of the same file merged. What the file says about jobs that it includes is left
// to the merged one; what inputs can do, to the file. A line is that of the job in the file, and missing for a job of an
// included one.
func together(file *pipelinefile.File, written, merged []pipelinefile.Finding) (all []pipelinefile.Finding) {
	includes := slices.ContainsFunc(written, func(f pipelinefile.Finding) bool { return f.Rule == pipelinefile.RuleIncluded })
	for _, f := range written {
		if !includes || slices.Contains(ofInputs, f.Rule) {
			all = append(all, f)
		}
	}
	for _, f := range merged {
		job := file.Job(f.Job)
		if slices.Contains(ofInputs, f.Rule) && (job != nil || f.Job == "") {
			continue
		}
		f.Line = 0
		if job != nil {
			f.File, f.Line = file.Place(job)
		}
		known := slices.ContainsFunc(all, func(other pipelinefile.Finding) bool { return other.Rule == f.Rule && other.Job == f.Job })
		if !known {
			all = append(all, f)
		}
	}
	return all
}

// lintFinding is a finding with its file.
type lintFinding struct {
	File string `json:"file"`
	pipelinefile.Finding
}

// message says what is wrong and what to do, without the place.
func (f lintFinding) message() string {
	text := f.Problem + "; " + f.Fix
	if f.Job != "" {
		text = f.Job + ": " + text
	}
	return text
}

// String is the form that editors and CI systems make a link of.
func (f lintFinding) String() string {
	where := f.File
	if f.Line > 0 {
		where += ":" + strconv.Itoa(f.Line)
	}
	return fmt.Sprintf("%s: %s (%s)", where, f.message(), f.Rule)
}

func (o *lintOptions) run(ctx context.Context) error {
	findings := []lintFinding{}
	clean := []string{}
	for i, path := range o.paths {
		found, err := o.check(ctx, i)
		if err != nil {
			return err
		}
		for _, f := range found {
			findings = append(findings, lintFinding{cmp.Or(f.File, path), f})
		}
		if len(found) == 0 {
			clean = append(clean, fmt.Sprintf("lint: %s: %s, no finding", path, counted(len(o.files[i].Jobs), "job")))
		}
	}
	v := view{
		data: findings,
		text: func(out io.Writer) error {
			for _, f := range findings {
				fmt.Fprintln(out, f)
			}
			for _, text := range clean {
				fmt.Fprintln(out, text)
			}
			return nil
		},
		more: map[string]func(io.Writer) error{
			"sarif":       func(out io.Writer) error { return printIndented(out, sarifOf(findings)) },
			"codequality": func(out io.Writer) error { return printIndented(out, codeQualityOf(findings)) },
		},
	}
	for _, f := range findings {
		v.names = append(v.names, "rule/"+f.Rule)
	}
	if err := o.output.print(o.out, v); err != nil || len(findings) == 0 {
		return err
	}
	return fmt.Errorf("%s: %s", strings.Join(o.paths, ", "), counted(len(findings), "finding"))
}

// counted is a number with its noun.
func counted(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// printIndented prints a document whose form is not ours: it gets no schemaVersion.
func printIndented(out io.Writer, value any) error {
	text, err := json.MarshalIndent(value, "", "  ")
	if err == nil {
		_, err = fmt.Fprintln(out, string(text))
	}
	return err
}

// lineOf is a finding's line, the first one for a finding about the whole file: both formats ask for a line.
func (f lintFinding) lineOf() int { return max(f.Line, 1) }

// uri is the finding's file as a relative reference.
func (f lintFinding) uri() string { return filepath.ToSlash(filepath.Clean(f.File)) }

// fingerprints are one for each finding. They do not change with the line, so that the same finding is known again.
func fingerprints(findings []lintFinding) (all []string) {
	seen := map[string]int{}
	for _, f := range findings {
		key := strings.Join([]string{f.uri(), f.Rule, f.Job, f.Keyword, f.Problem}, "\n")
		seen[key]++
		sum := sha256.Sum256([]byte(key + strconv.Itoa(seen[key])))
		all = append(all, fmt.Sprintf("%x", sum[:16]))
	}
	return all
}

// codeQualityIssue is an item of GitLab's Code Quality report.
type codeQualityIssue struct {
	Description string `json:"description"`
	CheckName   string `json:"check_name"`
	Fingerprint string `json:"fingerprint"`
	Severity    string `json:"severity"`
	Location    struct {
		Path  string `json:"path"`
		Lines struct {
			Begin int `json:"begin"`
		} `json:"lines"`
	} `json:"location"`
}

func codeQualityOf(findings []lintFinding) []codeQualityIssue {
	marks := fingerprints(findings)
	issues := make([]codeQualityIssue, len(findings))
	for i, f := range findings {
		issues[i] = codeQualityIssue{Description: f.message(), CheckName: f.Rule, Fingerprint: marks[i], Severity: "critical"}
		if f.Rule == pipelinefile.RuleNotUnderstood {
			issues[i].Severity = "major"
		}
		issues[i].Location.Path, issues[i].Location.Lines.Begin = f.uri(), f.lineOf()
	}
	return issues
}

// The part of SARIF 2.1.0 that findings need: a log with one run, its rules and its results.
type (
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
	sarifRun struct {
		Tool    sarifTool     `json:"tool"`
		Results []sarifResult `json:"results"`
	}
	sarifTool struct {
		Driver sarifDriver `json:"driver"`
	}
	sarifDriver struct {
		Name    string      `json:"name"`
		Version string      `json:"version"`
		Rules   []sarifRule `json:"rules"`
	}
	sarifRule struct {
		ID string `json:"id"`
	}
	sarifText struct {
		Text string `json:"text"`
	}
	sarifResult struct {
		RuleID       string            `json:"ruleId"`
		RuleIndex    int               `json:"ruleIndex"`
		Level        string            `json:"level"`
		Message      sarifText         `json:"message"`
		Locations    []sarifLocation   `json:"locations"`
		Fingerprints map[string]string `json:"partialFingerprints"`
	}
	sarifLocation struct {
		Physical struct {
			Artifact struct {
				URI string `json:"uri"`
			} `json:"artifactLocation"`
			Region struct {
				StartLine int `json:"startLine"`
			} `json:"region"`
		} `json:"physicalLocation"`
	}
)

func sarifOf(findings []lintFinding) sarifLog {
	run := sarifRun{Results: []sarifResult{}, Tool: sarifTool{sarifDriver{Name: "crossbill lint", Version: version, Rules: []sarifRule{}}}}
	marks := fingerprints(findings)
	for i, f := range findings {
		rules := &run.Tool.Driver.Rules
		at := slices.Index(*rules, sarifRule{f.Rule})
		if at < 0 {
			at = len(*rules)
			*rules = append(*rules, sarifRule{f.Rule})
		}
		result := sarifResult{
			RuleID: f.Rule, RuleIndex: at, Level: "error", Message: sarifText{f.message()},
			Locations: make([]sarifLocation, 1), Fingerprints: map[string]string{"crossbill/v1": marks[i]},
		}
		result.Locations[0].Physical.Artifact.URI = f.uri()
		result.Locations[0].Physical.Region.StartLine = f.lineOf()
		run.Results = append(run.Results, result)
	}
	return sarifLog{Schema: "https://json.schemastore.org/sarif-2.1.0.json", Version: "2.1.0", Runs: []sarifRun{run}}
}
