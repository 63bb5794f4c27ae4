package pipelinefile

import (
	"path"
	"slices"
	"strings"
)

var crossbillReads = []string{"status", "history", "replay", "report", "watch", "lint", "version", "help", "completion", "image", "plan", "inspect", "check", "bundle", "proposal", "doctor", "init", "gitops", "--version", "--help", "-h"}

// crossbillClass is what a command of crossbill does.
func crossbillClass(command string) (effectClass, bool) {
	switch {
	case command == "promote", command == "run": // the latter by approvals in Git, which the file does not show
		return classPromotes, true
	case slices.Contains([]string{"queue", "canary", "verify", "approve", "rollback", "guard", "cancel", "hold", "resume", "preview"}, command):
		return classCanary, true
	case slices.Contains([]string{"cleanup", "shift", "migrate", "recover", "trigger", "propose", "release"}, command):
		return classChanges, true
	case slices.Contains(crossbillReads, command):
		return classReads, true
	}
	return classOpaque, false
}

// crossbillFlags are options of the crossbill command without a value.
var crossbillFlags = []string{"--verbose", "-v", "--dry-run", "--again", "--sticky", "--explain", "--all", "--all-namespaces", "-A", "--takeover", "--watch", "-w", "--observe", "--no-rollback", "--keyless", "--variables", "--approve-as-operator", "--merge-request", "--require-provenance", "--apply-others", "--allow-secrets", "--hold", "--leave", "--follow", "--once", "--in-git", "--approved-in-git"}

// isDryRun says whether --dry-run is certainly an option, and not the value of another one.
func isDryRun(words []string, accepted, flags []string) bool {
	found := false
	for n, word := range words {
		if word == "--" || word == unknownWord || word == unknownList {
			return false
		}
		if !strings.HasPrefix(word, "--dry-run") {
			continue
		}
		if !slices.Contains(accepted, word) {
			return false
		}
		if n > 0 && strings.HasPrefix(words[n-1], "-") && !strings.Contains(words[n-1], "=") && !slices.Contains(flags, words[n-1]) {
			return false
		}
		found = true
	}
	return found
}

func programCrossbill(a *analyzer, i invocation, s *shellState) {
	words := literals(i.args[1:])
	at := subcommand(words, []string{"--app", "--config", "--manifests", "--context", "--namespace", "-n", "--kubeconfig", "--prometheus", "--by", "-o", "--output", "--timeout"}, crossbillFlags)
	if at < 0 {
		a.opaque(i.node, "which command of crossbill it is, is not known")
		for _, word := range words { // it may be any of these
			if class, ok := crossbillClass(word); ok && class != classReads {
				a.crossbillEffect(i, class, word)
			}
		}
		return
	}
	if at == len(words) {
		a.effect(i, classReads, "crossbill")
		return
	}
	class, known := crossbillClass(words[at])
	switch {
	case !known:
		a.opaque(i.node, "`crossbill "+words[at]+"` is not known")
		return
	case isDryRun(words, []string{"--dry-run", "--dry-run=true"}, crossbillFlags):
		class = classReads
	}
	if words[at] == "proposal" && at == 0 {
		a.readsProposal(words[1:], s)
	}
	a.crossbillCall(i, class, words[at], words[at+1:])
}

// crossbillCall reports a command of crossbill with the words behind it. A rollback to a release that it names gives that
// one all of the traffic, and so does what a promotion does.
func (a *analyzer) crossbillCall(i invocation, class effectClass, command string, words []string) {
	if command == "rollback" && class != classReads {
		switch namesRelease(words) {
		case yes:
			class, command = classChanges, returning
		case unknown:
			a.opaque(i.node, "whether it returns to another release is not known")
		}
	}
	if command == "canary" && follows(words) {
		command = following
	}
	a.crossbillEffect(i, class, command)
}

// following is the command that takes a release through its steps, and judges it at each: a canary and its verdict.
const following = "canary --follow"

