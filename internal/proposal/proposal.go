// Package proposal hands a release over by a commit: a file in the environment repository names the release of an app, and
// GitLab's pipeline starts from its push or merge.
//
// What it keeps:
//
//   - The file is read as it was meant or refused, with the line and the field. No value of it can be more than that value,
//     in the file, in a commit, or in the variables of a job.
//   - The same release is proposed once: the file is then left as it is, whatever a person has done to its comments.
//   - An older release takes the place of a newer one only with Again. Which one is newer says the order of the line.
package proposal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/our-org/crossbill/internal/environment"
	"github.com/our-org/crossbill/internal/gitops"
	"github.com/our-org/crossbill/internal/release"
	"github.com/our-org/crossbill/internal/usererr"
)

// Proposal is what the file of an app says.
type Proposal struct {
	release.Handoff
	// Again releases it although it has finished before, or although it is older than what primary runs.
	Again bool `json:"again,omitempty"`
	// Approve is the name of the release that may be promoted, as a person has written it in a commit of its own. It counts
	// for `crossbill run` only, and only as History.Approval says.
	Approve string `json:"approve,omitempty"`
	// ApprovedBy are the names of those who approve it, with commas, where one is not enough. Each counts as whoever has made the
	// commit that adds it.
	ApprovedBy string `json:"approvedBy,omitempty"`
}

// approvers are the names in ApprovedBy.
func (p *Proposal) approvers() []string {
	return strings.FieldsFunc(p.ApprovedBy, func(r rune) bool { return r == ',' || r == ' ' })
}

// MaxFile bounds the file of a proposal, in bytes.
const MaxFile = 64 << 10

const heading = "# Written by `crossbill propose`. The pipeline of this repository releases what it names.\n"

