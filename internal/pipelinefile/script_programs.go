package pipelinefile

import (
	"iter"
	"path"
	"slices"
	"strings"
)

// program executes a command that is neither a function nor one of the shell's own.
func (a *analyzer) program(i invocation, name string, s *shellState) {
	i.state = s
	a.setsUpTarget(i)
	base := name
	if strings.Contains(name, "/") {
		base = path.Base(name)
		if program, ok := s.trusted[path.Clean(name)]; ok && program == base {
			a.dispatch(i, base, s)
			return
		}
		if !slices.Contains(binFolders, path.Dir(name)) {
			a.opaque(i.node, "it executes a file that is not a part of the pipeline file")
			if _, ok := programs[base]; ok { // it is perhaps that program
				a.dispatch(i, base, s)
			}
			return
		}
	}
	if how, ok := s.replaced[base]; ok {
		a.opaque(i.node, "the script itself provides "+base+": "+how)
	} else if how, ok := s.replaced["*"]; ok {
		a.opaque(i.node, "the script itself may provide "+base+": "+how)
	}
	a.dispatch(i, base, s)
}

func (a *analyzer) dispatch(i invocation, base string, s *shellState) {
	switch handler, ok := programs[base]; {
	case ok:
		handler(a, i, s)
	case harmless[base]:
		a.writtenPrograms(i, base, s)
		a.effect(i, classReads, base)
	default:
		a.opaque(i.node, "what "+base+" does is not known")
	}
}

// onlyPrint are programs that write no files.
var onlyPrint = strings.Fields("cat tac head tail wc tr cut nl rev grep egrep fgrep ls stat du which whereis basename dirname realpath readlink file echo printf test sha256sum sha512sum sha1sum md5sum cksum strings diff cmp od hexdump rm rmdir mkdir jq getent date seq sleep")

// writtenPrograms takes into account that a program may write one of its arguments.
func (a *analyzer) writtenPrograms(i invocation, base string, s *shellState) {
	for _, word := range literals(i.args[1:]) {
		if slices.ContainsFunc([]string{"--compress-program", "--filter", "--pre", "-engine", "-provider", "--strip-program", "--photo-viewer", "--exec", "-D"}, func(p string) bool { return strings.HasPrefix(word, p) }) && slices.Contains([]string{"sort", "split", "rg", "openssl", "install", "gpg", "ssh-keygen"}, base) {
			a.opaque(i.node, base+" may execute a program")
		}
	}
	if slices.Contains(onlyPrint, base) {
		return
	}
	for _, arg := range i.args[1:] {
		if file, known := arg.pieces.constant(); known {
			if _, option, assigned := strings.Cut(file, "="); assigned && strings.HasPrefix(file, "-") {
				file = option
			} else if len(file) > 2 && strings.HasPrefix(file, "-o") {
				file = file[2:]
			}
			if strings.HasPrefix(file, "/") || strings.HasPrefix(file, "~") || strings.HasPrefix(file, "..") || s.moved() && !strings.Contains(file, "://") && !strings.HasPrefix(file, "-") {
				a.writes(i.node, text(file), s, "is perhaps written by "+base)
			}
		}
	}
}

// harmless are programs that change nothing but files of the job, whatever their arguments are.
var harmless = map[string]bool{}

func init() {
	for name := range strings.FieldsSeq(`cat tac head tail wc tr cut sort uniq nl rev fold paste comm expand unexpand column fmt grep egrep fgrep rg zgrep zcat bzcat xzcat
		diff cmp date sleep seq basename dirname realpath readlink ls stat du df free id whoami groups hostname uname arch nproc ps top uptime printenv which whereis getent
		mktemp mkdir rmdir rm touch update-ca-certificates base64 base32 md5sum sha1sum sha256sum sha512sum shasum cksum sum b2sum od xxd hexdump strings file iconv dos2unix unix2dos
		jq gron envsubst expr bc factor numfmt shuf yes sync tty logger uuidgen nslookup dig host ping traceroute tput clear locale lsb_release
		true false test echo printf pwd gzip gunzip bzip2 xz zstd chown chgrp openssl gpg gpgconf ssh-keyscan ssh-keygen html2text xmllint cal who last
		hadolint shellcheck yamllint markdownlint grype syft gitleaks kubeconform kubeval kube-score promtool tree getconf lscpu pgrep pidof lsof ss netstat ip ifconfig jo dasel sendmail msmtp`) {
		harmless[name] = true
	}
}

