package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
)

// function is one function of the module as `dagger functions` shows it, read from its source.
type function struct {
	doc       string
	pragmas   map[string]string
	arguments map[string]argument // by flag
}

type argument struct {
	doc, kind string
	pragmas   map[string]string
}

func (a argument) required() bool {
	return !slices.ContainsFunc([]string{"optional", "default", "defaultPath"}, func(p string) bool { _, ok := a.pragmas[p]; return ok })
}

// pragma is Dagger's own expression (cmd/codegen/generator/go/templates/modules.go, v0.21.8). It is
// not anchored to the start of a line: prose with a plus sign can be taken for one.
var pragma = regexp.MustCompile(`[ \t]*\+[ \t]*(\S+?)(?:=[ \t]*(.*)|(?:\r?\n|$))`)

func pragmas(comment string) (string, map[string]string) {
	found := map[string]string{}
	for _, match := range pragma.FindAllStringSubmatch(comment, -1) {
		found[match[1]] = match[2]
	}
	return strings.TrimSpace(pragma.ReplaceAllString(comment, "")), found
}

// kebab is the command line's spelling of a Go name.
func kebab(name string) string {
	var out strings.Builder
	for i, r := range name {
		if unicode.IsUpper(r) && i > 0 {
			out.WriteByte('-')
		}
		out.WriteRune(unicode.ToLower(r))
	}
	return out.String()
}

// api reads the module's functions; the constructor is "".
func api(t *testing.T) map[string]function {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	functions := map[string]function{}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") || name == "dagger.gen.go" {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		comments := map[int]string{} // by the position where they end
		for _, group := range file.Comments {
			comments[int(group.End())] = group.Text()
		}
		for _, declaration := range file.Decls {
			f, ok := declaration.(*ast.FuncDecl)
			if !ok || !f.Name.IsExported() || (f.Recv == nil && f.Name.Name != "New") {
				continue
			}
			text, found := pragmas(f.Doc.Text())
			made := function{doc: text, pragmas: found, arguments: map[string]argument{}}
			for _, field := range f.Type.Params.List {
				if len(field.Names) != 1 {
					t.Fatalf("%s: one argument a line", f.Name)
				}
				if field.Names[0].Name == "ctx" {
					continue
				}
				text, found := pragmas(comments[lastCommentEnd(file, field.Pos())])
				made.arguments[kebab(field.Names[0].Name)] = argument{doc: text, kind: fmt.Sprint(kind(field.Type)), pragmas: found}
			}
			key := kebab(f.Name.Name)
			if f.Recv == nil {
				key = ""
			}
			functions[key] = made
		}
	}
	return functions
}

// lastCommentEnd is the end of the comment right above a position.
func lastCommentEnd(file *ast.File, at token.Pos) int {
	end := 0
	for _, group := range file.Comments {
		if group.End() < at && at-group.End() <= 3 { // a line end and a tab
			end = int(group.End())
		}
	}
	return end
}

func kind(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.StarExpr:
		return "*" + kind(e.X)
	case *ast.SelectorExpr:
		return kind(e.X) + "." + e.Sel.Name
	}
	return fmt.Sprintf("%T", e)
}

func TestEveryStepIsAFunction(t *testing.T) {
	functions := api(t)
	for _, name := range []string{"check", "build", "publish", "bundle", "trigger", "watch", "cancel", "canary", "shift", "verify", "approve", "promote", "cleanup", "rollback", "hold", "resume", "guard", "preview-up", "preview-down", "preview-list", "preview-handoff", "status", "history", "plan", "report", "inspect", "rehearse", "release", "cli", "dist"} {
		if _, ok := functions[name]; !ok {
			t.Errorf("no function %s", name)
		}
	}
}

// pure are the functions whose result depends on nothing but the arguments: Dagger may keep it.
var pure = []string{"", "check", "build", "cli", "dist"}

