package pipelinefile

import (
	"path"
	"slices"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// invocation is one way in which a command of the script may be started.
type invocation struct {
	node     syntax.Node
	args     []field
	env      map[string][]value // assigned for this command alone
	input    stdin
	state    *shellState // of the shell that starts a program
	external bool        // functions of the script are not looked up
}

func (i invocation) with(args []field) invocation {
	i.args = args
	return i
}

// call executes a simple command.
func (a *analyzer) call(c *syntax.CallExpr, s *shellState, input stdin) {
	if len(c.Args) == 0 {
		for _, assign := range c.Assigns {
			a.assignment(assign, s)
		}
		return
	}
	lists := a.wordsOf(c.Args, s, func(all [][]field) [][]field {
		if s.replaces("dagger") {
			return distinct(all)
		}
		return distinct(withoutCredentials(all))
	})
	if lists == nil {
		a.opaque(c, "it has too many variants to prove")
		return
	}
	saved, env := map[string]savedVariable{}, map[string][]value{}
	for _, assign := range c.Assigns {
		if assign.Name == nil {
			continue
		}
		values, known := s.vars[assign.Name.Value]
		if _, ok := saved[assign.Name.Value]; !ok {
			saved[assign.Name.Value] = savedVariable{values: values, known: known}
		}
		a.assignment(assign, s)
		env[assign.Name.Value] = s.lookup(assign.Name.Value)
	}
	a.invokeAll(lists, invocation{node: c, env: env, input: input}, s)
	for name, before := range saved {
		after := s.lookup(name)
		restored := before.values
		if !before.known {
			restored = []value{{{kind: pieceVariable, text: name}}}
		}
		switch {
		case keepsAssignments(lists, s): // some shells keep it
			s.vars[name] = union(restored, after)
		case before.known:
			s.vars[name] = restored
		default:
			delete(s.vars, name)
		}
	}
}

// keepsAssignments says whether assignments before a command may last: those before functions and special builtins.
func keepsAssignments(lists [][]field, s *shellState) bool {
	return slices.ContainsFunc(lists, func(list []field) bool {
		if len(list) == 0 {
			return true
		}
		name, ok := list[0].literal()
		return !ok || len(s.functions[name]) > 0 || name != "read" && slices.Contains(specialBuiltins, name)
	})
}

// invokeAll executes a command for each list of words that it may get.
func (a *analyzer) invokeAll(lists [][]field, i invocation, s *shellState) {
	if len(lists) == 1 {
		a.invoke(i.with(lists[0]), s)
		return
	}
	after := &shellState{dead: true}
	for _, args := range lists {
		if !a.step(1 + len(s.vars)/8) {
			return
		}
		branch := s.clone()
		a.branches++
		a.invoke(i.with(args), branch)
		a.branches--
		after.join(branch)
	}
	*s = *after
}

// invoke executes one command.
func (a *analyzer) invoke(i invocation, s *shellState) {
	if len(i.args) == 0 || s.dead || !a.step(1) {
		return
	}
	if a.depth > mostDepth {
		a.opaque(i.node, "calls are nested too deeply")
		return
	}
	a.depth++
	defer func() { a.depth-- }()
	name, ok := i.args[0].literal()
	if !ok || a.placeholders.in(name) {
		a.opaque(i.node, "the name of the command is not known")
		s.forget()
		return
	}
	if !i.external {
		if words, ok := s.aliases[name]; ok {
			a.alias(i, words, s)
			return
		}
		if bodies := s.functions[name]; len(bodies) > 0 {
			a.callFunctions(i, bodies, s)
			return
		}
	}
	if s.shell != "" {
		a.opaque(i.node, "the command may be another one: "+s.shell)
	}
	if builtin, ok := builtins[name]; ok {
		if name != "echo" && name != ":" && name != "true" && name != "false" && name != "trap" && name != "eval" && hasSubscript(i.args[1:], name) {
			a.opaque(i.node, "bash executes the command in the subscript")
		}
		builtin(a, i, s)
		return
	}
	a.program(i, name, s)
}

// hasSubscript says whether bash may take a word for an element of an array, and execute the subscript.
func hasSubscript(args []field, name string) bool {
	for n, arg := range args {
		if name == "printf" && (n != 1 || !args[0].pieces.equal(text("-v"))) {
			continue
		}
		for _, p := range arg.pieces {
			if p.kind == pieceText && strings.Contains(p.text, "[") && strings.ContainsAny(p.text, "$`") {
				return true
			}
		}
	}
	return false
}

func (a *analyzer) alias(i invocation, words []string, s *shellState) {
	if words == nil {
		a.opaque(i.node, "it may be an alias")
		return
	}
	name, _ := i.args[0].literal()
	without := s.clone()
	delete(without.aliases, name)
	replaced := make([]field, 0, len(words)+len(i.args))
	for _, word := range words {
		replaced = append(replaced, field{pieces: text(word)})
	}
	a.invokeAll([][]field{append(replaced, i.args[1:]...), i.args}, i, without) // bash does not expand aliases in scripts
	aliases := s.aliases
	*s = *without
	s.aliases = aliases
}

// callFunctions executes each body that a function may have.
func (a *analyzer) callFunctions(i invocation, bodies []*syntax.Stmt, s *shellState) {
	after := &shellState{dead: true}
	for _, body := range bodies {
		branch := s.clone()
		if body == nil {
			i := i
			i.external = true
			a.invoke(i, branch)
		} else {
			a.callFunction(i, body, branch)
		}
		after.join(branch)
	}
	*s = *after
}

func (a *analyzer) callFunction(i invocation, body *syntax.Stmt, s *shellState) {
	params, anyParams := s.params, s.anyParams
	s.params, s.anyParams = i.args[1:], false
	f := &frame{saved: map[string]savedVariable{}, branches: a.branches}
	a.frames = append(a.frames, f)
	loops := a.loops
	a.loops = nil
	a.inside(i.node, func() { a.statement(body, s, i.input) })
	a.loops = loops
	a.frames = a.frames[:len(a.frames)-1]
	s.join(f.returned)
	for name, before := range f.saved {
		restored := before.values
		if !before.known {
			restored = []value{{{kind: pieceVariable, text: name}}}
		}
		if before.conditional {
			restored = union(restored, s.lookup(name))
		}
		s.vars[name] = restored
	}
	s.params, s.anyParams = params, anyParams
}

// builtins are the shell's own commands.
var builtins map[string]func(*analyzer, invocation, *shellState)

func init() { // they call each other through invoke
	nothing := func(*analyzer, invocation, *shellState) {}
	builtins = map[string]func(*analyzer, invocation, *shellState){
		":": nothing, "true": nothing, "false": nothing, "test": nothing, "[": nothing, "wait": nothing, "jobs": nothing, "umask": nothing, "ulimit": nothing, "times": nothing, "type": nothing,
		"disown": nothing, "dirs": nothing, "echo": nothing, "kill": nothing, "pwd": nothing,
		"printf": builtinPrintf, "read": builtinRead, "mapfile": builtinRead, "readarray": builtinRead, "getopts": builtinRead,
		"exit": func(_ *analyzer, _ invocation, s *shellState) { s.dead = true }, "return": builtinReturn, "break": builtinBreak, "continue": builtinBreak,
		"eval": builtinEval, ".": builtinSource, "source": builtinSource, "set": builtinSet, "shift": builtinShift, "unset": builtinUnset,
		"export": builtinDeclare, "readonly": builtinDeclare, "local": builtinDeclare, "declare": builtinDeclare, "typeset": builtinDeclare,
		"cd": builtinCd, "pushd": builtinCd, "popd": builtinCd, "trap": builtinTrap, "alias": builtinAlias, "unalias": nothing, "shopt": builtinShopt,
		"hash": builtinHash, "command": builtinCommand, "builtin": builtinCommand, "exec": builtinExec,
	}
}

// assignUnknown sets a variable whose name is an argument.
func (a *analyzer) assignUnknown(i invocation, name field, s *shellState) {
	text, ok := name.literal()
	text, _, _ = strings.Cut(text, "[")
	if !ok || !syntax.ValidName(text) {
		a.opaque(i.node, "the name of the variable that it sets is not known")
		s.forget()
		return
	}
	if why := doubtful(text); why != "" {
		a.opaque(i.node, why)
	}
	a.assign(s, text, []value{{{kind: pieceAny}}})
	s.arrays[text] = nil
}

func builtinPrintf(a *analyzer, i invocation, s *shellState) {
	if len(i.args) > 1 {
		first, ok := i.args[1].literal()
		if i.args[1].many && !ok && len(i.args[1].pieces) > 0 && i.args[1].pieces[0].kind != pieceText {
			a.opaque(i.node, "its options are not known")
			s.forget()
		}
		if strings.HasPrefix(first, "-v") && len(i.args) > 2 {
			name := i.args[2]
			if first != "-v" {
				name = field{pieces: text(first[2:])}
			}
			a.assignUnknown(i, name, s)
		}
	}
}

func builtinRead(a *analyzer, i invocation, s *shellState) {
	command, _ := i.args[0].literal()
	named := false
	for n := 1; n < len(i.args); n++ {
		word, ok := i.args[n].literal()
		switch {
		case !ok && command == "getopts" && n == 1 || command == "getopts" && (n == 1 || n > 2):
		case ok && strings.HasPrefix(word, "-") && command != "getopts":
			if len(word) == 2 && strings.Contains("adinNptuCcOs", word[1:]) && (command != "read" || word != "-s") && (command == "read" || word != "-t") {
				n++
				if word == "-a" && n < len(i.args) {
					a.assignUnknown(i, i.args[n], s)
					named = true
				}
				if word == "-C" {
					a.opaque(i.node, "it executes a command for each line")
				}
			} else if strings.Contains(word, "a") && command == "read" || strings.Contains(word, "C") {
				a.opaque(i.node, "its options are not understood")
				s.forget()
			}
		default:
			a.assignUnknown(i, i.args[n], s)
			named = true
		}
	}
	switch {
	case command == "getopts":
		a.assign(s, "OPTARG", []value{{{kind: pieceAny}}})
	case !named && command == "read":
		a.assign(s, "REPLY", []value{{{kind: pieceAny}}})
	case !named:
		a.assignUnknown(i, field{pieces: text("MAPFILE")}, s)
	}
}

func builtinReturn(a *analyzer, _ invocation, s *shellState) {
	if len(a.frames) > 0 {
		f := a.frames[len(a.frames)-1]
		if f.returned == nil {
			f.returned = s.clone()
		} else {
			f.returned.join(s)
		}
	}
	s.dead = true
}

func builtinBreak(a *analyzer, _ invocation, s *shellState) {
	if len(a.loops) == 0 {
		return // it may have no effect; a function's does not end the loop that calls it everywhere
	}
	for _, l := range a.loops {
		if l.left == nil {
			l.left = s.clone()
		} else {
			l.left.join(s)
		}
	}
	s.dead = true
}

// commandString joins the words of eval; nil when they are not known.
func (a *analyzer) commandString(args []field) (string, bool) {
	var words []string
	for _, arg := range args {
		word, ok := a.commandText(arg.pieces)
		if !ok || arg.many {
			return "", false
		}
		words = append(words, word)
	}
	return strings.Join(words, " "), true
}

// commandText is a value as the text of a script: inputs are their placeholders again.
func (a *analyzer) commandText(v value) (string, bool) {
	var all strings.Builder
	for _, p := range v {
		if p.kind != pieceText && p.kind != pieceInput {
			return "", false
		}
		all.WriteString(p.text)
	}
	return all.String(), true
}

func builtinEval(a *analyzer, i invocation, s *shellState) {
	args := i.args[1:]
	if len(args) > 0 {
		if first, _ := args[0].literal(); first == "--" {
			args = args[1:]
		}
	}
	text, ok := a.commandString(args)
	if !ok {
		a.opaque(i.node, "it executes text that is not known")
		s.forget()
		return
	}
	a.nested(i.node, text, s)
}

func builtinSource(a *analyzer, i invocation, s *shellState) {
	if a.sourcesProposal(i, s) {
		return
	}
	if len(i.args) > 1 {
		if name, ok := i.args[1].literal(); ok && strings.HasSuffix(name, "/bin/activate") && !strings.HasPrefix(name, "/dev") {
			return // of a Python environment
		}
	}
	a.opaque(i.node, "it executes a file that is not a part of the pipeline file")
	s.forget()
}

func builtinSet(a *analyzer, i invocation, s *shellState) {
	for n := 1; n < len(i.args); n++ {
		word, ok := i.args[n].literal()
		switch {
		case !ok:
			a.opaque(i.node, "its options are not known")
			s.forget()
			return
		case word == "-o" || word == "+o":
			n++
		case word == "--" || word == "-":
			s.params, s.anyParams = slices.Clone(i.args[n+1:]), false
			return
		case len(word) > 1 && (word[0] == '-' || word[0] == '+'):
			if strings.Contains(word, "k") {
				a.opaque(i.node, "it changes how commands are read")
			}
			if strings.HasSuffix(word, "o") {
				n++
			}
		default:
			s.params, s.anyParams = slices.Clone(i.args[n:]), false
			return
		}
	}
}

func builtinShift(a *analyzer, i invocation, s *shellState) {
	count := "1"
	if len(i.args) > 1 {
		count, _ = i.args[1].literal()
	}
	n := strings.Index("0123456789", count)
	if count == "" || n < 0 || len(count) != 1 || s.anyParams || n > len(s.params) || slices.ContainsFunc(s.params[:n], func(f field) bool { return f.many }) {
		s.anyParams = true
		return
	}
	s.params = slices.Clone(s.params[n:])
}

func builtinUnset(a *analyzer, i invocation, s *shellState) {
	functions := false
	for _, arg := range i.args[1:] {
		name, ok := arg.literal()
		switch {
		case !ok:
			for known := range s.vars {
				s.vars[known] = union(s.vars[known], []value{{}})
			}
			for known, bodies := range s.functions {
				if isProgram(known) && !slices.Contains(bodies, nil) {
					s.functions[known] = append(slices.Clone(bodies), nil)
				}
			}
		case strings.HasPrefix(name, "-"):
			functions = functions || strings.Contains(name, "f")
		case functions:
			delete(s.functions, name)
		case syntax.ValidName(name):
			_, variable := s.vars[name]
			delete(s.arrays, name)
			a.assign(s, name, []value{{}})
			if bodies := s.functions[name]; len(bodies) > 0 && !variable && !slices.Contains(bodies, nil) {
				s.functions[name] = append(slices.Clone(bodies), nil)
			}
		}
	}
}

// isProgram says whether a name is a command without a function of that name.
func isProgram(name string) bool {
	return programs[name] != nil || harmless[name] || builtins[name] != nil
}

// builtinDeclare executes a declaration that the parser reads as a command, such as `command export X=1`.
func builtinDeclare(a *analyzer, i invocation, s *shellState) {
	for _, arg := range i.args[1:] {
		if flag, ok := arg.literal(); ok && strings.HasPrefix(flag, "-") && !strings.ContainsAny(flag, "in") {
			continue
		}
		if arg.many || len(arg.pieces) == 0 || arg.pieces[0].kind != pieceText {
			a.opaque(i.node, "the name of the variable is not known")
			s.forget()
			return
		}
		name, rest, assigned := strings.Cut(arg.pieces[0].text, "=")
		if !assigned && len(arg.pieces) == 1 {
			continue
		}
		if !assigned || !syntax.ValidName(name) {
			a.opaque(i.node, "the name of the variable is not known")
			s.forget()
			return
		}
		if why := doubtful(name); why != "" {
			a.opaque(i.node, why)
		}
		v := append(value{{kind: pieceText, text: rest}}, arg.pieces[1:]...)
		a.assign(s, name, union(s.lookup(name), []value{mergePieces(v)})) // perhaps a local one
	}
}

func builtinCd(a *analyzer, i invocation, s *shellState) {
	name, _ := i.args[0].literal()
	args := i.args[1:]
	for len(args) > 0 {
		if word, ok := args[0].literal(); !ok || !strings.HasPrefix(word, "-") || word == "-" {
			break
		}
		args = args[1:]
	}
	before := s.folders
	switch {
	case name == "popd":
		s.folders = []string{unknownFolder}
		if last := len(s.pushed) - 1; last >= 0 && len(args) == 0 {
			s.folders, s.pushed = s.pushed[last], s.pushed[:last:last]
		}
		return
	case len(args) == 0:
		s.folders = []string{"~"}
	case args[0].many && !args[0].absent:
		s.folders = []string{unknownFolder}
	default:
		s.folders = a.folders(args[0].pieces, s)
	}
	if name == "pushd" {
		s.pushed = append(slices.Clone(s.pushed), before)
	}
}

// folders are those that a path names, from where the shell may be.
func (a *analyzer) folders(target value, s *shellState) []string {
	file, known := a.fileName(target)
	switch {
	case !known || file == "-":
		return []string{unknownFolder}
	case strings.HasPrefix(file, "/") || strings.HasPrefix(file, "~"):
		return []string{path.Clean(file)}
	case strings.HasPrefix(file, projectFolder):
		return []string{strings.TrimPrefix(path.Clean(strings.TrimPrefix(file, projectFolder)), ".")}
	}
	var all []string
	for _, folder := range s.folders {
		if folder != unknownFolder {
			folder = strings.TrimPrefix(path.Join(folder, file), ".")
			if file == "." || folder == "." {
				folder = ""
			}
		}
		all = append(all, folder)
	}
	return mergeFolders(all, nil)
}

// projectFolder stands for the repository's folder at the beginning of a path.
const projectFolder = "\x01/"

// fileName is the path of a file: unknown parts of it are _. It is false when they may lead anywhere.
func (a *analyzer) fileName(target value) (file string, known bool) {
	for n, p := range target {
		switch {
		case p.kind == pieceText:
			file += p.text
		case p.kind == pieceVariable && p.text == "HOME" && n == 0:
			file += "~"
		case p.kind == pieceVariable && (p.text == "CI_PROJECT_DIR" || p.text == "CI_BUILDS_DIR") && n == 0:
			file += projectFolder
		case p.kind == pieceVariable && (predefined(p.text) || p.text == "KUBECONFIG"), p.kind == pieceOutput:
			file += "_"
		case p.kind == pieceInput && !a.mayHaveSlash(p):
			file += "_"
		default:
			return "", false
		}
	}
	return file, true
}

func (a *analyzer) mayHaveSlash(p piece) bool {
	_, indexes := a.placeholders.split(p.text)
	if len(indexes) != 1 || p.function != "" {
		return true
	}
	input := a.placeholders.inputs[indexes[0]]
	if len(input.input.Options) > 0 {
		return slices.ContainsFunc(input.input.Options, func(o string) bool { return strings.Contains(o, "/") })
	}
	pattern, err := parseLanguage(input.input.Regex)
	if err != nil {
		return true
	}
	_, found := pattern.contains(forbidding("/"))
	return found
}

func builtinTrap(a *analyzer, i invocation, s *shellState) {
	args := i.args[1:]
	if len(args) > 0 {
		if first, _ := args[0].literal(); first == "--" {
			args = args[1:]
		}
	}
	if len(args) == 0 {
		return
	}
	command, ok := a.commandString(args[:1])
	switch {
	case !ok:
		a.opaque(i.node, "the command of the trap is not known")
	case command == "" || strings.HasPrefix(command, "-") || isNumber(command):
	default:
		site := callSite{a.nodeLine(i.node), a.nodeText(i.node)}
		if a.site != nil {
			site = *a.site
		}
		if len(a.traps) < 32 {
			a.traps = append(a.traps, trap{command, site, s.clone()})
		} else {
			a.opaque(i.node, "there are too many traps to prove")
		}
	}
}

var aliasWord = func(word string) bool { return plainOption.MatchString(word) }

func builtinAlias(a *analyzer, i invocation, s *shellState) {
	for _, arg := range i.args[1:] {
		definition, ok := arg.literal()
		name, command, assigned := strings.Cut(definition, "=")
		switch {
		case ok && (!assigned || strings.HasPrefix(definition, "-")):
		case !ok || !plainOption.MatchString(name) || name == "" || strings.TrimSpace(command) == "" || slices.ContainsFunc(strings.Fields(command), func(w string) bool { return !aliasWord(w) }) || strings.HasSuffix(command, " ") || slices.Contains(specialBuiltins, name) || syntax.IsKeyword(name):
			a.opaque(i.node, "what the alias does is not understood")
			s.shell = "an alias that is not understood"
		default:
			s.aliases[name] = strings.Fields(command)
		}
	}
}

func builtinShopt(a *analyzer, i invocation, s *shellState) {
	for _, arg := range i.args[1:] {
		if word, ok := arg.literal(); !ok || !strings.HasPrefix(word, "-") && !slices.Contains([]string{"nullglob", "globstar", "expand_aliases", "nocasematch", "inherit_errexit", "dotglob", "failglob"}, word) {
			a.opaque(i.node, "what the option changes is not understood")
			s.forget()
		}
	}
}

func builtinHash(a *analyzer, i invocation, s *shellState) {
	for _, arg := range i.args[1:] {
		if word, ok := arg.literal(); !ok || strings.HasPrefix(word, "-") && word != "-r" {
			a.opaque(i.node, "it puts a program in the place of another")
			s.shell = "hash"
		}
	}
}

// leadingOptions are the options of a builtin that starts a program, and the words of that program behind them. valued says
// which options have a word of their own.
func leadingOptions(args []field, valued func(string) bool) (options []string, program []field) {
	for len(args) > 0 {
		word, ok := args[0].literal()
		if !ok || !strings.HasPrefix(word, "-") {
			break
		}
		args = args[1:]
		if word == "--" {
			break
		}
		options = append(options, word)
		if valued(word) && len(args) > 0 {
			args = args[1:]
		}
	}
	return options, args
}

func builtinCommand(a *analyzer, i invocation, s *shellState) {
	self, _ := i.args[0].literal()
	options, args := leadingOptions(i.args[1:], func(string) bool { return false })
	if self == "command" && slices.ContainsFunc(options, func(word string) bool { return strings.ContainsAny(word, "vV") }) {
		return
	}
	i.external = true
	a.invoke(i.with(args), s)
}

func builtinExec(a *analyzer, i invocation, s *shellState) {
	_, args := leadingOptions(i.args[1:], func(word string) bool { return strings.HasSuffix(word, "a") })
	if len(args) == 0 {
		return // redirections for the shell itself
	}
	i.external = true
	a.invoke(i.with(args), s)
	s.dead = true
}

// doubtful are variables that decide which code a shell or a program executes.
func doubtful(name string) string {
	switch {
	case slices.Contains([]string{"BASH_ENV", "ENV", "SHELLOPTS", "BASHOPTS", "PS4", "PROMPT_COMMAND", "BASH_FUNC", "CDPATH", "GLOBIGNORE", "BASH_LOADABLES_PATH", "PERL5OPT", "PERL5LIB", "RUBYOPT", "PYTHONSTARTUP", "PYTHONPATH", "NODE_PATH",
		"KUBECTL_EXTERNAL_DIFF", "KUBE_EDITOR", "EDITOR", "VISUAL", "PAGER", "HELM_PLUGINS", "HELM_BIN", "CURL_HOME", "WGETRC", "OPENSSL_CONF", "TAR_OPTIONS", "POSIXLY_CORRECT", "XDG_CONFIG_HOME", "PATH", "HOME",
		"NODE_OPTIONS", "PYTEST_ADDOPTS", "PYTEST_PLUGINS", "GOFLAGS", "JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "MAVEN_OPTS", "MAVEN_ARGS", "GRADLE_OPTS", "RUSTC_WRAPPER", "RUSTFLAGS", "COREPACK_NPM_REGISTRY", "MAKEFLAGS", "GCONV_PATH", "LESSOPEN", "LESSCLOSE", "MANPAGER", "BROWSER", "JQ_LIBRARY_PATH", "HTTPS_PROXY_COMMAND"}, name),
		strings.HasPrefix(strings.ToLower(name), "npm_config_"), strings.HasPrefix(name, "CARGO_"), strings.HasPrefix(name, "YARN_"), strings.HasPrefix(name, "PIP_CONFIG"), strings.HasPrefix(name, "HELM_PLUGIN"), strings.HasPrefix(name, "DAGGER_SESSION"), strings.HasPrefix(name, "_EXPERIMENTAL_DAGGER"),
		strings.HasPrefix(name, "LD_"), strings.HasPrefix(name, "DYLD_"), strings.HasPrefix(name, "BASH_FUNC"), strings.HasPrefix(name, "GIT_") && !strings.HasPrefix(name, "GIT_AUTHOR_") && !strings.HasPrefix(name, "GIT_COMMITTER_"):
		return name + " decides which code is executed"
	}
	return ""
}

// settled says whether a variable that decides which code is executed has a value that executes nothing.
func settled(name string, values []value) bool {
	for _, v := range values {
		constant, known := v.constant()
		switch {
		case name == "NODE_OPTIONS" && known && strings.HasPrefix(constant, "--max-old-space-size=") && !strings.Contains(constant, " "):
		case name == "GOFLAGS" && known && !strings.Contains(constant, "exec"), name == "GIT_DEPTH" || name == "GIT_STRATEGY" || name == "GIT_SUBMODULE_STRATEGY" || name == "GIT_TERMINAL_PROMPT":
		case strings.HasSuffix(name, "PAGER") && (constant == "cat" || constant == "") && known, name == "PS4" && known && !strings.ContainsAny(constant, "$`"):
		case (strings.ToLower(name) == "npm_config_cache" || strings.ToLower(name) == "npm_config_loglevel" || name == "YARN_CACHE_FOLDER" || name == "CARGO_HOME" || name == "CARGO_TERM_COLOR") && known:
		case (name == "MAVEN_OPTS" || name == "GRADLE_OPTS" || name == "JAVA_TOOL_OPTIONS") && known && !strings.Contains(constant, "agent") && !strings.Contains(constant, "cp"):
		default:
			return false
		}
	}
	return true
}

// binFolders are where the shell finds programs.
var binFolders = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin", "/opt/bin"}

// doubtfulVariable reports an assignment that may put programs in the place of others. Behind the folders that are
// there, or in front of them one where programs are installed, they may not.
func (a *analyzer) doubtfulVariable(assign *syntax.Assign, name, why string, s *shellState) {
	if name != "PATH" {
		if settled(name, a.single(assign.Value, s)) {
			return
		}
		a.opaque(assign, why)
		return
	}
	for _, v := range a.single(assign.Value, s) {
		ok := false
		rest := v
		if len(rest) > 0 && rest[0].kind == pieceText { // folders in front
			fine := true
			for folder := range strings.SplitSeq(strings.TrimSuffix(rest[0].text, ":"), ":") {
				fine = fine && (slices.Contains(binFolders, path.Clean(folder)) || strings.HasPrefix(folder, "/usr/local/go/") || strings.HasPrefix(folder, "/usr/lib/"))
			}
			if !fine || !strings.HasSuffix(rest[0].text, ":") {
				rest = nil
			} else {
				rest = rest[1:]
			}
		}
		if len(rest) > 0 && rest[0].kind == pieceVariable && rest[0].text == "PATH" {
			ok = isAppended(rest[1:])
		}
		if !ok {
			a.opaque(assign, "programs in the folders that it puts in front of the others may be anything")
			s.shell = "PATH is changed"
		}
	}
}

// isAppended says whether what is behind $PATH are folders outside of the repository.
func isAppended(v value) bool {
	var all strings.Builder
	for _, p := range v {
		switch {
		case p.kind == pieceText:
			all.WriteString(p.text)
		case p.kind == pieceVariable && p.text == "HOME":
			all.WriteString("/root")
		default:
			return false
		}
	}
	folders := strings.Split(strings.TrimPrefix(all.String(), ":"), ":")
	return all.String() == "" || strings.HasPrefix(all.String(), ":") && !slices.ContainsFunc(folders, func(f string) bool {
		return !strings.HasPrefix(f, "/") && !strings.HasPrefix(f, "~") || strings.HasPrefix(f, "/builds") || strings.HasPrefix(f, "/tmp")
	})
}