// programs are those whose arguments decide.
var programs map[string]func(*analyzer, invocation, *shellState)

func init() { // they start each other
	programs = map[string]func(*analyzer, invocation, *shellState){
		"crossbill": programCrossbill, "dagger": programDagger, "kubectl": programKubectl, "oc": programKubectl, "helm": programHelm,
		"curl": programCurl, "wget": programWget, "sh": programShell, "bash": programShell, "ash": programShell, "dash": programShell, "zsh": programShell, "ksh": programShell,
		"env": programEnv, "sudo": programSudo, "doas": programSudo, "timeout": programTimeout, "nice": programPrefix, "ionice": programPrefix, "nohup": programPrefix, "setsid": programPrefix,
		"stdbuf": programPrefix, "time": programPrefix, "unbuffer": programPrefix, "chronic": programPrefix, "eatmydata": programPrefix, "busybox": programBusybox, "xargs": programXargs, "find": programFind,
		"tee": programWrites, "cp": programWrites, "mv": programWrites, "ln": programWrites, "install": programWrites, "chmod": programWrites, "truncate": programWrites, "dd": programWrites, "split": programWrites,
		"tar": programArchive, "unzip": programArchive, "bsdtar": programArchive, "cpio": programArchive,
		"sed": programSed, "awk": programAwk, "gawk": programAwk, "mawk": programAwk, "yq": programYq, "git": programGit, "docker": programDocker, "podman": programDocker, "nerdctl": programDocker, "buildah": programDocker,
		"kustomize": programKustomize, "nc": programNetcat, "ncat": programNetcat, "rsync": programOpaque, "scp": programOpaque, "ssh": programOpaque,
	}
	for name := range readingCommands {
		programs[name] = programTable
	}
	for name, changes := range deployers {
		programs[name] = func(a *analyzer, i invocation, _ *shellState) {
			word := "?"
			if len(i.args) > 1 {
				word, _ = i.args[1].literal()
			}
			if word == "version" || word == "--version" || word == "help" || word == "--help" {
				a.effect(i, classReads, name)
				return
			}
			a.effect(i, classChanges, changes)
		}
	}
}

// deployers are programs that are there to change a cluster.
var deployers = map[string]string{
	"helmfile": "helmfile", "ansible": "ansible", "ansible-playbook": "ansible-playbook", "kapp": "kapp", "werf": "werf", "pulumi": "pulumi", "cdk": "cdk", "cdktf": "cdktf", "eksctl": "eksctl",
	"kn": "kn", "fly": "fly", "flyctl": "flyctl", "nomad": "nomad", "waypoint": "waypoint", "tanka": "tanka", "tk": "tk", "docker-compose": "docker-compose", "serverless": "serverless", "sls": "serverless",
	"doctl": "doctl", "heroku": "heroku", "cf": "cf", "linkerd": "linkerd", "velero": "velero", "calicoctl": "calicoctl", "etcdctl": "etcdctl", "kubeadm": "kubeadm", "virtctl": "virtctl", "terragrunt": "terragrunt",
}

