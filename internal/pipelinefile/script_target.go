package pipelinefile

import (
	"fmt"
	"path"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"sync"

	shell "mvdan.cc/sh/v3/syntax"
)

// targetUse is a place where whoever starts the pipeline chooses where a command acts: the cluster, the namespace, the
// Prometheus that judges, or crossbill's configuration.
type targetUse struct {
	Line     int
	Command  string
	Variable string // or
	Input    string // or
	Problem  string
}

// targets are options that choose where a command acts, and what judges.
var targets = []string{
	"-n", "-s", "--context", "--kube-context", "--namespace", "--kubeconfig", "--kubeconfig-file", "--config", "--config-file", "--cluster", "--user", "--server", "--as", "--manifests", "--manifests-dir", "--manifests-bundle", "--trust",
	"--prometheus", "--prometheus-service", "--kube-apiserver",
}

// targetEnvironment are variables that programs read for the same.
var targetEnvironment = []string{"KUBECONFIG", "KUBE_CONTEXT", "HELM_KUBECONTEXT", "HELM_KUBEAPISERVER", "HELM_NAMESPACE", "DOCKER_HOST", "DOCKER_CONTEXT", "_EXPERIMENTAL_DAGGER_RUNNER_HOST"}

// target reports what chooses a value that should be fixed by the file.
func (a *analyzer) target(i invocation, v value) {
	for _, p := range v {
		use := targetUse{}
		switch {
		case p.kind == pieceVariable && !fixes(p.text):
			use.Variable = p.text
		case p.kind == pieceInput && !a.isClosed(p):
			use.Input = a.placeholders.restore(p.text)
		case p.kind == pieceOutput && p.from != "":
			use.Problem = "the output of a command that depends on " + p.from
		case p.kind == pieceAny:
			use.Problem = "a value that is not known"
		default:
			continue
		}
		a.addTarget(i, use)
	}
}

func (a *analyzer) addTarget(i invocation, use targetUse) {
	use.Line = a.nodeLine(i.node)
	text := a.nodeText(i.node)
	if a.site != nil {
		text = a.site.text
	}
	use.Command = shorten(a.placeholders.restore(text))
	known := slices.ContainsFunc(a.found.uses, func(u variableUse) bool { return u.Line == use.Line && u.Variable == use.Variable })
	if !known && !slices.Contains(a.found.targets, use) {
		a.found.targets = append(a.found.targets, use)
	}
}

// isClosed says whether all values of an input are listed: by its options, or by its pattern.
func (a *analyzer) isClosed(p piece) bool {
	_, indexes := a.placeholders.split(p.text)
	if len(indexes) != 1 {
		return false
	}
	input := a.placeholders.inputs[indexes[0]]
	return input.declared && !strings.Contains(input.functions, "expand_vars") && input.input.listed()
}

// listed says whether all values of an input are listed.
func (i Input) listed() bool {
	if i.closed || i.Type == "boolean" {
		return true
	}
	parsed, err := syntax.Parse(i.Regex, syntax.Perl)
	if err != nil || i.Regex == "" || !anchored(parsed, true) || !anchored(parsed, false) {
		return false
	}
	return matched(parsed) <= mostListed
}

// mostListed is how many values a pattern may have to count as a list.
const mostListed = 64

// matched is how many texts a pattern matches at most; more than mostListed when they are too many.
func matched(re *syntax.Regexp) int {
	count := 1
	switch re.Op {
	case syntax.OpCharClass:
		count = 0
		for n := 0; n+1 < len(re.Rune); n += 2 {
			count = min(count+int(re.Rune[n+1]-re.Rune[n])+1, mostListed+1)
		}
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL, syntax.OpStar, syntax.OpPlus:
		return mostListed + 1
	case syntax.OpRepeat:
		one := matched(re.Sub[0])
		if re.Max < 0 || one > 1 && re.Max > 6 {
			return mostListed + 1
		}
		for range re.Max {
			count = min(count*max(one, 1)+1, mostListed+1)
		}
	case syntax.OpQuest:
		return matched(re.Sub[0]) + 1
	case syntax.OpCapture, syntax.OpConcat:
		for _, sub := range re.Sub {
			count = min(count*matched(sub), mostListed+1)
		}
	case syntax.OpAlternate:
		count = 0
		for _, sub := range re.Sub {
			count = min(count+matched(sub), mostListed+1)
		}
	}
	return count
}

