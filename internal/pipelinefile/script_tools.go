package pipelinefile

import (
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// programShell executes sh and its kin.
func programShell(a *analyzer, i invocation, s *shellState) {
	args := i.args[1:]
	isCommand := false
	for len(args) > 0 {
		word, ok := args[0].literal()
		if !ok {
			a.opaque(i.node, "it executes a script that is not known")
			return
		}
		if word == "-" || word == "--" {
			args = args[1:]
			break
		}
		if !strings.HasPrefix(word, "-") && !strings.HasPrefix(word, "+") {
			break
		}
		args = args[1:]
		switch {
		case word == "--version" || word == "--help":
			a.effect(i, classReads, "sh")
			return
		case slices.Contains([]string{"--norc", "--noprofile", "--posix", "--login"}, word):
			continue
		case strings.HasPrefix(word, "--"):
			a.opaque(i.node, "its options are not known")
			return
		}
		isCommand = isCommand || strings.Contains(word, "c")
		if strings.ContainsAny(word, "oO") && len(args) > 0 { // -o pipefail
			args = args[1:]
		}
		if strings.ContainsAny(word, "s") {
			args = nil
		}
	}
	inner := s.clone()
	inner.functions, inner.aliases, inner.arrays, inner.readonly = map[string][]*syntax.Stmt{}, map[string][]string{}, map[string][]field{}, map[string]bool{}
	if s.functions != nil {
		for name, bodies := range s.functions { // they are perhaps exported
			inner.functions[name] = append(slices.Clone(bodies), nil)
		}
	}
	switch {
	case isCommand:
		if len(args) == 0 {
			return
		}
		text, ok := a.commandText(args[0].pieces)
		if !ok || args[0].many {
			a.opaque(i.node, "it executes text that is not known")
			return
		}
		inner.params, inner.anyParams = nil, false
		if len(args) > 2 {
			inner.params = args[2:]
		}
		a.separate(inner, func(inner *shellState) { a.nested(i.node, text, inner) })
	case len(args) > 0:
		a.opaque(i.node, "it executes a file that is not a part of the pipeline file")
	case i.input.text != nil:
		inner.anyParams = true
		for _, v := range i.input.text {
			text, ok := a.commandText(v)
			if !ok {
				a.opaque(i.node, "it executes text that is not known")
				return
			}
			a.separate(inner, func(inner *shellState) { a.nested(i.node, text, inner) })
		}
	case a.isDaggerInstaller(i.input.from, s):
		a.effect(i, classReads, "Dagger's installer")
	case i.input.from != nil || i.input.file:
		a.opaque(i.node, "it executes what another command prints")
	default:
		a.opaque(i.node, "it executes what it reads")
	}
}

// isDaggerInstaller says whether a statement does nothing but print Dagger's installer.
func (a *analyzer) isDaggerInstaller(statement *syntax.Stmt, s *shellState) bool {
	targets := a.downloads(statement, s)
	if len(targets) != 1 {
		return false
	}
	address, constant := targets[0].constant()
	return constant && address == "https://dl.dagger.io/dagger/install.sh"
}

// downloads are the addresses that a statement prints, when it is a plain curl or wget and nothing else.
func (a *analyzer) downloads(statement *syntax.Stmt, s *shellState) []value {
	if statement == nil || statement.Negated || statement.Background || len(statement.Redirs) > 0 {
		return nil
	}
	call, ok := statement.Cmd.(*syntax.CallExpr)
	if !ok || len(call.Assigns) > 0 {
		return nil
	}
	lists := a.words(call.Args, s.clone())
	if len(lists) != 1 || len(lists[0]) == 0 {
		return nil
	}
	name, _ := lists[0][0].literal()
	if name != "curl" && name != "wget" || len(s.functions[name]) > 0 || s.aliases[name] != nil || s.replaced[name] != "" || s.replaced["*"] != "" || s.shell != "" {
		return nil
	}
	read := readCurl
	if name == "wget" {
		read = readWget
	}
	requests, ok := read(lists[0][1:])
	if !ok || len(requests) != 1 {
		return nil
	}
	if r := requests[0]; r.method != "" || r.body || r.tampered || r.names || len(r.files) > 0 {
		return nil
	}
	return requests[0].targets
}

// prefixed executes the command behind a prefix such as sudo.
func (a *analyzer) prefixed(i invocation, rest []field, s *shellState) {
	i.external = true
	if len(rest) == 0 {
		return
	}
	a.invoke(i.with(rest), s)
}

// skipOptions skips the options of a prefix. It is false when an option is not known.
func skipOptions(args []field, valued, flags string) ([]field, bool) {
	for len(args) > 0 {
		word, ok := args[0].literal()
		switch {
		case !ok:
			return args, true // the name of the command: it is rejected there
		case word == "--":
			return args[1:], true
		case !strings.HasPrefix(word, "-") || word == "-":
			return args, true
		case strings.HasPrefix(word, "--"):
			name, _, assigned := strings.Cut(word, "=")
			switch {
			case slices.Contains(strings.Fields(valued), name):
				if !assigned {
					args = args[1:]
				}
			case !slices.Contains(strings.Fields(flags), name):
				return nil, false
			}
		default:
			if len(word) >= 2 && slices.Contains(strings.Fields(valued), word[:2]) {
				if len(word) == 2 && len(args) > 1 {
					args = args[1:]
				}
				break
			}
			for _, letter := range word[1:] {
				if !slices.Contains(strings.Fields(flags), "-"+string(letter)) {
					return nil, false
				}
			}
		}
		if len(args) > 0 {
			args = args[1:]
		}
	}
	return args, true
}

func programEnv(a *analyzer, i invocation, s *shellState) {
	args, ok := skipOptions(i.args[1:], "-u --unset -C --chdir", "-i --ignore-environment -0 --null -v --debug")
	if !ok {
		a.opaque(i.node, "its options are not known")
		return
	}
	env := map[string][]value{}
	maps.Copy(env, i.env)
	for len(args) > 0 {
		first := args[0]
		if len(first.pieces) == 0 || first.pieces[0].kind != pieceText || first.many {
			break
		}
		name, rest, assigned := strings.Cut(first.pieces[0].text, "=")
		if !assigned {
			break
		}
		if why := doubtful(name); why != "" {
			a.opaque(i.node, why)
		}
		env[name] = []value{mergePieces(append(value{{kind: pieceText, text: rest}}, first.pieces[1:]...))}
		args = args[1:]
	}
	if len(args) == 0 {
		a.effect(i, classReads, "env")
		return
	}
	i.env = env
	inner := s.clone()
	maps.Copy(inner.vars, env)
	a.prefixed(i, args, inner)
	s.keepFiles(inner)
}

func programSudo(a *analyzer, i invocation, s *shellState) {
	args, ok := skipOptions(i.args[1:], "-u --user -g --group -p --prompt -C -D --chdir", "-E --preserve-env -n --non-interactive -H --set-home -b -k -S")
	if !ok {
		a.opaque(i.node, "its options are not known")
		return
	}
	programEnv(a, i.with(append([]field{{pieces: text("env")}}, args...)), s)
}

func programTimeout(a *analyzer, i invocation, s *shellState) {
	args, ok := skipOptions(i.args[1:], "-k --kill-after -s --signal", "--preserve-status --foreground -v --verbose -f -p")
	if ok && len(args) > 0 {
		if word, literal := args[0].literal(); literal && word == "-t" {
			args = args[1:]
		}
	}
	if !ok || len(args) == 0 || args[0].many {
		a.opaque(i.node, "its options are not known")
		return
	}
	a.prefixed(i, args[1:], s)
}

func programPrefix(a *analyzer, i invocation, s *shellState) {
	args, ok := skipOptions(i.args[1:], "-n --adjustment -c --class -f --format -o --output -e --error -i --input", "-p -w --wait -t -v -a")
	if !ok {
		a.opaque(i.node, "its options are not known")
		return
	}
	a.prefixed(i, args, s)
}

func programBusybox(a *analyzer, i invocation, s *shellState) { a.prefixed(i, i.args[1:], s) }

func programXargs(a *analyzer, i invocation, s *shellState) {
	args, ok := skipOptions(i.args[1:], "-I -n -P -L -d -s -E -a --max-args --max-procs --delimiter --arg-file", "-0 --null -r --no-run-if-empty -t --verbose -x --exit -p")
	if !ok {
		a.opaque(i.node, "its options are not known")
		return
	}
	if len(args) == 0 {
		return // echo
	}
	words := make([]field, 0, len(args)+1)
	replaced := ""
	for n, word := range literals(i.args[1 : len(i.args)-len(args)]) {
		if rest, found := strings.CutPrefix(word, "-I"); found {
			replaced = rest
			if rest == "" {
				replaced, _ = i.args[n+2].literal()
			}
		}
	}
	for _, arg := range args {
		if word, literal := arg.literal(); literal && replaced != "" && strings.Contains(word, replaced) {
			arg = field{pieces: value{{kind: pieceAny}}}
		}
		words = append(words, arg)
	}
	a.prefixed(i, append(words, field{pieces: value{{kind: pieceAny}}, many: true}), s)
}

func programFind(a *analyzer, i invocation, s *shellState) {
	for n := 1; n < len(i.args); n++ {
		word, ok := i.args[n].literal()
		switch {
		case !ok && i.args[n].many && !isFileName(i.args[n]):
			a.opaque(i.node, "what find does is not known")
			return
		case word == "-exec" || word == "-execdir" || word == "-ok" || word == "-okdir":
			var command []field
			for n++; n < len(i.args); n++ {
				word, _ := i.args[n].literal()
				if word == ";" || word == "+" {
					break
				}
				if strings.Contains(word, "{}") {
					command = append(command, field{pieces: value{{kind: pieceAny}}})
				} else {
					command = append(command, i.args[n])
				}
			}
			a.prefixed(i, command, s)
		case strings.HasPrefix(word, "-fprint") || word == "-fls":
			a.opaque(i.node, "it writes a file whose name is not known")
		}
	}
	a.effect(i, classReads, "find")
}

// isFileName is a word of known text that is a pattern.
func isFileName(f field) bool {
	text, constant := f.pieces.constant()
	return constant && !strings.HasPrefix(text, "-") && !strings.HasPrefix(text, "{")
}

// outputFiles are devices that are no files.
var outputFiles = regexp.MustCompile(`^/dev/(null|stdout|stderr|tty|fd/[0-9]+)$|^[0-9]$|^-$|^&[0-9]$`)

// policyFiles decide what crossbill and its Dagger module do.
var policyFiles = regexp.MustCompile(`(^|/)(crossbill\.ya?ml|dagger\.json|\.dagger(/.*)?|ci(/.*)?)$`)

// startupFiles are read by shells and tools before they do anything else.
var startupFiles = regexp.MustCompile(`(^|/)\.(bashrc|bash_profile|bash_login|profile|zshrc|zshenv|kshrc|shrc|curlrc|wgetrc|gitconfig|inputrc|git/.*|ash_history)$|^/etc/|^/proc/|^/sys/|^/usr/lib/|^/lib/|^/lib64/|^/usr/lib64/`)

// dataFile is a file that nothing executes.
var dataFile = regexp.MustCompile(`^/dev/|^/tmp/|(^|/)(exit-code|[^/.][^/]*\.(json|xml|html|txt|log|md|csv|ya?ml|env|tgz|tar|gz|zip|pem|crt|key|pub|pdf|png|svg|out|tmp|sig|sum|sha256|plan|tfplan|cache|kubeconfig|jsonl|ndjson|tap|lcov|sarif|spdx|dat|pid|status)|\.env|kubeconfig|\.kube/config|\.docker/config\.json|known_hosts|_)$`)

// codeFile is one with a name of data that tools read code from.
var codeFile = regexp.MustCompile(`(^|/)(package(-lock)?|deno|nx|turbo|project|lerna|composer|tsconfig[^/]*|[^/]*\.config|[^/]*rc)\.(json|ya?ml)$|(^|/)(requirements|constraints|CMakeLists)[^/]*\.txt$|(^|/)(docker-)?compose[^/]*\.ya?ml$|(^|/)pom\.xml$|(^|/)build\.xml$`)

// writes takes into account that a command writes a file.
func (a *analyzer) writes(node syntax.Node, target value, s *shellState, how string) {
	a.chooses(target, s)
	file, known := a.fileName(target)
	var files []string
	if known && file != "" && !outputFiles.MatchString(file) && !strings.HasPrefix(file, "/dev/") {
		files = a.folders(target, s)
	} else {
		files = []string{file}
	}
	for _, file := range files {
		a.writesFile(node, file, known && file != unknownFolder, s, how)
	}
}

func (a *analyzer) writesFile(node syntax.Node, file string, known bool, s *shellState, how string) {
	if known && !outputFiles.MatchString(file) {
		delete(s.trusted, path.Clean(file))
		delete(s.trusted, "*/"+path.Base(file))
		if (!dataFile.MatchString(file) || codeFile.MatchString(file)) && file != "" {
			s.code = path.Clean(file) + " " + how
		}
	}
	switch {
	case !known:
		a.opaque(node, "the file that it writes is not known")
		s.replaced["*"] = "it writes a file whose name is not known"
	case file == "" || outputFiles.MatchString(file):
	case strings.HasPrefix(file, "/dev/"):
		a.opaque(node, "it writes to a device or an address")
	case startupFiles.MatchString(path.Clean(file)):
		a.opaque(node, "it writes a file that other programs execute or trust")
	case policyFiles.MatchString(path.Clean(file)):
		s.touched = path.Clean(file) + " " + how
	case strings.HasSuffix(file, "/bin") || slices.Contains(binFolders, path.Clean(file)):
		s.replaced["*"] = path.Clean(file) + " " + how
	case slices.Contains(binFolders, path.Dir(path.Clean(file))) || strings.HasSuffix(path.Dir(path.Clean(file)), "/bin"):
		s.replaced[path.Base(file)] = path.Clean(file) + " " + how
	}
}

// programWrites are programs that write files, the last of their arguments or all.
func programWrites(a *analyzer, i invocation, s *shellState) {
	name, _ := i.args[0].literal()
	name = path.Base(name)
	for _, word := range literals(i.args[1:]) {
		if strings.HasPrefix(word, "--filter") || strings.HasPrefix(word, "--strip-program") {
			a.opaque(i.node, name+" may execute a program")
		}
	}
	words := i.args[1:]
	for n, arg := range words {
		word, _ := arg.literal()
		if strings.HasPrefix(word, "-") && word != "-" {
			if name != "tee" && (word == "-t" || strings.HasPrefix(word, "--target-directory")) {
				a.opaque(i.node, "its options are not understood")
			}
			continue
		}
		target := arg.pieces
		switch name {
		case "chmod":
			continue
		case "cp", "mv", "ln", "install":
			if n < len(words)-1 && name != "mv" {
				continue
			}
			if n == len(words)-1 {
				a.copied(i, arg, words[:n], s)
				continue
			}
		case "dd":
			file, found := strings.CutPrefix(word, "of=")
			if !found {
				continue
			}
			target = text(file)
		}
		if arg.many && !isFileName(arg) {
			target = value{{kind: pieceAny}}
		}
		a.writes(i.node, target, s, "is written by "+name)
	}
	a.effect(i, classReads, name)
}

// copied takes into account a copy. What was downloaded from where a program is published, and is put in its place
// under its own name, is that program.
func (a *analyzer) copied(i invocation, target field, sources []field, s *shellState) {
	folder, ok := target.literal()
	name, _ := i.args[0].literal()
	var programs []string
	for _, source := range sources {
		file, known := source.literal()
		switch {
		case known && strings.HasPrefix(file, "-"), known && path.Base(name) == "install" && isMode(file):
			continue
		case !known:
			file = "*"
		}
		program := s.trusted[path.Clean(file)]
		if program == "" {
			program = s.trusted["*/"+path.Base(file)]
		}
		if program != path.Base(file) && program != path.Base(folder) {
			program = ""
		}
		if slices.Contains(binFolders, path.Clean(folder)) {
			if program == "" || program != path.Base(file) {
				s.replaced[path.Base(file)] = "copied to " + folder
			}
			continue
		}
		programs = append(programs, program)
	}
	if ok && slices.Contains(binFolders, path.Clean(folder)) {
		return
	}
	if ok && len(programs) == 1 && programs[0] != "" && programs[0] == path.Base(folder) && path.Base(name) != "ln" {
		s.trusted[path.Clean(folder)] = programs[0]
		return
	}
	pieces := target.pieces
	if target.many {
		pieces = value{{kind: pieceAny}}
	}
	a.writes(i.node, pieces, s, "is written by "+path.Base(name))
}

// isMode is the value of install's options, such as 0755 or root.
func isMode(word string) bool { return isNumber(word) || word == "root" }

// programArchive unpacks files.
func programArchive(a *analyzer, i invocation, s *shellState) {
	name, _ := i.args[0].literal()
	folder, archive, members := "", "", []string{}
	words := literals(i.args[1:])
	for n := 0; n < len(words); n++ {
		word := words[n]
		switch {
		case strings.Contains(word, unknownWord):
			members = append(members, "*")
		case strings.HasPrefix(word, "--to-command") || strings.HasPrefix(word, "--checkpoint-action") || strings.HasPrefix(word, "--use-compress") || strings.HasPrefix(word, "-I") || strings.HasPrefix(word, "--rsh") || strings.HasPrefix(word, "--rmt") || word == "-TT" || strings.HasPrefix(word, "--info-script") || word == "-F":
			a.opaque(i.node, "it executes a command")
		case (word == "-C" || word == "-d" || word == "--directory") && n+1 < len(words):
			folder = words[n+1]
			n++
		case strings.HasPrefix(word, "--directory="):
			folder = strings.TrimPrefix(word, "--directory=")
		case strings.HasPrefix(word, "-C"):
			folder = word[2:]
		case strings.HasPrefix(word, "-") && strings.HasSuffix(word, "f") && !strings.HasPrefix(word, "--") || word == "--file" || n == 0 && strings.HasSuffix(word, "f"):
			if n++; n < len(words) {
				archive = words[n]
			}
		case n == 0 && !strings.HasPrefix(word, "-") && path.Base(name) == "tar": // tar xz
		case !strings.HasPrefix(word, "-"):
			members = append(members, path.Base(word))
		}
	}
	program := s.trusted[path.Clean(archive)]
	if targets := a.downloads(i.input.from, s); len(targets) == 1 {
		program = publishedProgram(targets[0])
	}
	if program != "" {
		members = slices.DeleteFunc(members, func(member string) bool { return member == program })
		if folder == "" || !slices.Contains(binFolders, path.Clean(folder)) {
			s.trusted["*/"+program] = program
		}
		if len(members) == 0 {
			a.effect(i, classReads, path.Base(name))
			return
		}
	}
	switch {
	case strings.Contains(folder, unknownWord):
		a.opaque(i.node, "the folder that it writes to is not known")
	case slices.Contains(binFolders, path.Clean(folder)) || strings.HasSuffix(path.Clean(folder), "/bin"):
		s.replaced["*"] = "unpacked to " + folder
		for _, member := range members {
			s.replaced[member] = "unpacked to " + folder
		}
	case folder == "" && slices.ContainsFunc(s.folders, func(f string) bool {
		return f == unknownFolder || f == "/" || strings.HasPrefix(f, "/") && (slices.Contains(binFolders, f) || strings.HasPrefix(f, "/usr"))
	}):
		a.opaque(i.node, "it unpacks programs, perhaps")
		s.replaced["*"] = "unpacked"
	case folder == "/" || startupFiles.MatchString(path.Clean(folder)+"/"):
		a.opaque(i.node, "it writes files that other programs execute or trust")
	}
	a.effect(i, classReads, path.Base(name))
}

// sedCommand is a command of sed that only edits.
var sedCommand = regexp.MustCompile(`^\s*(([0-9]+|\$|/([^/\\\n]|\\.)*/)(,\s*([0-9]+|\$|\+[0-9]+|/([^/\\\n]|\\.)*/))?)?\s*!?\s*(s(/([^/\\\n]|\\.)*/([^/\\\n]|\\.)*/|\|([^|\\\n]|\\.)*\|([^|\\\n]|\\.)*\||#([^#\\\n]|\\.)*#([^#\\\n]|\\.)*#|,([^,\\\n]|\\.)*,([^,\\\n]|\\.)*,|@([^@\\\n]|\\.)*@([^@\\\n]|\\.)*@|:([^:\\\n]|\\.)*:([^:\\\n]|\\.)*:|~([^~\\\n]|\\.)*~([^~\\\n]|\\.)*~)[gpIi0-9]*|[dpqDPNnhHgGx=]|[qQ][0-9]*|y/[^/]*/[^/]*/)\s*(;|$|\n)`)

func programSed(a *analyzer, i invocation, s *shellState) {
	scripts, files, inPlace := []value{}, []field{}, false
	given := false
	for n := 1; n < len(i.args); n++ {
		word, ok := i.args[n].literal()
		switch {
		case ok && (word == "-e" || word == "--expression") && n+1 < len(i.args):
			n++
			scripts, given = append(scripts, i.args[n].pieces), true
		case ok && strings.HasPrefix(word, "--expression="):
			scripts, given = append(scripts, text(strings.TrimPrefix(word, "--expression="))), true
		case ok && (strings.HasPrefix(word, "-i") || strings.HasPrefix(word, "--in-place")):
			inPlace = true
		case ok && strings.HasPrefix(word, "-") && len(word) > 1 && strings.Trim(word[1:], "nErszui") == "":
			inPlace = inPlace || strings.Contains(word, "i")
		case ok && slices.Contains([]string{"--quiet", "--silent", "--regexp-extended", "--unbuffered", "--null-data", "--posix", "--debug", "-ne", "-Ee", "-re"}, word):
			if strings.HasSuffix(word, "e") && len(word) == 3 && n+1 < len(i.args) {
				n++
				scripts, given = append(scripts, i.args[n].pieces), true
			}
		case ok && strings.HasPrefix(word, "-") && len(word) > 1:
			a.opaque(i.node, "its options are not understood")
			return
		case !given:
			scripts, given = append(scripts, i.args[n].pieces), true
		default:
			files = append(files, i.args[n])
		}
	}
	for _, script := range scripts {
		if !a.isEdit(script) {
			a.opaque(i.node, "sed may execute commands, or write files")
		}
	}
	if inPlace {
		for _, file := range files {
			a.writes(i.node, file.pieces, s, "is edited")
		}
	}
	a.effect(i, classReads, "sed")
}

// isEdit proves that a script of sed only edits.
func (a *analyzer) isEdit(script value) bool {
	all := ""
	for _, p := range script {
		switch {
		case p.kind == pieceText:
			all += p.text
		case p.kind == pieceOutput || p.kind == pieceInput || p.kind == pieceVariable && predefined(p.text):
			all += "x"
		default:
			return false
		}
	}
	for strings.TrimSpace(all) != "" {
		match := sedCommand.FindString(all)
		if match == "" {
			return false
		}
		all = strings.TrimLeft(all[len(match):], "; \n")
	}
	return true
}

func programAwk(a *analyzer, i invocation, _ *shellState) {
	for n, arg := range i.args[1:] {
		word, ok := arg.literal()
		if previous, _ := i.args[n].literal(); previous == "-v" && n > 0 && !arg.many {
			continue // a value
		}
		if !ok {
			word, _ = arg.pieces.constant()
			if !isFileName(arg) || word == "" {
				a.opaque(i.node, "the program of awk is not known")
				return
			}
		}
		if strings.HasPrefix(word, "-f") || strings.HasPrefix(word, "--file") || strings.HasPrefix(word, "-i") || strings.HasPrefix(word, "--include") || strings.HasPrefix(word, "-E") || strings.HasPrefix(word, "--exec") || strings.HasPrefix(word, "-l") || strings.HasPrefix(word, "--load") ||
			strings.Contains(word, "system") || strings.Contains(word, "getline") || strings.Contains(word, ">") && strings.Contains(word, "print") || strings.Contains(strings.ReplaceAll(word, "||", ""), "|") || strings.Contains(word, "@") {
			a.opaque(i.node, "awk may execute commands, or write files")
			return
		}
	}
	a.effect(i, classReads, "awk")
}

func programYq(a *analyzer, i invocation, s *shellState) {
	words := literals(i.args[1:])
	if slices.ContainsFunc(words, func(w string) bool {
		return strings.HasPrefix(w, "-") && !strings.HasPrefix(w, "--") && strings.Contains(w, "i") || w == "--inplace"
	}) {
		for _, arg := range i.args[1:] {
			if word, ok := arg.literal(); !ok || strings.Contains(word, ".y") {
				a.writes(i.node, arg.pieces, s, "is edited")
			}
		}
	}
	a.effect(i, classReads, "yq")
}

func programNetcat(a *analyzer, i invocation, _ *shellState) {
	for _, word := range literals(i.args[1:]) {
		if strings.HasPrefix(word, "-") && strings.Contains(word, "z") && !strings.ContainsAny(word, "ec") {
			a.effect(i, classReads, "nc -z")
			return
		}
	}
	a.opaque(i.node, "what it sends is not known")
}

var gitReads = []string{"clone", "fetch", "pull", "log", "diff", "show", "status", "describe", "rev-parse", "rev-list", "ls-remote", "ls-files", "branch", "tag", "checkout", "switch", "restore", "reset", "add", "commit", "init", "merge-base", "cat-file", "ls-tree", "blame", "shortlog", "stash", "clean", "submodule", "version", "--version", "help", "archive", "remote", "for-each-ref", "symbolic-ref", "name-rev", "merge", "lfs"}

func programGit(a *analyzer, i invocation, s *shellState) {
	words := literals(i.args[1:])
	at := subcommand(words, []string{"-C", "--git-dir", "--work-tree"}, []string{"--no-pager", "-p", "--version", "--help"})
	switch {
	case at < 0:
		a.opaque(i.node, "what git does is not known")
		return
	case at == len(words):
		a.effect(i, classReads, "git")
		return
	}
	for _, word := range words {
		if slices.Contains([]string{"clone", "init", "submodule", "fetch", "pull"}, words[at]) && (word == "-c" || word == "-u") && slices.Index(words, word) > at && words[at] != "pull" {
			a.opaque(i.node, "git may execute a command")
		}
		if slices.ContainsFunc([]string{"--upload-pack", "-u=", "--receive-pack", "--config", "--exec", "-c=", "--template"}, func(p string) bool { return strings.HasPrefix(word, p) }) || strings.HasPrefix(word, "ext::") || word == "foreach" {
			a.opaque(i.node, "git may execute a command")
		}
	}
	a.writtenPrograms(i, "git", s)
	switch subcommand := words[at]; {
	case subcommand == "push":
		a.effect(i, classChanges, "git push")
	case subcommand == "config":
		for _, word := range words[at+1:] {
			if !strings.HasPrefix(word, "-") {
				if !slices.Contains([]string{"user.name", "user.email", "safe.directory", "advice.detachedHead", "init.defaultBranch", "http.sslVerify", "core.autocrlf"}, word) {
					a.opaque(i.node, "it configures how git works")
				}
				break
			}
		}
		a.effect(i, classReads, "git config")
	case slices.Contains(gitReads, subcommand):
		if slices.Contains([]string{"pull", "checkout", "switch", "restore", "reset", "merge", "stash", "clean", "submodule"}, subcommand) {
			s.touched = "git " + subcommand + " may change it"
		}
		a.effect(i, classReads, "git "+subcommand)
	default:
		a.opaque(i.node, "what `git "+subcommand+"` does is not known")
	}
}

func programDocker(a *analyzer, i invocation, _ *shellState) {
	name, _ := i.args[0].literal()
	words := literals(i.args[1:])
	at := subcommand(words, []string{"--config", "-H", "--host", "-c", "--context", "--log-level", "-l"}, []string{"-D", "--debug", "--tls", "--version", "--help"})
	if at < 0 {
		a.opaque(i.node, "what "+name+" does is not known")
		return
	}
	if at == len(words) {
		a.effect(i, classReads, name)
		return
	}
	switch subcommand := words[at]; {
	case slices.Contains([]string{"login", "logout", "pull", "push", "build", "buildx", "tag", "images", "image", "info", "version", "ps", "logs", "inspect", "manifest", "save", "load", "rmi", "rm", "stop", "port", "top", "stats", "search", "history", "bud", "from"}, subcommand):
		if (subcommand == "build" || subcommand == "buildx" || subcommand == "bud") && slices.ContainsFunc(words, func(w string) bool {
			return strings.HasPrefix(w, "--secret") || strings.HasPrefix(w, "--ssh") || strings.HasPrefix(w, "--allow") || w == "bake"
		}) {
			a.opaque(i.node, "the build gets secrets or rights")
		}
		a.effect(i, classReads, name+" "+subcommand)
	case slices.Contains([]string{"stack", "service", "swarm", "node"}, subcommand):
		a.effect(i, classChanges, name+" "+subcommand)
	default:
		a.opaque(i.node, "what it executes in a container is not known")
	}
}