// readingCommands are programs whose first words say what they do: those listed read, the others change something.
var readingCommands = map[string]struct {
	reads   []string // the first words; * stands for any
	others  effectClass
	flags   string // options before the subcommand that have a value
	changes []string
}{
	"argocd":            {reads: []string{"app get", "app list", "app diff", "app wait", "app history", "app logs", "app manifests", "app resources", "version", "login", "context", "account get-user-info", "cluster list", "repo list", "proj list"}, others: classChanges},
	"flux":              {reads: []string{"get", "check", "version", "logs", "diff", "tree", "stats", "events", "export", "trace", "build", "pull"}, others: classChanges},
	"istioctl":          {reads: []string{"version", "analyze", "proxy-status", "ps", "proxy-config", "pc", "validate", "x describe", "experimental describe"}, others: classChanges},
	"terraform":         {reads: []string{"plan", "validate", "fmt", "init", "show", "output", "version", "providers", "graph", "state list", "state show", "workspace list", "workspace select", "workspace show"}, others: classChanges},
	"tofu":              {reads: []string{"plan", "validate", "fmt", "init", "show", "output", "version", "providers", "graph", "state list", "state show", "workspace list", "workspace select", "workspace show"}, others: classChanges},
	"skaffold":          {reads: []string{"build", "render", "diagnose", "version"}, others: classChanges},
	"aws":               {reads: []string{"sts *", "configure list", "configure get", "configure set region", "configure set output", "configure set default.*", "configure set aws_*", "eks update-kubeconfig", "eks describe-*", "eks list-*", "ecr get-login-password", "ecr describe-*", "ecr list-*", "ecr get-*", "s3 ls", "ec2 describe-*", "iam get-*", "iam list-*", "secretsmanager get-*", "ssm get-*", "cloudwatch get-*", "logs get-*", "logs describe-*", "--version"}, others: classChanges},
	"gcloud":            {reads: []string{"auth *", "config *", "container clusters get-credentials", "container clusters list", "container clusters describe", "container images list*", "info", "version", "--version", "projects list", "projects describe", "secrets versions access", "artifacts docker images list", "artifacts docker images describe"}, others: classChanges},
	"az":                {reads: []string{"login", "logout", "account show", "account set", "account list", "aks get-credentials", "aks show", "aks list", "acr login", "acr show", "acr list", "version", "--version"}, others: classChanges},
	"glab":              {reads: []string{"ci status", "ci list", "ci view", "ci lint", "ci get", "ci trace", "mr view", "mr list", "mr note", "mr diff", "issue *", "auth status", "auth login", "release view", "release list", "version", "--version", "repo view"}, others: classChanges},
	"gh":                {reads: []string{"auth status", "auth login", "pr view", "pr list", "pr comment", "pr diff", "pr checks", "issue *", "run list", "run view", "run watch", "release view", "release list", "release download", "--version", "version", "repo view"}, others: classChanges},
	"argo":              {reads: []string{"list", "get", "logs", "version", "wait", "watch", "lint"}, others: classChanges},
	"vault":             {reads: []string{"read", "kv get", "kv list", "login", "status", "token lookup", "version", "list", "print", "write -field=* auth/*", "write auth/jwt/login"}, others: classOpaque},
	"crane":             {reads: []string{"digest", "manifest", "config", "ls", "catalog", "validate", "version", "auth *", "pull", "export"}, others: classOpaque},
	"skopeo":            {reads: []string{"inspect", "list-tags", "login", "logout", "--version", "manifest-digest"}, others: classOpaque},
	"cosign":            {reads: []string{"verify", "verify-attestation", "verify-blob", "tree", "triangulate", "download *", "version", "sign", "attest", "login"}, others: classOpaque},
	"oras":              {reads: []string{"discover", "pull", "manifest fetch*", "repo *", "login", "version", "resolve"}, others: classOpaque},
	"apk":               {reads: []string{"add", "update", "upgrade", "info", "del", "search", "list", "fetch", "--no-cache", "-U", "--update", "-q", "--quiet"}, others: classOpaque},
	"apt-get":           {reads: []string{"install", "update", "upgrade", "clean", "autoremove", "remove", "purge", "-y", "-q", "-qq", "-yq", "-yqq", "-qy", "-qqy", "--yes", "--quiet"}, others: classOpaque},
	"apt":               {reads: []string{"install", "update", "upgrade", "clean", "autoremove", "remove", "list", "show", "-y", "-q", "-qq"}, others: classOpaque},
	"apt-cache":         {reads: []string{"*"}, others: classOpaque},
	"apt-key":           {reads: []string{"add"}, others: classOpaque},
	"dpkg":              {reads: []string{"-l", "-s", "-L", "--list", "--print-architecture", "--get-selections"}, others: classOpaque},
	"yum":               {reads: []string{"install", "update", "-y", "-q", "clean", "makecache"}, others: classOpaque},
	"dnf":               {reads: []string{"install", "update", "-y", "-q", "clean", "makecache"}, others: classOpaque},
	"microdnf":          {reads: []string{"install", "update", "-y", "clean"}, others: classOpaque},
	"brew":              {reads: []string{"install", "update"}, others: classOpaque},
	"pip":               {reads: []string{"install", "list", "freeze", "show", "--version", "download", "check"}, others: classOpaque},
	"pip3":              {reads: []string{"install", "list", "freeze", "show", "--version", "download", "check"}, others: classOpaque},
	"pipx":              {reads: []string{"install"}, others: classOpaque},
	"python":            {reads: []string{"--version", "-V", "-m pytest", "-m json.tool", "-m venv", "-m pip install", "-m unittest"}, others: classOpaque},
	"python3":           {reads: []string{"--version", "-V", "-m pytest", "-m json.tool", "-m venv", "-m pip install", "-m unittest"}, others: classOpaque},
	"node":              {reads: []string{"--version", "-v"}, others: classOpaque},
	"npm":               {reads: []string{"ci", "install", "i", "test", "t", "--version", "-v", "run test", "run lint", "run e2e", "run smoke", "run test:*", "audit", "ls", "outdated", "config get", "view"}, others: classOpaque},
	"pnpm":              {reads: []string{"install", "i", "test", "t", "--version", "-v", "run test", "run lint", "run e2e", "run smoke", "run test:*", "audit", "ls", "lint", "outdated"}, others: classOpaque},
	"yarn":              {reads: []string{"install", "test", "--version", "-v", "run test", "run lint", "run e2e", "run smoke", "run test:*", "audit", "lint"}, others: classOpaque},
	"corepack":          {reads: []string{"enable", "prepare", "--version"}, others: classOpaque},
	"npx":               {reads: []string{"playwright test", "playwright install", "cypress run", "newman run", "jest", "vitest", "eslint", "prettier", "tsc", "lighthouse", "lhci", "wait-on"}, others: classOpaque},
	"trivy":             {reads: []string{"image", "fs", "filesystem", "config", "repo", "sbom", "version", "--version"}, others: classOpaque},
	"k6":                {reads: []string{"run", "version", "inspect"}, others: classOpaque},
	"newman":            {reads: []string{"run", "--version"}, others: classOpaque},
	"pytest":            {reads: []string{"*"}, others: classOpaque},
	"playwright":        {reads: []string{"test", "install"}, others: classOpaque},
	"cypress":           {reads: []string{"run", "verify", "info"}, others: classOpaque},
	"robot":             {reads: []string{"*"}, others: classOpaque},
	"hurl":              {reads: []string{"*"}, others: classOpaque},
	"go":                {reads: []string{"test", "version", "vet", "build", "mod download", "mod verify", "env", "fmt", "list"}, others: classOpaque},
	"cargo":             {reads: []string{"test", "--version", "build", "check", "fmt", "clippy"}, others: classOpaque},
	"mvn":               {reads: []string{"test", "verify", "--version", "package", "-B test", "-B verify"}, others: classOpaque},
	"gradle":            {reads: []string{"test", "check", "--version", "build"}, others: classOpaque},
	"vegeta":            {reads: []string{"attack", "report", "plot", "encode"}, others: classOpaque},
	"hey":               {reads: []string{"*"}, others: classOpaque},
	"wrk":               {reads: []string{"-t*", "-c*", "-d*", "http*"}, others: classOpaque},
	"ab":                {reads: []string{"*"}, others: classOpaque},
	"grpcurl":           {reads: []string{"*"}, others: classOpaque},
	"grpc_health_probe": {reads: []string{"*"}, others: classOpaque},
	"sops":              {reads: []string{"-d", "--decrypt", "decrypt"}, others: classOpaque},
	"op":                {reads: []string{"read", "item get", "signin"}, others: classOpaque},
	"amtool":            {reads: []string{"alert query", "alert", "config show", "check-config"}, others: classOpaque},
	"systemctl":         {reads: []string{"status", "is-active"}, others: classOpaque},
	"service":           {reads: []string{"* status"}, others: classOpaque},
}

