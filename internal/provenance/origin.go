package provenance

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	slsa "github.com/in-toto/attestation/go/predicates/provenance/v1"
	intoto "github.com/in-toto/attestation/go/v1"
	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"google.golang.org/protobuf/encoding/protojson"
)

// predicate is what a statement of provenance says of a build.
type predicate struct{ *slsa.Provenance }

func predicateOf(s *intoto.Statement) (predicate, error) {
	text, err := protojson.Marshal(s.GetPredicate())
	if err != nil {
		return predicate{}, err
	}
	p := &slsa.Provenance{}
	err = protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(text, p)
	return predicate{p}, err
}

// parameter is a text in a build's parameters, "" where there is none. GitHub's attestations have the source in the
// section workflow (https://actions.github.io/buildtypes/workflow/v1), crossbill's in the section source.
func (p predicate) parameter(name string) string {
	for _, section := range []string{"workflow", "source"} {
		if text := p.GetBuildDefinition().GetExternalParameters().GetFields()[section].GetStructValue().GetFields()[name].GetStringValue(); text != "" {
			return text
		}
	}
	return ""
}

// runner is where a GitHub workflow ran, github-hosted or self-hosted; "" where the statement does not say it.
func (p predicate) runner() string {
	return p.GetBuildDefinition().GetInternalParameters().GetFields()["github"].GetStructValue().GetFields()["runner_environment"].GetStringValue()
}

// origin reads the source and the builder. They are "" where it does not name them. Both formats name the source in the
// parameters and, with its commit, in the first dependency that has one: an error when these are not the same.
func (p predicate) origin() (*Origin, error) {
	o := &Origin{
		Builder:    p.GetRunDetails().GetBuilder().GetId(),
		Invocation: p.GetRunDetails().GetMetadata().GetInvocationId(),
		Ref:        p.parameter("ref"),
	}
	if at := p.GetRunDetails().GetMetadata().GetFinishedOn(); at.IsValid() {
		o.FinishedAt = at.AsTime()
	}
	for _, d := range p.GetBuildDefinition().GetResolvedDependencies() {
		commit := d.GetDigest()["gitCommit"]
		if commit == "" {
			continue
		}
		repository, ref, _ := strings.Cut(strings.TrimPrefix(d.GetUri(), "git+"), "@")
		o.Repository, o.Commit = strings.TrimSuffix(repository, ".git"), commit
		if ref != "" && o.Ref != "" && ref != o.Ref {
			return o, fmt.Errorf("its parameters name %s, its dependency %s", o.Ref, ref)
		}
		o.Ref = cmp.Or(o.Ref, ref)
		break
	}
	if named := strings.TrimSuffix(p.parameter("repository"), ".git"); named != "" && o.Repository != "" && named != o.Repository {
		return o, fmt.Errorf("its parameters name %s, its dependency %s", named, o.Repository)
	}
	return o, nil
}

// gitHubRunner is the builder that GitHub's attestations named until 2024, and that npm's still do.
const gitHubRunner = "https://github.com/actions/runner/"

// certified compares what a statement says with what the signer's certificate does
// (https://github.com/sigstore/fulcio, oid-info.md): the workflow writes the statement, Fulcio the
// certificate, from the identity token. What the statement leaves out is taken from it. A certificate of a person has
// none of these.
func certified(o *Origin, p predicate, c *certificate.Summary) error {
	for _, fact := range []struct {
		what string
		said *string
		sure string
	}{
		{"repository", &o.Repository, c.SourceRepositoryURI},
		{"commit", &o.Commit, c.SourceRepositoryDigest},
		{"ref", &o.Ref, cmp.Or(c.SourceRepositoryRef, c.GithubWorkflowRef)},
		{"runner", new(p.runner()), c.RunnerEnvironment},
	} {
		if *fact.said = cmp.Or(*fact.said, fact.sure); fact.sure != "" && *fact.said != fact.sure {
			return fmt.Errorf("it names the %s %q, and the signer's certificate %q", fact.what, *fact.said, fact.sure)
		}
	}
	if c.BuildSignerURI != "" {
		switch o.Builder = cmp.Or(o.Builder, c.BuildSignerURI); o.Builder {
		case c.BuildSignerURI, c.BuildConfigURI: // the workflow that signs; the one that called it
		case gitHubRunner + c.RunnerEnvironment:
		default:
			return fmt.Errorf("it names the builder %q, and the signer's certificate %q", o.Builder, c.BuildSignerURI)
		}
	}
	if file, _, _ := strings.Cut(c.BuildConfigURI, "@"); file != "" && p.parameter("path") != "" && file != o.Repository+"/"+p.parameter("path") {
		return fmt.Errorf("it names the workflow %q, and the signer's certificate %q", p.parameter("path"), file)
	}
	if c.RunInvocationURI != "" && o.Invocation != "" && runOf(o.Invocation) != runOf(c.RunInvocationURI) {
		return fmt.Errorf("it names the run %q, and the signer's certificate %q", o.Invocation, c.RunInvocationURI)
	}
	o.Invocation = cmp.Or(c.RunInvocationURI, o.Invocation)
	// A run of pull_request_target has the ref and commit of the branch that the pull request is for, whatever it builds.
	if strings.HasPrefix(c.BuildTrigger, "pull_request") && !strings.HasPrefix(o.Ref, "refs/pull/") {
		return errors.New("the signer's certificate says that a pull request started the build (" + c.BuildTrigger + ")")
	}
	return nil
}

// runOf is the address of a run without its attempt.
func runOf(invocation string) string {
	run, _, _ := strings.Cut(invocation, "/attempts/")
	return run
}