// follows says whether canary certainly has --follow. It may not be the value of another option, nor be taken back.
func follows(words []string) bool {
	at := slices.Index(words, "--follow")
	behind := at > 0 && strings.HasPrefix(words[at-1], "-") && !strings.Contains(words[at-1], "=") && !slices.Contains(crossbillFlags, words[at-1])
	return at >= 0 && !behind && !slices.Contains(words[:at], "--") && !slices.ContainsFunc(words, func(word string) bool {
		return strings.HasPrefix(word, "--follow=") || word == unknownList
	})
}

// returning is the command that gives an earlier release all of the traffic.
const returning = "rollback --to"

// namesRelease says whether a rollback names the release that it goes back to. A word that is not known may be an option, if
// it is not behind one.
func namesRelease(words []string) truth {
	found := no
	for n, word := range words {
		valued := n > 0 && strings.HasPrefix(words[n-1], "-") && !strings.Contains(words[n-1], "=") && !slices.Contains(crossbillFlags, words[n-1])
		switch {
		case word == "--to" || strings.HasPrefix(word, "--to="):
			return yes
		case word == unknownList || word == unknownWord && !valued:
			found = unknown
		}
	}
	return found
}

func (a *analyzer) crossbillEffect(i invocation, class effectClass, command string) {
	a.effect(i, class, "crossbill "+command)
	if class != classReads {
		a.imageOptions(i, "--image", "--bundle", "--manifests-bundle")
	}
}

// daggerFlags are the options of `dagger` and `dagger call` without a value.
var daggerFlags = []string{"-d", "--debug", "-q", "--quiet", "-qq", "-s", "--silent", "-v", "-vv", "-vvv", "--verbose", "-j", "--json", "-i", "--interactive", "-E", "--no-exit", "-M", "--no-mod", "-y", "--auto-apply", "-w", "--web"}

func programDagger(a *analyzer, i invocation, s *shellState) {
	words := literals(i.args[1:])
	at := subcommand(words, []string{"-m", "--mod", "--progress", "--cloud", "-o", "--output", "--workdir", "--env-file"}, daggerFlags)
	if at < 0 || at == len(words) {
		a.opaque(i.node, "what dagger does is not known")
		return
	}
	switch words[at] {
	case "version", "functions", "login", "logout", "help", "completion", "check":
		a.effect(i, classReads, "dagger "+words[at])
		return
	case "run":
		inner := i
		inner.external = true
		rest := i.args[at+2:]
		for len(rest) > 0 {
			if word, ok := rest[0].literal(); !ok || !strings.HasPrefix(word, "-") {
				break
			}
			rest = rest[1:]
		}
		a.invoke(inner.with(rest), s)
		return
	case "call":
	default:
		a.opaque(i.node, "what `dagger "+words[at]+"` does is not known")
		return
	}
	a.daggerModule(i, words, s)
	function := a.daggerFunction(i, words[at+1:])
	if function == "" {
		return
	}
	if slices.Contains([]string{"preview-up", "preview-down", "preview-list"}, function) {
		a.crossbillCall(i, classCanary, "preview", words[slices.Index(words, function)+1:])
		return
	}
	class, known := crossbillClass(function)
	if slices.Contains([]string{"build", "publish", "rehearse", "cli"}, function) {
		class, known = classReads, true
		a.daggerChain(i, function, words)
	}
	if !known || slices.Contains([]string{"lint", "replay", "image", "migrate", "recover"}, function) {
		a.opaque(i.node, "the function "+function+" of the Dagger module is not known")
		return
	}
	a.crossbillCall(i, class, function, words[slices.Index(words, function)+1:])
}

// daggerFunction finds the function that `dagger call` calls, "" when it is not known. An option may be one without a
// value: then the word behind it is the function.
func (a *analyzer) daggerFunction(i invocation, words []string) string {
	for n := 0; n < len(words); n++ {
		word := words[n]
		switch {
		case word == unknownWord || word == unknownList:
			a.opaque(i.node, "which function `dagger call` calls is not known")
			return ""
		case !strings.HasPrefix(word, "-"):
			return word
		case strings.Contains(word, "=") || slices.Contains(daggerFlags, word):
		case n+1 < len(words):
			if class, ok := crossbillClass(words[n+1]); ok && class >= classCanary && !slices.Contains(daggerOptions, word) {
				a.crossbillEffect(i, class, words[n+1])
			}
			if words[n+1] == unknownList {
				a.opaque(i.node, "which function `dagger call` calls is not known")
				return ""
			}
			n++
		}
	}
	a.effect(i, classReads, "dagger call")
	return ""
}