// tableValued are options with a value that stand before the subcommand.
var tableValued = strings.Fields("--region --profile --output --endpoint-url --subscription --project --account --format -R --repo --server --auth-token -n --namespace --context --kubeconfig -i --prefix")

// codeRunners execute code of the repository, such as its tests. That is not a part of the pipeline file; only code
// that the script itself writes is.
var codeRunners = strings.Fields("python python3 npm pnpm yarn npx k6 newman pytest playwright cypress robot hurl go cargo mvn gradle")

// programTable decides by the first words of the command.
func programTable(a *analyzer, i invocation, s *shellState) {
	name, _ := i.args[0].literal()
	name = path.Base(name)
	rule := readingCommands[name]
	if s.code != "" && slices.Contains(codeRunners, name) {
		a.opaque(i.node, "it executes code that the script itself has written: "+s.code)
	}
	words := literals(i.args[1:])
	for len(words) > 1 && strings.HasPrefix(words[0], "-") && !slices.ContainsFunc(rule.reads, func(r string) bool { return strings.HasPrefix(r, words[0]) }) {
		switch option, _, assigned := strings.Cut(words[0], "="); {
		case assigned:
			words = words[1:]
		case slices.Contains(tableValued, option) && words[1] != unknownList:
			words = words[2:]
		default:
			words = append([]string{unknownWord}, words[1:]...)
		}
	}
	if why := executes(name, literals(i.args[1:])); why != "" {
		a.opaque(i.node, why)
	}
	for _, reads := range rule.reads {
		pattern := strings.Fields(reads)
		if len(words) >= len(pattern) && !slices.ContainsFunc(words[:len(pattern)], func(w string) bool { return strings.Contains(w, unknownWord) }) && matches(pattern, words) || reads == "*" {
			a.effect(i, classReads, name+" "+reads)
			return
		}
	}
	kind := name
	if len(words) > 0 && !strings.Contains(words[0], unknownWord) {
		kind += " " + words[0]
	}
	if rule.others == classOpaque {
		kind = "what `" + kind + "` does is not known"
	}
	a.effect(i, rule.others, kind)
}