// Path is the file of an app in the environment repository. folder is gitops.releases.
func Path(folder, app string) (string, error) {
	name := path.Join(folder, app+".yaml")
	if !fs.ValidPath(name) || strings.Contains(folder, `\`) {
		return "", &usererr.Error{Field: "gitops.releases", Problem: fmt.Sprintf("%q is not a folder in the repository", folder), Fix: "give for example releases"}
	}
	return name, nil
}

// field is one of the file's.
type field struct {
	name  string
	value *string
}

func (p *Proposal) fields() []field {
	return []field{{"app", &p.App}, {"releaseId", &p.ID}, {"image", &p.Image}, {"bundle", &p.Bundle}, {"commit", &p.Commit}, {"sourceUrl", &p.SourceURL}}
}

// File is the text of the file.
func (p *Proposal) File() []byte {
	var text bytes.Buffer
	text.WriteString(heading)
	for _, f := range p.fields() {
		text.WriteString(line(f.name, *f.value))
	}
	if p.Again {
		text.WriteString("again: true\n")
	}
	text.WriteString(line("approve", p.Approve))
	text.WriteString(line("approvedBy", p.ApprovedBy))
	return text.Bytes()
}

// line is that of a field; "" when it has no value.
func line(name, value string) string {
	if value == "" {
		return ""
	}
	text, err := yaml.Marshal(value) // in quotes if it would be a number else
	if err != nil {
		panic(err) // plain text: cannot fail
	}
	return name + ": " + string(text)
}

// Parse reads a file. name is how errors call it; app is whose it has to be. Errors are *usererr.Error.
func Parse(name string, text []byte, app string) (*Proposal, error) {
	d := decoder{file: name, lines: map[string]int{}}
	p, err := d.proposal(text)
	if err != nil {
		return nil, err
	}
	if p.App != "" && p.App != app {
		return nil, d.wrong("app", fmt.Sprintf("it is %q, and this is the file of %q", p.App, app), "give each app a file of its name")
	}
	err = p.Check()
	if err == nil && p.Approve != "" {
		err = release.CheckID("approve", p.Approve)
	}
	if err != nil {
		return nil, d.located(err)
	}
	return p, nil
}

// decoder reads a file and knows the line of each of its fields.
type decoder struct {
	file  string
	lines map[string]int
}

func (d *decoder) wrong(field, problem, fix string) error {
	return d.wrongAt(d.lines[field], field, problem, fix)
}

func (d *decoder) wrongAt(line int, field, problem, fix string) error {
	at := d.file
	if line > 0 {
		at = fmt.Sprintf("%s:%d", at, line)
	}
	if field != "" {
		at += ": " + field
	}
	return &usererr.Error{Field: at, Problem: problem, Fix: fix}
}

// located is an error about a field, with where in the file it is.
func (d *decoder) located(err error) error {
	wrong, ok := errors.AsType[*usererr.Error](err)
	if !ok {
		return err
	}
	if wrong.Field == "image" && d.lines["bundle"] == 0 && d.lines["image"] == 0 {
		return d.wrong("image", "it is missing, and so is bundle", "name one of them, by digest")
	}
	if _, given := d.lines[wrong.Field]; !given {
		return d.wrong(wrong.Field, "it is missing", wrong.Fix)
	}
	return d.wrong(wrong.Field, wrong.Problem, wrong.Fix)
}

func (d *decoder) proposal(text []byte) (*Proposal, error) {
	root, err := d.root(text)
	if err != nil {
		return nil, err
	}
	p := &Proposal{}
	fields, names := map[string]*string{"again": nil, "approve": &p.Approve, "approvedBy": &p.ApprovedBy}, []string{}
	for _, f := range p.fields() {
		fields[f.name] = f.value
		names = append(names, f.name)
	}
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		into, known := fields[key.Value]
		switch {
		case key.Kind != yaml.ScalarNode || !known:
			return nil, d.wrongAt(key.Line, short(key), "there is no such field", "leave it out; the fields are "+strings.Join(names, ", ")+", again, approve, approvedBy")
		case d.lines[key.Value] > 0:
			return nil, d.wrongAt(key.Line, key.Value, fmt.Sprintf("line %d has it too", d.lines[key.Value]), "keep one")
		case value.Kind != yaml.ScalarNode || value.ShortTag() == "!!null" || value.Value == "":
			return nil, d.wrongAt(key.Line, key.Value, "it has no text", "give one, or leave the field out")
		}
		d.lines[key.Value] = key.Line
		if into != nil {
			*into = value.Value
			continue
		}
		if p.Again = value.Value == "true"; !p.Again && value.Value != "false" {
			return nil, d.wrong("again", fmt.Sprintf("%s is not true or false", short(value)), "give true, or leave it out")
		}
	}
	return p, nil
}

var yamlError = regexp.MustCompile(`^yaml: (?:line ([0-9]+): )?`)

// root is the mapping that the file is.
func (d *decoder) root(text []byte) (*yaml.Node, error) {
	if len(text) > MaxFile {
		return nil, d.wrong("", fmt.Sprintf("it has more than %d KiB", MaxFile>>10), "it is not the file of a proposal: correct or remove it")
	}
	reader := yaml.NewDecoder(bytes.NewReader(text))
	var document, second yaml.Node
	err := reader.Decode(&document)
	if err == nil {
		if more := reader.Decode(&second); more == nil {
			return nil, d.wrongAt(second.Line, "", "it has a second document", "keep one")
		} else if !errors.Is(more, io.EOF) {
			err = more
		}
	}
	switch {
	case errors.Is(err, io.EOF):
		return nil, d.wrong("", "it is empty", "name the release, or remove the file")
	case err != nil:
		line := 1
		if at := yamlError.FindStringSubmatch(err.Error()); at != nil && at[1] != "" {
			_, _ = fmt.Sscan(at[1], &line)
		}
		return nil, d.wrongAt(line, "", "it is not YAML: "+yamlError.ReplaceAllString(err.Error(), ""), "correct that line, or the one before it")
	}
	root := document.Content[0]
	if root.Kind != yaml.MappingNode {
		return nil, d.wrongAt(root.Line, "", "it has no fields", "give for example app: shop, one on each line")
	}
	return root, nil
}

// short is the text of a node in one line, for a message.
func short(node *yaml.Node) string {
	text := node.Value
	if node.Kind != yaml.ScalarNode {
		text = "…"
	}
	if runes := []rune(text); len(runes) > 40 {
		text = string(runes[:40]) + "…"
	}
	return fmt.Sprintf("%q", text)
}

// Outcome is what becomes of a proposal, by what the file says. At most one of them is set: without any, the file is
// written.
type Outcome struct {
	Same         bool   // the file names the release already
	SupersededBy string // the newer release that the file names
}

// Decide compares a proposal with the one in the file, nil where there is none.
func Decide(current, want *Proposal) Outcome {
	switch {
	case current == nil:
		return Outcome{}
	case current.ID == want.ID && current.Image == want.Image && current.Bundle == want.Bundle && current.Commit == want.Commit:
		return Outcome{Same: current.Again || !want.Again}
	case !want.Again && current.NewerThan(&want.Handoff):
		return Outcome{SupersededBy: current.ID}
	}
	return Outcome{}
}

// Edit writes a proposal into its file, if that is what becomes of it. A file that cannot be read is an error: nobody knows
// whether it names a newer release.
func Edit(files *environment.Tree, name string, want *Proposal) (Outcome, error) {
	var current *Proposal
	text, err := files.Read(name)
	if !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			current, err = Parse(name, text, want.App)
		}
		if err != nil {
			return Outcome{}, err
		}
	}
	came := Decide(current, want)
	if came != (Outcome{}) {
		return came, nil
	}
	return came, files.Write(name, want.File())
}

// saysWhich are files that say which others of their folder are applied.
var saysWhich = []string{"kustomization.yaml", "kustomization.yml", "Kustomization", "Chart.yaml", ".sourceignore"}

// CheckFolder refuses a file that a controller would take for a manifest, and then apply nothing: Flux reads all YAML of the
// folder that it applies and of those in it, Argo CD that of the folder itself, unless another file says which (Flux:
// fluxcd/pkg/kustomize v1.35, scanManifests). applied is gitops.path, controller gitops.controller; without one all is
// well. Errors are *usererr.Error.
func CheckFolder(files *environment.Tree, name, applied, controller string) error {
	dir, folder := path.Dir(name), path.Join(applied)
	inside := dir == folder || controller == gitops.Flux && (folder == "." || strings.HasPrefix(dir, folder+"/"))
	if controller == "" || !inside {
		return nil
	}
	for _, one := range saysWhich {
		if _, err := files.Read(path.Join(folder, one)); err == nil {
			return nil
		}
	}
	return &usererr.Error{
		Field: "gitops.releases", Problem: fmt.Sprintf("%s is in the folder that %s applies (gitops.path), which has no kustomization: it would be taken for a manifest", name, controller),
		Fix: "give a folder outside of it, or add a kustomization that names the manifests",
	}
}

// Subject is of the commit, and of a merge request: shop: release 3f9a1c2.
func (p *Proposal) Subject() string {
	subject := p.App + ": release " + p.Commit[:7]
	if p.Again {
		subject += " again"
	}
	return subject
}

// Message is of the commit.
func (p *Proposal) Message() environment.Message {
	what := "image " + p.Image
	if p.Bundle != "" {
		what = "bundle " + p.Bundle
	}
	body := "Release " + p.ID + " of\n" + what
	if p.SourceURL != "" {
		body += ",\nhanded over by " + p.SourceURL
	}
	return environment.Message{Subject: p.Subject(), Body: body + ".", Trailers: []environment.Trailer{
		{Key: "Release", Value: p.ID}, {Key: "Image", Value: p.Image}, {Key: "Bundle", Value: p.Bundle}, {Key: "Commit", Value: p.Commit}, {Key: "Source", Value: p.SourceURL},
	}}
}

// Branch is that of its merge request.
func (p *Proposal) Branch() string { return "crossbill/" + p.App + "/" + p.ID }

// Dotenv are the variables that `crossbill trigger --variables` starts a pipeline with, one a line, for GitLab's
// artifacts:reports:dotenv and for a shell to read. All of them are in it: one that is empty takes the place of what whoever
// started the pipeline may have set.
func (p *Proposal) Dotenv() string {
	again := ""
	if p.Again {
		again = "yes"
	}
	var text strings.Builder
	for _, v := range []struct{ name, value string }{
		{"APP", p.App}, {"RELEASE_ID", p.ID}, {"IMAGE", p.Image}, {"BUNDLE", p.Bundle}, {"COMMIT", p.Commit}, {"SOURCE_URL", p.SourceURL}, {"AGAIN", again},
	} {
		fmt.Fprintf(&text, "CROSSBILL_%s=%s\n", v.name, v.value)
	}
	return text.String()
}

// CheckRepository checks that what is released comes from a repository of a registry. Errors are *usererr.Error.
func (p *Proposal) CheckRepository(repository string) error {
	field, reference := "image", p.Image
	if p.Bundle != "" {
		field, reference = "bundle", p.Bundle
	}
	if from, _, _ := strings.Cut(reference, "@"); from != repository {
		return &usererr.Error{Field: field, Problem: fmt.Sprintf("it is from %s, and only %s is admitted", from, repository), Fix: "propose one from there"}
	}
	return nil
}
