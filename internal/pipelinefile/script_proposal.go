package pipelinefile

import (
	"regexp"
	"slices"
	"strings"

	"mvdan.cc/sh/v3/syntax"

	"github.com/our-org/crossbill/internal/release"
)

// readingProposal is the command that reads the release which the environment repository names.
const readingProposal = "crossbill proposal"

// proposedVariables are those that it prints with -o dotenv. Crossbill itself reads only the first of them.
var proposedVariables = []string{"CROSSBILL_APP", "CROSSBILL_RELEASE_ID", "CROSSBILL_IMAGE", "CROSSBILL_BUNDLE", "CROSSBILL_COMMIT", "CROSSBILL_SOURCE_URL", "CROSSBILL_AGAIN"}

// readsProposal notes the file that `crossbill proposal --app … --repository … -o dotenv > FILE` writes: for the shell that
// reads it next, it has seven values that are known to be harmless. It has to be a statement of its own, of the script
// itself, whose failure ends the script: else the file may have another text.
func (a *analyzer) readsProposal(words []string, s *shellState) {
	app, repository := "", ""
	dotenv := false
	for n := 0; n < len(words); n++ {
		option, text, assigned := strings.Cut(words[n], "=")
		if !strings.HasPrefix(option, "-") || !assigned && n+1 == len(words) {
			return // another file than the app's
		}
		if !assigned {
			n++
			text = words[n]
		}
		if strings.Contains(text, unknownWord) || text == unknownList {
			return
		}
		switch option {
		case "--app":
			app = text
		case "--repository":
			repository = text
		case "-o", "--output":
			dotenv = text == "dotenv"
		default:
			return
		}
	}
	if file := a.ownOutput(s); file != "" && dotenv && release.AppPattern.MatchString(app) && strings.Contains(repository, "/") {
		a.readsNow, s.trusted[file] = a.statementNow, readingProposal+" "+app+" "+repository
	}
}

// ownOutput is the file that the statement writes its output to; "" when there is not exactly one, or when the script
// goes on although the statement fails.
func (a *analyzer) ownOutput(s *shellState) string {
	statement := a.statementNow
	if !slices.Contains(a.statementsOfScript, statement) || statement.Negated || len(statement.Redirs) != 1 || strings.Contains(a.source, "+e") || strings.Contains(a.source, "+o") {
		return ""
	}
	redirect := statement.Redirs[0]
	if _, simple := statement.Cmd.(*syntax.CallExpr); !simple || redirect.Op != syntax.RdrOut || redirect.N != nil {
		return ""
	}
	name := redirect.Word.Lit()
	if files := a.folders(text(name), s); name != "" && len(files) == 1 && files[0] != unknownFolder {
		return files[0]
	}
	return ""
}

// sourcesProposal executes the file of a proposal, and says whether it is one: which the statement before has written.
func (a *analyzer) sourcesProposal(i invocation, s *shellState) bool {
	at := slices.Index(a.statementsOfScript, a.statementNow)
	if len(i.args) != 2 || at < 1 || a.statementsOfScript[at-1] != a.readsNow {
		return false
	}
	name, ok := i.args[1].literal()
	files := a.folders(i.args[1].pieces, s)
	if !ok || !strings.Contains(name, "/") || len(files) != 1 { // without a slash it is searched for in PATH
		return false
	}
	what, ok := strings.CutPrefix(s.trusted[files[0]], readingProposal+" ")
	if !ok {
		return false
	}
	a.found.proposed = true
	app, repository, _ := strings.Cut(what, " ")
	optional := func(pattern string) Input { return Input{Regex: "^(" + strings.Trim(pattern, "^$") + ")?$"} }
	reference := optional(regexp.QuoteMeta(repository) + "@sha256:[0-9a-f]{64}")
	for n, input := range []Input{
		{}, {Regex: release.IDPattern.String()}, reference, reference, {Regex: release.CommitPattern.String()}, optional(release.SourceURLPattern.String()),
		{Options: []string{"", "yes"}, closed: true},
	} {
		values := []value{text(app)}
		if n > 0 {
			values = []value{a.proposed(proposedVariables[n], input)}
		}
		a.assign(s, proposedVariables[n], values)
	}
	return true
}

// proposed is a value of which the same is known as of an input.
func (a *analyzer) proposed(variable string, input Input) value {
	written := "$" + variable
	index := slices.IndexFunc(a.placeholders.inputs, func(p placeholder) bool { return p.written == written && p.input.Regex == input.Regex })
	if index < 0 {
		index = len(a.placeholders.inputs)
		a.placeholders.inputs = append(a.placeholders.inputs, placeholder{name: variable, written: written, input: input, declared: true})
	}
	return value{{kind: pieceInput, text: a.placeholders.token(index)}}
}