// npmExecutes are options of npm, pnpm, and yarn that name a program, or a file that names one.
var npmExecutes = []string{"shell", "script-shell", "node-options", "userconfig", "globalconfig", "git", "node-gyp", "pnpmfile", "global-pnpmfile", "use-yarnrc"}

// executesByOption says whether npm may take an option for one of these: it reads -option as --option, and the beginning of a name as
// the whole (nopt, abbrev).
func executesByOption(option string) bool {
	return len(option) > 1 && !slices.Contains([]string{"global", "no"}, option) &&
		slices.ContainsFunc(npmExecutes, func(name string) bool { return strings.HasPrefix(name, option) })
}

// executes says why the options of a program make it execute something else, "" when they do not.
func executes(name string, words []string) string {
	for n, word := range words {
		next := ""
		if n+1 < len(words) {
			next = words[n+1]
		}
		option, _, _ := strings.Cut(strings.TrimLeft(word, "-"), "=")
		switch name {
		case "go":
			if strings.HasPrefix(word, "-") && slices.Contains([]string{"exec", "toolexec", "vettool", "overlay"}, option) {
				return "go may execute a program"
			}
		case "npm", "pnpm", "yarn":
			if strings.HasPrefix(word, "-") && (executesByOption(option) || strings.HasPrefix(option, "config.")) {
				return word + " may execute a program"
			}
		case "k6":
			if word == "-" {
				return "it executes what it reads"
			}
		case "apk":
			repository := next
			if _, assigned, ok := strings.Cut(word, "="); ok {
				repository = assigned
			}
			if strings.HasPrefix(word, "--allow-untrusted") || (strings.HasPrefix(word, "--repositor") || strings.HasPrefix(word, "-X")) && !strings.HasPrefix(repository, "https://dl-cdn.alpinelinux.org/") || strings.HasSuffix(word, ".apk") || strings.HasPrefix(word, "--root") || strings.HasPrefix(word, "-p") {
				return "it installs programs from elsewhere"
			}
		case "apt", "apt-get", "yum", "dnf", "microdnf":
			if !strings.HasPrefix(word, "-") && strings.Contains(word, "/") && n > 0 && words[n-1] != "-t" {
				return "it installs programs from elsewhere"
			}
			if (strings.HasPrefix(word, "-o") || strings.HasPrefix(word, "--option") || strings.HasPrefix(word, "-c")) && !strings.HasPrefix(strings.TrimPrefix(word, "-o")+next, "Acquire::") && !strings.HasPrefix(strings.TrimPrefix(word, "-o")+next, "Dpkg::Options::=--force-conf") {
				return "its options may execute a program"
			}
		}
	}
	return ""
}

func matches(pattern, words []string) bool {
	for i, p := range pattern {
		if ok, _ := path.Match(p, words[i]); !ok && p != "*" {
			return false
		}
	}
	return true
}

// effect reports what a command does, which variables it relies on, and what it deploys.
func (a *analyzer) effect(i invocation, class effectClass, kind string) {
	a.report(class, a.nodeText(i.node), a.nodeLine(i.node), kind)
	if class == classReads {
		return
	}
	a.usesOf(i)
	if i.state != nil {
		a.targetsOf(i, i.state)
	}
}

// where are options that say where a command acts, with which rights or by which code.
var where = []string{
	"-n", "-m", "-s", "--context", "--kube-context", "--namespace", "--kubeconfig", "--kubeconfig-file", "--config", "--config-file", "--cluster", "--user", "--server", "--token", "--as", "--manifests", "--manifests-dir", "--manifests-bundle",
	"--prometheus", "--prometheus-service", "--cli", "--cli-image", "--cli-source", "--image", "--bundle", "--mod", "--kube-apiserver", "--kube-token", "--app", "--app-name",
}