// anchored says whether each match of a pattern begins, or ends, where the text does.
func anchored(re *syntax.Regexp, begin bool) bool {
	switch re.Op {
	case syntax.OpBeginText:
		return begin
	case syntax.OpEndText:
		return !begin
	case syntax.OpCapture:
		return anchored(re.Sub[0], begin)
	case syntax.OpConcat:
		at := 0
		if !begin {
			at = len(re.Sub) - 1
		}
		return len(re.Sub) > 0 && anchored(re.Sub[at], begin)
	case syntax.OpAlternate:
		return !slices.ContainsFunc(re.Sub, func(sub *syntax.Regexp) bool { return !anchored(sub, begin) })
	}
	return false
}

// fixedHosts are the answers of hostIsFixed that are known: the variants of a call have few patterns between them.
var fixedHosts sync.Map

// hostIsFixed says whether the pattern of an image leaves no choice before the first slash, where the registry is.
func hostIsFixed(pattern string) (fixed bool) {
	if known, ok := fixedHosts.Load(pattern); ok {
		return known.(bool)
	}
	if parsed, err := syntax.Parse(pattern, syntax.Perl); err == nil && anchored(parsed, true) {
		fixed, _ = beforeSlash(parsed)
	}
	fixedHosts.Store(pattern, fixed)
	return fixed
}

// beforeSlash says whether what a pattern matches before a slash is listed, and whether there certainly is one.
func beforeSlash(re *syntax.Regexp) (fixed, slash bool) {
	switch re.Op {
	case syntax.OpLiteral:
		return true, slices.Contains(re.Rune, '/')
	case syntax.OpCapture:
		return beforeSlash(re.Sub[0])
	case syntax.OpConcat:
		for _, sub := range re.Sub {
			if fixed, slash = beforeSlash(sub); !fixed || slash {
				return fixed, slash
			}
		}
		return true, false
	case syntax.OpAlternate:
		slash = true
		for _, sub := range re.Sub {
			fixed, has := beforeSlash(sub)
			if !fixed {
				return false, false
			}
			slash = slash && has
		}
		return true, slash
	case syntax.OpQuest:
		fixed, _ = beforeSlash(re.Sub[0])
		return fixed, false
	}
	return matched(re) <= 8, false
}

// foreign says which input chooses the registry of an image, "" when none does.
func (a *analyzer) foreign(v value) string {
	if len(v) == 0 || v[0].kind != pieceInput {
		return ""
	}
	_, indexes := a.placeholders.split(v[0].text)
	if len(indexes) != 1 {
		return ""
	}
	input := a.placeholders.inputs[indexes[0]]
	if !input.declared || input.input.closed || hostIsFixed(input.input.Regex) {
		return ""
	}
	return input.name
}

// fixes says whether a variable may choose where a command acts: GitLab or its agent sets it, and not to what whoever
// starts the pipeline wrote.
func fixes(name string) bool {
	if name == "KUBECONFIG" || name == "HOME" || name == "PWD" || isNumber(name) {
		return true
	}
	return slices.Contains(gitlabVariables, name) && !chosenNames.MatchString(name)
}

// chosenNames are variables that GitLab sets to names of branches, tags and persons, and to what they wrote.
var chosenNames = regexp.MustCompile(`^(CI_COMMIT_.*|CI_MERGE_REQUEST_.*|CI_EXTERNAL_PULL_REQUEST_.*|CI_OPEN_MERGE_REQUESTS|CI_BUILD_REF.*|CI_PIPELINE_NAME|CI_PIPELINE_SOURCE|CI_RELEASE_DESCRIPTION|CI_PROJECT_DESCRIPTION|GITLAB_USER_.*|CI_RUNNER_TAGS|CI_DEBUG_.*)$`)