func TestWhatActsIsNeverServedFromTheCache(t *testing.T) {
	for name, f := range api(t) {
		if got, want := f.pragmas["cache"], `"never"`; !slices.Contains(pure, name) && got != want {
			t.Errorf("%s has +cache=%s: Dagger would answer the second call without running it", name, got)
		}
	}
}

func TestPragmasAreOnesThatDaggerKnows(t *testing.T) {
	ofFunctions := []string{"cache", "check"}
	ofArguments := []string{"optional", "default", "defaultPath", "ignore"}
	for name, f := range api(t) {
		for p := range f.pragmas {
			if !slices.Contains(ofFunctions, p) {
				t.Errorf("%s: +%s is dropped silently", name, p)
			}
		}
		for flag, a := range f.arguments {
			for p := range a.pragmas {
				if !slices.Contains(ofArguments, p) {
					t.Errorf("%s --%s: +%s is dropped silently", name, flag, p)
				}
			}
		}
	}
}

// TestTheAppIsNotItsRepository: an app at its repository's root is not checked and built with what lies beside it there: the history,
// which differs in every call, and Crossbill's own files, which have tests.
func TestTheAppIsNotItsRepository(t *testing.T) {
	ignored := api(t)[""].arguments["app-dir"].pragmas["ignore"]
	for _, name := range []string{".git", ".github", ".crossbill"} {
		if !strings.Contains(ignored, `"`+name+`"`) {
			t.Errorf("--app-dir: +ignore=%s does not have %s", ignored, name)
		}
	}
}

func TestEverythingIsDocumented(t *testing.T) {
	for name, f := range api(t) {
		if name != "" && f.doc == "" {
			t.Errorf("%s has no description", name)
		}
		for flag, a := range f.arguments {
			if !strings.HasSuffix(a.doc, ".") {
				t.Errorf("%s --%s: description %q", name, flag, a.doc)
			}
		}
	}
}

// Flags that `dagger call` has itself, and names that the code which the engine generates uses.
var taken = []string{"output", "json", "workdir", "verbose", "quiet", "silent", "debug", "progress", "lock", "interactive", "web", "mod", "cloud", "help", "ctx", "parent", "err", "fmt", "dagger", "errors"}

func TestNamesThatDaggerTakes(t *testing.T) {
	for name, f := range api(t) {
		for flag := range f.arguments {
			if slices.Contains(taken, flag) {
				t.Errorf("%s --%s cannot be used", name, flag)
			}
		}
	}
}

func TestWhatIsSecretIsASecret(t *testing.T) {
	for name, f := range api(t) {
		for flag, a := range f.arguments {
			secret := strings.Contains(flag, "token") || strings.Contains(flag, "password") || slices.Contains([]string{"kubeconfig-file", "prometheus-http-config", "webhook-url", "chat-addresses", "signing-key", "gitops-ssh-key", "gitops-signing-key"}, flag)
			if secret != (a.kind == "*dagger.Secret") {
				t.Errorf("%s --%s is a %s", name, flag, a.kind)
			}
		}
	}
}