// daggerOptions are options of crossbill's module, and of dagger, that have a value.
var daggerOptions = []string{
	"-m", "--mod", "-o", "--output", "--progress", "--cli", "--cli-image", "--cli-source", "--manifests", "--manifests-dir", "--manifests-bundle", "--config-file", "--kubeconfig", "--kubeconfig-file", "--context", "--namespace",
	"--prometheus", "--by", "--registry-host", "--registry-username", "--registry-password", "--github-token", "--notify-gitlab-token", "--github-repository", "--environment-url", "--webhook", "--webhook-url", "--pushgateway", "--otlp-endpoint", "--gitlab-url", "--gitlab-token", "--project", "--app-dir", "--app-name", "--tool-images",
}

// daggerCredentials are options of crossbill's module whose values are secrets, and what belongs to them.
var daggerCredentials = []string{
	"--registry-host", "--registry-username", "--registry-password", "--github-token", "--notify-gitlab-token", "--webhook-url", "--chat-addresses", "--id-token", "--prometheus-http-config",
	"--gitops-token", "--gitops-ssh-key", "--gitops-known-hosts", "--gitops-signing-key", "--gitlab-token",
}

// withoutCredentials are the lists of words that a command may get, without credentials where it is `dagger call`: which of a dozen
// a job has makes thousands of lists, and changes nothing that is proved.
func withoutCredentials(lists [][]field) [][]field {
	for n, list := range lists {
		if len(list) > 2 && isWord(list[0], "dagger") && isWord(list[1], "call") {
			lists[n] = withoutCredential(list)
		}
	}
	return lists
}

func isWord(f field, want string) bool {
	word, known := f.literal()
	return known && word == want
}

func withoutCredential(call []field) []field {
	kept := call[:2:2]
	for n := 2; n < len(call); n++ {
		last := kept[len(kept)-1]
		if n+1 < len(call) && !last.many && !last.isOption() && isCredential(call[n], call[n+1]) {
			n++
			continue
		}
		kept = append(kept, call[n])
	}
	return kept
}

// isCredential says whether two words are certainly an option with a secret, or with what belongs to one, as its value.
func isCredential(option, of field) bool {
	name, known := option.literal()
	if !known || !slices.Contains(daggerCredentials, name) || of.many {
		return false
	}
	if words, constant := of.literal(); constant {
		return strings.HasPrefix(words, "env:") || strings.HasPrefix(words, "file:")
	}
	return !of.isOption() && !slices.ContainsFunc(of.pieces, func(p piece) bool {
		return p.kind != pieceText && (p.kind != pieceVariable || guarded(p.text) && !trusted(p.text))
	})
}

// daggerChain rejects calls of a container's functions that execute something in it.
func (a *analyzer) daggerChain(i invocation, function string, words []string) {
	at := slices.Index(words, function)
	for n := at + 1; n < len(words); n++ {
		word := words[n]
		if word == unknownWord || word == unknownList {
			a.opaque(i.node, "what it calls of a container is not known")
			continue
		}
		if strings.HasPrefix(word, "-") {
			if !strings.Contains(word, "=") {
				n++
			}
			continue
		}
		if !slices.Contains([]string{"as-service", "up", "publish", "entrypoint", "file", "contents", "export", "stdout", "stderr", "as-tarball", "sync", "id", "directory", "entries"}, word) {
			a.opaque(i.node, "what `"+word+"` of a container does is not known")
		}
	}
}