// chooser is what a part of a script depends on that whoever starts the pipeline chooses, "" when it is nothing.
func (a *analyzer) chooser(node shell.Node, s *shellState) string {
	found := ""
	look := func(v value) {
		for _, p := range v {
			switch {
			case found != "":
			case p.kind == pieceVariable && !fixes(p.text):
				found = "$" + p.text
			case p.kind == pieceInput && !a.isClosed(p):
				found = a.placeholders.restore(p.text)
			case p.kind == pieceOutput && p.from != "":
				found = p.from
			}
		}
	}
	shell.Walk(node, func(node shell.Node) bool {
		switch n := node.(type) {
		case *shell.ParamExp:
			if n.Excl && n.Param != nil {
				found = "${!" + n.Param.Value + "}"
			} else if n.Param != nil && !n.Length && n.Param.Value != "@" && n.Param.Value != "*" {
				for _, v := range a.values(n.Param.Value, n, s) {
					look(v)
				}
			}
		case *shell.Lit:
			a.lookAtInputs(n.Value, look)
		case *shell.SglQuoted:
			a.lookAtInputs(n.Value, look)
		case *shell.CallExpr:
			if name := printsEnvironment(n); name != "" && found == "" {
				found = a.printedVariable(n, name, s)
			}
		}
		return found == ""
	})
	return found
}

func (a *analyzer) lookAtInputs(text string, look func(value)) {
	if a.placeholders.in(text) {
		_, indexes := a.placeholders.split(text)
		for _, index := range indexes {
			look(value{{kind: pieceInput, text: a.placeholders.token(index)}})
		}
	}
}

// printsEnvironment is the name of a program that prints values of variables that no expansion shows.
func printsEnvironment(call *shell.CallExpr) string {
	if len(call.Args) == 0 {
		return ""
	}
	if name := call.Args[0].Lit(); name == "printenv" || name == "envsubst" {
		return name
	}
	return ""
}

// printedVariable is a variable that printenv or envsubst prints and that the script does not assign.
func (a *analyzer) printedVariable(call *shell.CallExpr, name string, s *shellState) string {
	names := []string{}
	for _, arg := range call.Args[1:] {
		var all strings.Builder
		shell.Walk(arg, func(node shell.Node) bool {
			switch n := node.(type) {
			case *shell.Lit:
				all.WriteString(n.Value)
			case *shell.SglQuoted:
				all.WriteString(n.Value)
			}
			return true
		})
		names = append(names, identifiers.FindAllString(all.String(), -1)...)
	}
	if len(names) == 0 {
		return "any variable (" + name + ")"
	}
	for _, name := range names {
		for _, v := range s.lookup(name) {
			for _, p := range v {
				if p.kind == pieceVariable && !fixes(p.text) {
					return "$" + p.text
				}
			}
		}
	}
	return ""
}

// targetsOf reports what chooses where a command that changes something acts.
func (a *analyzer) targetsOf(i invocation, s *shellState) {
	name, _ := i.args[0].literal()
	name = path.Base(name)
	for option, pieces := range byOption(i.args) {
		if !slices.Contains(targets, option) || name == "dagger" && option == "-n" || a.manifestsOfBundle(i, option, pieces) {
			continue
		}
		a.target(i, pieces)
		a.chosenFile(i, pieces, s)
	}
	for variable, values := range s.vars {
		if slices.Contains(targetEnvironment, variable) || name == "crossbill" && strings.HasPrefix(variable, "CROSSBILL_") && !trusted(variable) && !slices.Contains(proposedVariables[1:], variable) {
			for _, v := range values {
				if a.manifestsOfBundle(i, variable, v) {
					continue
				}
				a.target(i, v)
				a.chosenFile(i, v, s)
			}
		}
	}
	a.chosenFile(i, value{{kind: pieceVariable, text: "KUBECONFIG"}}, s)
	a.chosenFile(i, value{{kind: pieceVariable, text: "HOME"}, {kind: pieceText, text: "/.kube/config"}}, s)
	if name == "crossbill" || name == "dagger" {
		a.chosenFile(i, text("crossbill.yaml"), s)
		a.chosenFile(i, text("crossbill.yml"), s)
	}
}

// manifestsOfBundle says whether the manifests are a bundle, and checks that it is one of the file's own registry, by
// digest: whoever starts the pipeline may choose that as they choose the image, since the configuration beside the file
// says what a bundle may hold.
func (a *analyzer) manifestsOfBundle(i invocation, option string, v value) bool {
	bundle, prefixed := bundleReference(v)
	if option != "--manifests-bundle" && (!prefixed || option != "--manifests" && option != "CROSSBILL_MANIFESTS") {
		return false
	}
	if slices.ContainsFunc(bundle, func(p piece) bool { return p.kind != pieceText && p.kind != pieceInput }) {
		return false
	}
	a.image(i, bundle)
	return true
}