// ordinary are variables that .env files have, of projects and of Crossbill's own users.
var ordinary = strings.Fields(`
	APP APP_DEBUG APP_ENV APP_HOST APP_KEY APP_NAME APP_PORT APP_SECRET APP_URL APP_VERSION API_KEY API_TOKEN API_URL AUTHOR BASE_URL BRANCH
	BUILD_COMMIT BUILD_DATE BUILD_ENV BUILD_ID BUILD_NUMBER BUILD_TAG BUILD_TIME BUILD_VERSION CI CLI CLI_VERSION CLUSTER COMMIT CONFIG CONTEXT
	CREATED DATABASE_URL DEBUG DOMAIN ENV ENVIRONMENT ENVIRONMENT_URL FORMAT GITHUB_REPOSITORY GITHUB_TOKEN GITLAB GITLAB_PROJECT GITLAB_TOKEN
	GITLAB_URL GOOS HOST HOSTNAME IMAGE IMAGES IMAGE_NAME IMAGE_TAG KUBECONFIG KUBE_CONTEXT LOG_LEVEL MANIFESTS NAME NAMESPACE NODE_ENV NODE_IMAGE
	NODE_VERSION ORG OWNER PASSWORD PORT PROJECT PROJECT_ID PROJECT_NAME PROMETHEUS PROMETHEUS_URL PUSHGATEWAY PUSHGATEWAY_URL REF REGISTRY
	REGISTRY_PASSWORD REGISTRY_URL REGISTRY_USER REGISTRY_USERNAME RELEASE RELEASE_COMMIT RELEASE_ID RELEASE_NAME RELEASE_TAG RELEASE_VERSION REPO
	REPOSITORY REVISION SECRET SERVER SERVICE SHA SOURCE STAGE TAG TAGS TARGET TIMEOUT TOKEN TZ URL USER USERNAME VERSION WEBHOOK WEBHOOK_URL WEIGHT
	CROSSBILL_CLI CROSSBILL_CONFIG CROSSBILL_GITHUB_REPOSITORY CROSSBILL_GITHUB_TOKEN CROSSBILL_IMAGE CROSSBILL_NAMESPACE
	CROSSBILL_OTLP_ENDPOINT CROSSBILL_PUSHGATEWAY CROSSBILL_SIGNING_KEY CROSSBILL_VERSION CROSSBILL_WEBHOOK`)

// fills are the variables, in capitals, that Dagger v0.21.8 takes an argument from: in a .env beside dagger.json its
// name, after the function's name and an underscore unless it is the constructor's; in one above the caller the same
// after the module's name and an underscore (core/modulesource.go LoadUserDefaults, core/modfunc.go UserDefault,
// core/envfile.go Namespace).
func fills(function, flag string) []string {
	variable := strings.ToUpper(strings.ReplaceAll(flag, "-", ""))
	if function != "" {
		variable = strings.ToUpper(strings.ReplaceAll(function, "-", "")) + "_" + variable
	}
	return []string{variable, "CROSSBILL_" + variable}
}

func TestNoOrdinaryEnvFileFillsAnArgument(t *testing.T) {
	for name, f := range api(t) {
		for flag := range f.arguments {
			for _, variable := range fills(name, flag) {
				if slices.Contains(ordinary, variable) {
					t.Errorf("%s --%s: a line %s=… in an unrelated .env would silently be this argument", name, flag, variable)
				}
			}
		}
	}
	// A list is never whole. What keeps the constructor safe is that .env files separate words.
	for flag := range api(t)[""].arguments {
		if !strings.Contains(flag, "-") && flag != "by" {
			t.Errorf("--%s is one word: a .env file may have a variable of that name", flag)
		}
	}
	if got := fills("build", "app-version")[1]; got != "CROSSBILL_BUILD_APPVERSION" {
		t.Errorf("build --app-version is filled by %s", got)
	}
}