// daggerModule checks that the module is the repository's own, or crossbill's, and that the script says so.
func (a *analyzer) daggerModule(i invocation, words []string, s *shellState) {
	modules := s.lookup("DAGGER_MODULE")
	for n, word := range words {
		name, _, assigned := strings.Cut(word, "=")
		if (word == "-m" || word == "--mod") && n+1 < len(words) {
			modules = []value{i.args[n+2].pieces}
		} else if assigned && (name == "--mod" || name == "-m") {
			modules = []value{text(word[len(name)+1:])}
		}
	}
	for _, module := range modules {
		address, constant := module.constant()
		switch repository, _, _ := strings.Cut(address, "@"); {
		case len(module) == 1 && module[0].kind == pieceVariable:
			a.use(i, module[0].text)
		case !constant:
			a.opaque(i.node, "which Dagger module it is, is not known")
		case address == "" || address == "." || address == "./":
			if s.moved() {
				a.opaque(i.node, "the folder of the Dagger module is not known")
			}
			if s.touched != "" {
				a.opaque(i.node, "the script may change the repository's Dagger module: "+s.touched)
			}
		case path.Base(repository) != "crossbill" && path.Base(path.Dir(repository)) != "crossbill":
			a.opaque(i.node, "the functions of the Dagger module "+address+" are not known")
		}
	}
}

var (
	kubectlValued = []string{"--context", "--namespace", "-n", "--kubeconfig", "--cluster", "--user", "--server", "-s", "--token", "--as", "--as-group", "--as-uid", "--cache-dir", "--certificate-authority", "--client-certificate", "--client-key", "--request-timeout", "--tls-server-name", "--username", "--password", "--profile", "--profile-output", "-v", "--v", "--kuberc"}
	kubectlFlags  = []string{"--insecure-skip-tls-verify", "--match-server-version", "--warnings-as-errors", "--disable-compression", "--help", "-h"}
	// kubectlReads are commands that change nothing in the cluster, by their first words.
	kubectlReads = []string{
		"get", "describe", "logs", "top", "wait", "rollout status", "rollout history", "auth can-i", "auth whoami", "diff", "version", "config view", "config use-context", "config current-context", "config get-contexts", "config get-clusters", "config get-users", "config set-context", "config set-cluster", "config set-credentials", "config unset", "config delete-context", "config rename-context", "cluster-info", "api-resources", "api-versions", "explain", "events", "completion", "options", "help", "port-forward", "kustomize",
		"whoami", "project", "projects", "status", "login", "logout", "argo rollouts get", "argo rollouts status", "argo rollouts list", "argo rollouts version",
	}
	kubectlDryRun      = []string{"--dry-run=client", "--dry-run=server"}
	kubectlChangeFlags = []string{"--force", "--wait", "--server-side", "--prune", "--all", "--record", "--validate", "--overwrite", "-R", "--recursive", "--save-config", "-A", "--all-namespaces", "--ignore-not-found"}
)

func programKubectl(a *analyzer, i invocation, _ *shellState) {
	name, _ := i.args[0].literal()
	name = path.Base(name)
	words := literals(i.args[1:])
	at := subcommand(words, kubectlValued, kubectlFlags)
	switch {
	case at < 0:
		a.effect(i, classOpaque, "which command of "+name+" it is, is not known")
		a.kubectlImages(i, words)
		return
	case at == len(words):
		a.effect(i, classReads, name)
		return
	}
	subcommand := words[at]
	if slices.ContainsFunc(words, func(w string) bool {
		return strings.HasPrefix(w, "--enable-") || strings.HasPrefix(w, "--external-diff") || strings.HasPrefix(w, "--exec-") || strings.HasPrefix(w, "--auth-provider")
	}) {
		a.opaque(i.node, "it may execute plugins")
	}
	for _, reads := range kubectlReads {
		pattern := strings.Fields(reads)
		if subcommand != pattern[0] {
			continue
		}
		if len(pattern) == 1 || hasWords(words[at+1:], pattern[1:]) {
			a.effect(i, classReads, name+" "+reads)
			return
		}
	}
	class, kind := classChanges, name+" "+subcommand
	raw := slices.ContainsFunc(words, func(w string) bool { return strings.HasPrefix(w, "--raw") })
	switch {
	case slices.Contains([]string{"apply", "create", "set", "patch", "delete", "scale", "replace", "edit", "rollout", "autoscale", "expose", "run", "label", "annotate", "taint", "cordon", "uncordon", "drain", "exec", "cp", "attach", "debug", "proxy", "certificate", "auth", "argo", "adm", "new-app", "start-build", "process", "import", "tag", "policy", "rsh", "rsync", "scale", "deploy", "convert", "plugin", "alpha", "krew"}, subcommand):
		if isDryRun(words, kubectlDryRun, append(slices.Clone(kubectlFlags), kubectlChangeFlags...)) && slices.Contains([]string{"apply", "create", "set", "patch", "delete", "scale", "replace", "run", "label", "annotate", "expose", "autoscale"}, subcommand) && !raw {
			class = classReads
		}
	default:
		class, kind = classOpaque, "`"+name+" "+subcommand+"` is not known: it may be a plugin"
	}
	a.effect(i, class, kind)
	if class != classReads {
		a.kubectlImages(i, words)
	}
}