// bundleReference is a reference to a bundle without oci://, and whether it had that.
func bundleReference(v value) (value, bool) {
	if len(v) == 0 || v[0].kind != pieceText || !strings.HasPrefix(v[0].text, "oci://") {
		return v, false
	}
	return append(text(strings.TrimPrefix(v[0].text, "oci://")), v[1:]...), true
}

// chosenFile reports a file whose content the script has made of a variable.
func (a *analyzer) chosenFile(i invocation, v value, s *shellState) {
	if why := s.chosen[a.fileKey(v)]; why != "" {
		a.addTarget(i, targetUse{Problem: fmt.Sprintf("the file %s, which is made of %s", a.fileKey(v), why)})
	}
}

// fileKey is a file's name as the script gives it.
func (a *analyzer) fileKey(v value) string {
	name := strings.TrimPrefix(a.describe(v), "file:")
	if name == "" {
		return ""
	}
	return strings.Replace(path.Clean(name), "$HOME", "~", 1)
}

// chooses notes which files a statement makes of what whoever starts the pipeline chooses.
func (a *analyzer) chooses(target value, s *shellState) {
	key := a.fileKey(target)
	if key == "" || a.statementNow == nil {
		return
	}
	why := a.chooser(a.statementNow, s)
	if why == "" && a.inputNow != nil {
		why = a.chooser(a.inputNow, s)
	}
	delete(s.chosen, key)
	if why != "" {
		s.chosen[key] = why
	}
}

// setsUpTarget reports what chooses the cluster in a command that prepares others.
func (a *analyzer) setsUpTarget(i invocation) {
	name, _ := i.args[0].literal()
	words := literals(i.args[1:])
	has := func(wanted ...string) bool {
		return !slices.ContainsFunc(wanted, func(w string) bool { return !slices.Contains(words, w) })
	}
	sets := false
	switch path.Base(name) {
	case "kubectl", "oc":
		sets = has("config") && slices.ContainsFunc([]string{"use-context", "set-context", "set-cluster", "set", "rename-context"}, func(w string) bool { return has(w) }) || has("project")
	case "aws":
		sets = has("eks", "update-kubeconfig")
	case "gcloud":
		sets = has("get-credentials") || has("config", "set")
	case "az":
		sets = has("aks", "get-credentials") || has("account", "set")
	}
	if sets {
		for _, arg := range i.args[1:] {
			a.target(i, arg.pieces)
		}
	}
}