// TestCallsThatArePublished: every `dagger call` of the pipelines and the documentation is one that
// the module takes.
func TestCallsThatArePublished(t *testing.T) {
	functions := api(t)
	var files []string
	for _, pattern := range []string{"../templates/release/template.yml", "../.github/workflows/*.yml", "../.github/actions/*/action.yml", "../*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	err := filepath.WalkDir("../docs", func(path string, _ fs.DirEntry, err error) error {
		if filepath.Ext(path) == ".md" {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	calls := 0
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, call := range published(t, string(text)) {
			calls++
			if problem := misfit(functions, call); problem != "" {
				t.Errorf("%s: %s %s: %s", name, call.constructor, call.rest, problem)
			}
		}
	}
	if calls < 25 {
		t.Errorf("found only %d calls", calls)
	}
}

// call is a `dagger call`: the constructor's arguments, a function, and what follows it.
type call struct{ constructor, function, rest string }

var (
	conditional = regexp.MustCompile(`\$\{[A-Z_]+:\+([^}]*)\}`)
	flagged     = regexp.MustCompile(`(?:^|\s)--([a-z-]+)`)
	aCall       = regexp.MustCompile(`dagger (?:-\S+ (?:[^-\s]\S* )?)*call ["$a-z-]`)
	called      = regexp.MustCompile("dagger (?:-\\S+ (?:[^-\\s]\\S* )?)*call ((?:--[a-z-]+[ =](?:'[^']*'|\"[^\"]*\"|[^ \"'\n]+) )*)([a-z][a-z-]*|\"\\$@\")((?: +[^`|>\n]*)?)")
	// named is a call in the component, where a shell function gives the constructor's arguments.
	named = regexp.MustCompile(`\n +- crossbill ([a-z]+)([^>\n]*)`)
)

// published are the calls in a text. What the shell adds only when a variable is set counts as given.
func published(t *testing.T, text string) []call {
	text = strings.ReplaceAll(text, "dagger call --help", "")
	text = conditional.ReplaceAllString(regexp.MustCompile(` *\\\n *`).ReplaceAllString(text, " "), "$1")
	var calls []call
	shared := ""
	if all, read := aCall.FindAllString(text, -1), called.FindAllString(text, -1); len(all) != len(read) {
		t.Errorf("of %d calls only %d can be read: %q", len(all), len(read), all)
	}
	for _, found := range called.FindAllStringSubmatch(text, -1) {
		if found[2] == `"$@"` {
			shared = found[1]
			continue
		}
		calls = append(calls, call{found[1], found[2], found[3]})
	}
	if shared == "" {
		return calls
	}
	for _, found := range named.FindAllStringSubmatch(text, -1) {
		calls = append(calls, call{shared, found[1], found[2]})
	}
	return calls
}

// needs are the constructor's arguments that functions do nothing without.
var needs = map[string][]string{
	"kubeconfig-file": {"canary", "shift", "verify", "approve", "promote", "cleanup", "rollback", "hold", "resume", "guard", "preview-up", "preview-down", "preview-list", "status", "history", "plan", "report"},
	"gitlab-token":    {"trigger", "watch", "cancel", "release", "preview-handoff"},
}

// misfit says why a call is not one that the module takes. What follows a function that returns an
// object is Dagger's own, and not checked.
func misfit(functions map[string]function, c call) string {
	f, ok := functions[c.function]
	if !ok {
		return "no such function"
	}
	where := map[string]bool{}
	for _, flag := range flagged.FindAllStringSubmatch(c.constructor, -1) {
		where[flag[1]] = true
		if _, ok := functions[""].arguments[flag[1]]; !ok {
			return "the constructor has no argument --" + flag[1]
		}
	}
	for flag, of := range needs {
		if slices.Contains(of, c.function) && !where[flag] {
			return "--" + flag + " is missing before the function"
		}
	}
	given := map[string]bool{}
	for _, flag := range flagged.FindAllStringSubmatch(c.rest, -1) {
		given[flag[1]] = true
		if _, ok := f.arguments[flag[1]]; !ok && !slices.Contains([]string{"build", "cli", "dist", "report", "rehearse"}, c.function) {
			return "no argument --" + flag[1]
		}
	}
	for flag, a := range f.arguments {
		if a.required() && !given[flag] {
			return "--" + flag + " is missing"
		}
	}
	return ""
}

func TestOnlyADigestIsDeployed(t *testing.T) {
	const digest = "@sha256:0123"
	for published, want := range map[string]string{
		"registry.example.com/our-org/app:1.0" + digest + "\n": "registry.example.com/our-org/app" + digest,
		"registry.example.com:5000/app:1.0" + digest:           "registry.example.com:5000/app" + digest,
		"registry.example.com:5000/app" + digest:               "registry.example.com:5000/app" + digest,
	} {
		if got, err := byDigest(published); err != nil || got != want {
			t.Errorf("%q is %q, %v", published, got, err)
		}
	}
	if got, err := byDigest("registry.example.com/our-org/app:1.0"); err == nil {
		t.Errorf("a tag alone is %q", got)
	}
}