// hasWords says whether the first words that are no options are these. A word of unknown meaning ends the search.
func hasWords(words, wanted []string) bool {
	for _, word := range wanted {
		at := subcommand(words, kubectlValued, kubectlFlags)
		if at < 0 || at >= len(words) || words[at] != word {
			return false
		}
		words = words[at+1:]
	}
	return true
}

var (
	helmValued = []string{"--namespace", "-n", "--kube-context", "--kubeconfig", "--kube-apiserver", "--kube-token", "--kube-as-user", "--kube-as-group", "--kube-ca-file", "--kube-tls-server-name", "--registry-config", "--repository-cache", "--repository-config", "--burst-limit", "--qps"}
	helmFlags  = []string{"--debug", "--kube-insecure-skip-tls-verify", "--help", "-h"}
	helmReads  = []string{"list", "ls", "status", "get", "template", "lint", "diff", "version", "repo", "dependency", "dep", "show", "inspect", "search", "history", "hist", "env", "package", "pull", "fetch", "registry", "verify", "help", "completion", "push", "create"}
)

func programHelm(a *analyzer, i invocation, _ *shellState) {
	words := literals(i.args[1:])
	at := subcommand(words, helmValued, helmFlags)
	switch {
	case at < 0:
		a.effect(i, classOpaque, "which command of helm it is, is not known")
		a.helmImages(i, words)
		return
	case at == len(words):
		a.effect(i, classReads, "helm")
		return
	}
	if slices.ContainsFunc(words, func(w string) bool { return strings.HasPrefix(w, "--post-renderer") || w == unknownList }) {
		a.opaque(i.node, "it may execute a post-renderer")
	}
	switch subcommand := words[at]; {
	case slices.Contains(helmReads, subcommand):
		a.effect(i, classReads, "helm "+subcommand)
	case slices.Contains([]string{"upgrade", "install", "uninstall", "delete", "del", "un", "rollback", "test"}, subcommand):
		class := classChanges
		if isDryRun(words, []string{"--dry-run", "--dry-run=client", "--dry-run=server"}, append(slices.Clone(helmFlags), "--install", "-i", "--wait", "--atomic", "--create-namespace", "--reuse-values", "--reset-values", "--force")) {
			class = classReads
		}
		a.effect(i, class, "helm "+subcommand)
		if class != classReads {
			a.helmImages(i, words)
		}
	default:
		a.effect(i, classOpaque, "`helm "+subcommand+"` is not known: it may be a plugin")
	}
}

func programKustomize(a *analyzer, i invocation, s *shellState) {
	words := literals(i.args[1:])
	switch {
	case len(words) > 0 && words[0] == "edit":
		a.kustomizeImages(i, words)
		a.effect(i, classReads, "kustomize edit")
	case len(words) > 0 && slices.Contains([]string{"build", "version", "cfg", "help"}, words[0]) && !slices.ContainsFunc(words, func(w string) bool { return strings.HasPrefix(w, "--enable-") }):
		a.effect(i, classReads, "kustomize "+words[0])
	default:
		a.opaque(i.node, "what this kustomize command does is not known")
	}
	_ = s
}