// gitlabVariables are the variables that GitLab and its runner set, of the reference of predefined variables. Others
// with names like these are a project's own, or a trigger's.
var gitlabVariables = strings.Fields(`CI
	CI_API_V4_URL CI_API_GRAPHQL_URL CI_BUILDS_DIR CI_COMMIT_AUTHOR CI_COMMIT_BEFORE_SHA CI_COMMIT_BRANCH CI_COMMIT_DESCRIPTION CI_COMMIT_MESSAGE CI_COMMIT_REF_NAME CI_COMMIT_REF_PROTECTED CI_COMMIT_REF_SLUG
	CI_COMMIT_SHA CI_COMMIT_SHORT_SHA CI_COMMIT_TAG CI_COMMIT_TAG_MESSAGE CI_COMMIT_TIMESTAMP CI_COMMIT_TITLE CI_CONCURRENT_ID CI_CONCURRENT_PROJECT_ID CI_CONFIG_PATH CI_DEBUG_TRACE CI_DEBUG_SERVICES CI_DEFAULT_BRANCH CI_DEFAULT_BRANCH_SLUG
	CI_DEPENDENCY_PROXY_DIRECT_GROUP_IMAGE_PREFIX CI_DEPENDENCY_PROXY_GROUP_IMAGE_PREFIX CI_DEPENDENCY_PROXY_PASSWORD CI_DEPENDENCY_PROXY_SERVER CI_DEPENDENCY_PROXY_USER CI_DEPLOY_FREEZE CI_DEPLOY_PASSWORD CI_DEPLOY_USER CI_DISPOSABLE_ENVIRONMENT
	CI_ENVIRONMENT_ID CI_ENVIRONMENT_NAME CI_ENVIRONMENT_SLUG CI_ENVIRONMENT_URL CI_ENVIRONMENT_ACTION CI_ENVIRONMENT_TIER CI_GITLAB_FIPS_MODE CI_HAS_OPEN_REQUIREMENTS
	CI_JOB_GROUP_NAME CI_JOB_ID CI_JOB_IMAGE CI_JOB_MANUAL CI_JOB_NAME CI_JOB_NAME_SLUG CI_JOB_STAGE CI_JOB_STATUS CI_JOB_TIMEOUT CI_JOB_TOKEN CI_JOB_URL CI_JOB_STARTED_AT CI_KUBERNETES_ACTIVE CI_NODE_INDEX CI_NODE_TOTAL CI_OPEN_MERGE_REQUESTS
	CI_PAGES_DOMAIN CI_PAGES_HOSTNAME CI_PAGES_URL CI_PIPELINE_ID CI_PIPELINE_IID CI_PIPELINE_SOURCE CI_PIPELINE_TRIGGERED CI_PIPELINE_URL CI_PIPELINE_CREATED_AT CI_PIPELINE_NAME CI_PIPELINE_SCHEDULE_DESCRIPTION
	CI_PROJECT_DIR CI_PROJECT_ID CI_PROJECT_NAME CI_PROJECT_NAMESPACE CI_PROJECT_NAMESPACE_ID CI_PROJECT_NAMESPACE_SLUG CI_PROJECT_PATH_SLUG CI_PROJECT_PATH CI_PROJECT_REPOSITORY_LANGUAGES CI_PROJECT_ROOT_NAMESPACE CI_PROJECT_TITLE CI_PROJECT_DESCRIPTION
	CI_PROJECT_TOPICS CI_PROJECT_URL CI_PROJECT_VISIBILITY CI_PROJECT_CLASSIFICATION_LABEL CI_REGISTRY CI_REGISTRY_IMAGE CI_REGISTRY_PASSWORD CI_REGISTRY_USER CI_RELEASE_DESCRIPTION CI_REPOSITORY_URL
	CI_RUNNER_DESCRIPTION CI_RUNNER_EXECUTABLE_ARCH CI_RUNNER_ID CI_RUNNER_REVISION CI_RUNNER_SHORT_TOKEN CI_RUNNER_TAGS CI_RUNNER_VERSION
	CI_SERVER CI_SERVER_FQDN CI_SERVER_HOST CI_SERVER_NAME CI_SERVER_PORT CI_SERVER_PROTOCOL CI_SERVER_SHELL_SSH_HOST CI_SERVER_SHELL_SSH_PORT CI_SERVER_REVISION CI_SERVER_TLS_CA_FILE CI_SERVER_TLS_CERT_FILE CI_SERVER_TLS_KEY_FILE CI_SERVER_URL
	CI_SERVER_VERSION CI_SERVER_VERSION_MAJOR CI_SERVER_VERSION_MINOR CI_SERVER_VERSION_PATCH CI_SHARED_ENVIRONMENT CI_TEMPLATE_REGISTRY_HOST CI_TRIGGER_SHORT_TOKEN CI_UPSTREAM_PIPELINE_ID CI_UPSTREAM_PROJECT_ID CI_UPSTREAM_JOB_ID
	GITLAB_CI GITLAB_FEATURES GITLAB_USER_EMAIL GITLAB_USER_ID GITLAB_USER_LOGIN GITLAB_USER_NAME GITLAB_ENV GITLAB_TOKEN
	CI_MERGE_REQUEST_APPROVED CI_MERGE_REQUEST_ASSIGNEES CI_MERGE_REQUEST_DIFF_BASE_SHA CI_MERGE_REQUEST_DIFF_ID CI_MERGE_REQUEST_EVENT_TYPE CI_MERGE_REQUEST_DESCRIPTION CI_MERGE_REQUEST_DRAFT CI_MERGE_REQUEST_ID CI_MERGE_REQUEST_IID CI_MERGE_REQUEST_LABELS
	CI_MERGE_REQUEST_MILESTONE CI_MERGE_REQUEST_PROJECT_ID CI_MERGE_REQUEST_PROJECT_PATH CI_MERGE_REQUEST_PROJECT_URL CI_MERGE_REQUEST_REF_PATH CI_MERGE_REQUEST_SOURCE_BRANCH_NAME CI_MERGE_REQUEST_SOURCE_BRANCH_SHA CI_MERGE_REQUEST_SOURCE_PROJECT_ID
	CI_MERGE_REQUEST_SOURCE_PROJECT_PATH CI_MERGE_REQUEST_TARGET_BRANCH_NAME CI_MERGE_REQUEST_TARGET_BRANCH_SHA CI_MERGE_REQUEST_TITLE`)