// byOption gives the value of each argument of a call with the option that it belongs to, as --option=value or as the word behind it;
// "" for an argument of the command itself.
func byOption(call []field) iter.Seq2[string, value] {
	return func(yield func(string, value) bool) {
		next := ""
		for n, arg := range call {
			if n == 0 {
				continue // the command
			}
			option, pieces := next, arg.pieces
			next = ""
			if len(pieces) > 0 && pieces[0].kind == pieceText && strings.HasPrefix(pieces[0].text, "-") {
				flag, rest, assigned := strings.Cut(pieces[0].text, "=")
				option = flag
				if !assigned && len(pieces) == 1 {
					next = flag
				}
				if pieces = pieces[1:]; assigned {
					pieces = append(value{{kind: pieceText, text: rest}}, pieces...)
				}
			}
			if !yield(option, pieces) {
				return
			}
		}
	}
}

// usesOf reports variables that decide where or what, and that only the job's environment sets.
func (a *analyzer) usesOf(i invocation) {
	for option, pieces := range byOption(i.args) {
		for _, p := range pieces {
			if p.kind == pieceVariable && (slices.Contains(where, option) || guarded(p.text)) && !trusted(p.text) {
				a.use(i, p.text)
			}
		}
	}
	for name, values := range i.env {
		for _, v := range values {
			for _, p := range v {
				if p.kind == pieceVariable && guarded(name) && !trusted(p.text) {
					a.use(i, p.text)
				}
			}
		}
	}
}

// trusted are variables that a correct file takes from the environment: those that GitLab sets, and secrets of the
// project. KUBECONFIG is that of GitLab's agent.
func trusted(name string) bool {
	return predefined(name) || name == "KUBECONFIG" || strings.HasPrefix(name, "REGISTRY_") ||
		strings.HasPrefix(name, "CROSSBILL_") && (strings.HasSuffix(strings.TrimSuffix(name, "_FILE"), "TOKEN") || strings.HasSuffix(name, "WEBHOOK") || strings.HasSuffix(name, "PUSHGATEWAY") || strings.HasSuffix(name, "ENDPOINT"))
}

func (a *analyzer) use(i invocation, variable string) {
	line, text := a.nodeLine(i.node), a.nodeText(i.node)
	if a.site != nil {
		text = a.site.text
	}
	use := variableUse{Line: line, Variable: variable, Command: shorten(a.placeholders.restore(text))}
	if !slices.Contains(a.found.uses, use) {
		a.found.uses = append(a.found.uses, use)
	}
}

func programOpaque(a *analyzer, i invocation, _ *shellState) {
	name, _ := i.args[0].literal()
	a.opaque(i.node, "what "+name+" does elsewhere is not known")
}

// Stand-ins for words whose text is not known.
const (
	unknownWord = "\x00"  // one word
	unknownList = "\x00*" // any number of words
)

// literals are the texts of words. One of which only the beginning is known, such as --namespace=$X, keeps that.
func literals(args []field) []string {
	words := make([]string, 0, len(args))
	for _, arg := range args {
		word, ok := arg.literal()
		switch {
		case arg.many:
			word = unknownList
		case !ok && arg.pieces[0].kind == pieceText && strings.HasPrefix(arg.pieces[0].text, "-") && strings.Contains(arg.pieces[0].text, "="):
			word = arg.pieces[0].text + unknownWord
		case !ok:
			word = unknownWord
		}
		words = append(words, word)
	}
	return words
}

// subcommand finds the first word that is no option. valued are the options with a value, flags those without.
// It is -1 when it is not known which word that is.
func subcommand(words []string, valued, flags []string) int {
	for n := 0; n < len(words); n++ {
		word := words[n]
		name, _, assigned := strings.Cut(word, "=")
		switch {
		case word == unknownWord || word == unknownList:
			return -1
		case !strings.HasPrefix(word, "-") || word == "-":
			return n
		case assigned && (strings.HasPrefix(word, "--") || slices.Contains(valued, name)):
		case slices.Contains(valued, name):
			n++
			if n < len(words) && words[n] == unknownList {
				return -1
			}
		case slices.Contains(flags, name):
		case !strings.HasPrefix(word, "--") && len(word) > 2 && slices.Contains(valued, word[:2]): // -nproduction
		default:
			return -1
		}
	}
	return len(words)
}
