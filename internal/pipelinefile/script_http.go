package pipelinefile

import (
	"path"
	"regexp"
	"slices"
	"strings"
)

// request is what curl or wget sends.
type request struct {
	method   string // "" : decided by the body
	body     bool
	rights   bool // it has a login of some kind
	targets  []value
	files    []value
	names    bool // files are named by the addresses
	tampered bool // the answer may come from elsewhere than the address says
}

// curlValued are options of curl with a value, by their letters and names.
const curlValued = "AbcCdDeEFhHKmoPQrtTuUwxXyYz"

var (
	curlLong = strings.Fields(`--user-agent --cookie --cookie-jar --data --data-raw --data-binary --data-urlencode --json --form --form-string --header --max-time --connect-timeout --output --output-dir --request --retry --retry-delay --retry-max-time --url --user --write-out --upload-file --proto --cacert
		--cert --key --oauth2-bearer --referer --range --resolve --limit-rate --dump-header --stderr --max-redirs --ciphers --noproxy --proxy --interface --capath --expect100-timeout --rate --tls-max --aws-sigv4 --get-options --netrc-file --variable --expand-data --expand-url --connect-to --dns-servers --doh-url --unix-socket --url-query`)
	curlFlags = strings.Fields(`--fail --fail-with-body --silent --show-error --location --insecure --head --include --verbose --compressed --retry-connrefused --retry-all-errors --remote-name --remote-name-all --remote-header-name --http1.1 --http2 --tlsv1.2 --tlsv1.3 --get --no-progress-meter --progress-bar --globoff --create-dirs --ipv4 --ipv6 --netrc --netrc-optional --anyauth --basic --raw --path-as-is --version --help --no-buffer --location-trusted --parallel --post301 --post302 --post303 --no-keepalive --remove-on-error --fail-early --negotiate --ssl-reqd --disable`)
)

const curlLetters = "fsSLkIivOJgG46#nNqZl0jVa2"

// readCurl reads the arguments of curl. It is false when one of them is not understood.
func readCurl(args []field) (all []request, ok bool) {
	current := request{}
	method := func(v value) bool {
		text, constant := v.constant()
		current.method = strings.ToUpper(text)
		return constant
	}
	option := func(name string, v value) bool {
		switch name {
		case "X", "--request":
			return method(v)
		case "d", "F", "--data", "--data-raw", "--data-binary", "--data-urlencode", "--json", "--form", "--form-string", "--expand-data":
			current.body = true
		case "T", "--upload-file":
			current.body = true
			if current.method == "" {
				current.method = "PUT"
			}
		case "Q", "--quote", "t", "--telnet-option":
			return false
		case "H", "--header":
			current.rights = current.rights || isLogin(v)
		case "u", "E", "--user", "--cert", "--key", "--oauth2-bearer", "--aws-sigv4", "--netrc-file", "b", "--cookie":
			current.rights = true
		case "o", "--output", "D", "--dump-header", "c", "--cookie-jar", "--stderr":
			current.files = append(current.files, v)
		case "--url":
			current.targets = append(current.targets, v)
		case "x", "--proxy", "--resolve", "--connect-to", "--doh-url", "--dns-servers", "--cacert", "--capath", "--interface":
			current.tampered = true
		case "K", "--config", "--variable", "--expand-url", "--output-dir", "--unix-socket":
			return false
		}
		return true
	}
	for n := 0; n < len(args); n++ {
		word, literal := args[n].literal()
		first := ""
		if len(args[n].pieces) > 0 && args[n].pieces[0].kind == pieceText {
			first = args[n].pieces[0].text
		}
		switch {
		case args[n].many && !isAddress(args[n]):
			return nil, false
		case word == "--next" || word == "-:":
			all = append(all, current)
			current = request{}
		case literal && strings.HasPrefix(word, "--"):
			switch {
			case slices.Contains(curlLong, word) && n+1 < len(args):
				n++
				if args[n].many || !option(word, args[n].pieces) {
					return nil, false
				}
			case slices.Contains(curlFlags, word):
				current.flag(word)
			default:
				return nil, false
			}
		case strings.HasPrefix(first, "-") && first != "-":
			letters := first[1:]
			for len(letters) > 0 {
				letter := letters[:1]
				letters = letters[1:]
				if strings.Contains(curlLetters, letter) {
					current.flag(letter)
					continue
				}
				if !strings.Contains(curlValued, letter) {
					return nil, false
				}
				v := mergePieces(append(value{{kind: pieceText, text: letters}}, args[n].pieces[1:]...))
				if len(v) == 0 {
					n++
					if n >= len(args) || args[n].many && letter != "w" && letter != "H" {
						return nil, false
					}
					v = args[n].pieces
				}
				if !option(letter, v) {
					return nil, false
				}
				letters = ""
			}
			if first == "-" {
				return nil, false
			}
		default:
			current.targets = append(current.targets, args[n].pieces)
		}
	}
	return append(all, current), true
}

func (r *request) flag(name string) {
	switch name {
	case "G", "--get":
		r.method = "GET"
	case "I", "--head":
		r.method = "HEAD"
	case "k", "--insecure":
		r.tampered = true
	case "n", "--netrc", "--netrc-optional", "--negotiate", "--location-trusted":
		r.rights = true
	case "O", "J", "--remote-name", "--remote-name-all", "--remote-header-name":
		r.names = true
	}
}

// isAddress is an unquoted word that begins like an address, with ? or * or [ in it.
func isAddress(f field) bool {
	return len(f.pieces) > 0 && f.pieces[0].kind == pieceText && strings.HasPrefix(f.pieces[0].text, "http") && !slices.ContainsFunc(f.pieces, func(p piece) bool { return p.kind == pieceAny })
}

var loginHeader = regexp.MustCompile(`(?i)^(authorization|private-token|job-token|deploy-token|cookie|x-[a-z-]*(token|key|auth)[a-z-]*|api-key)\s*:`)

func isLogin(header value) bool {
	if len(header) == 0 {
		return false
	}
	if header[0].kind != pieceText {
		return true
	}
	return loginHeader.MatchString(strings.TrimSpace(header[0].text))
}

func programCurl(a *analyzer, i invocation, s *shellState) {
	requests, ok := readCurl(i.args[1:])
	if !ok {
		a.opaque(i.node, "what curl sends is not understood")
		return
	}
	for _, r := range requests {
		a.send(i, r, s, "curl")
	}
}

var wgetFlags = strings.Fields(`-q --quiet -nv --no-verbose -c --continue -N -S --server-response --spider --no-check-certificate -4 -6 -nc --no-clobber --show-progress --https-only --no-cache --content-disposition -v --version -r -np -nd -p -k --no-proxy -qc`)

// readWget reads the arguments of wget. It is false when one of them is not understood.
func readWget(args []field) (all []request, ok bool) {
	r := request{names: true}
	for n := 0; n < len(args); n++ {
		word, literal := args[n].literal()
		name, rest, assigned := strings.Cut(word, "=")
		next := func() value {
			if assigned {
				return text(rest)
			}
			if n+1 < len(args) {
				n++
				return args[n].pieces
			}
			return nil
		}
		first := ""
		if len(args[n].pieces) > 0 && args[n].pieces[0].kind == pieceText {
			first = args[n].pieces[0].text
		}
		switch {
		case args[n].many && !isAddress(args[n]):
			return nil, false
		case !literal && strings.HasPrefix(first, "--header="):
			r.rights = r.rights || isLogin(value{{kind: pieceText, text: strings.TrimPrefix(first, "--header=")}})
		case !literal && (strings.HasPrefix(first, "--post-data=") || strings.HasPrefix(first, "--body-data=")):
			r.body = true
		case !literal && strings.HasPrefix(first, "-"):
			return nil, false
		case !literal || !strings.HasPrefix(word, "-"):
			r.targets = append(r.targets, args[n].pieces)
		case slices.Contains([]string{"-qO-", "-O-", "-nvO-", "-qO", "-O", "--output-document", "-nvO"}, name):
			r.names = false
			if !strings.HasSuffix(name, "-") {
				if file := next(); !file.equal(text("-")) {
					r.files = append(r.files, file)
				}
			}
		case slices.Contains([]string{"--header", "--user", "--password", "--http-user", "--http-password"}, name):
			r.rights = isLogin(next()) || name != "--header" || r.rights
		case slices.Contains([]string{"-T", "--timeout", "-t", "--tries", "--wait", "-w", "--waitretry", "--retry-on-http-error", "-U", "--user-agent", "--max-redirect", "--read-timeout", "--connect-timeout", "--dns-timeout"}, name):
			next()
		case name == "-P" || name == "--directory-prefix":
			r.files = append(r.files, append(slices.Clone(next()), piece{kind: pieceText, text: "/_"}))
		case slices.Contains([]string{"--post-data", "--post-file", "--body-data", "--body-file"}, name):
			next()
			r.body = true
		case name == "--method":
			method, constant := next().constant()
			if !constant {
				return nil, false
			}
			r.method = strings.ToUpper(method)
		case word == "--no-check-certificate":
			r.tampered = true
		case slices.Contains(wgetFlags, word):
		case len(word) > 2 && (strings.HasPrefix(word, "-T") || strings.HasPrefix(word, "-t")) && isNumber(word[2:]):
		default:
			return nil, false
		}
	}
	return []request{r}, true
}

func programWget(a *analyzer, i invocation, s *shellState) {
	requests, ok := readWget(i.args[1:])
	if !ok {
		a.opaque(i.node, "what wget sends is not understood")
		return
	}
	a.send(i, requests[0], s, "wget")
}

// publishers are where programs are published that a script may install.
var publishers = []struct{ address, program string }{
	{"https://dl.k8s.io/", "kubectl"}, {"https://storage.googleapis.com/kubernetes-release/", "kubectl"}, {"https://get.helm.sh/", "helm"},
	{"https://github.com/mikefarah/yq/releases/", "yq"}, {"https://github.com/jqlang/jq/releases/", "jq"}, {"https://github.com/stedolan/jq/releases/", "jq"},
	{"https://github.com/kubernetes-sigs/kustomize/releases/", "kustomize"}, {"https://github.com/argoproj/argo-cd/releases/", "argocd"}, {"https://github.com/fluxcd/flux2/releases/", "flux"},
	{"https://github.com/google/go-containerregistry/releases/", "crane"}, {"https://github.com/sigstore/cosign/releases/", "cosign"}, {"https://github.com/getsops/sops/releases/", "sops"},
	{"https://github.com/grafana/k6/releases/", "k6"}, {"https://dl.dagger.io/dagger/releases/", "dagger"}, {"https://github.com/dagger/dagger/releases/", "dagger"},
}

// publishedProgram is the program at an address, "" when it is not known.
func publishedProgram(address value) string {
	if len(address) == 0 || address[0].kind != pieceText {
		return ""
	}
	for _, p := range address {
		if p.kind == pieceAny || p.kind == pieceText && strings.Contains(p.text, "..") {
			return ""
		}
	}
	for _, p := range publishers {
		if strings.HasPrefix(address[0].text, p.address) {
			return p.program
		}
	}
	return ""
}

var (
	chatHost = regexp.MustCompile(`^https://(hooks\.slack\.com|slack\.com/api/chat\.|[a-z0-9.-]+\.webhook\.office\.com|outlook\.office\.com/webhook|[a-z0-9.-]+\.logic\.azure\.com|discord(app)?\.com/api/webhooks|chat\.googleapis\.com|api\.telegram\.org/bot|api\.pagerduty\.com|events\.pagerduty\.com|api\.opsgenie\.com|ntfy\.sh|open\.feishu\.cn|oapi\.dingtalk\.com|qyapi\.weixin\.qq\.com|api\.rocket\.chat|sentry\.io/api|api\.datadoghq\.(com|eu)/api/v1/events)`)
	chatName = regexp.MustCompile(`(?i)(slack|teams|discord|mattermost|rocket|chat|webhook|notify|notification|telegram|pagerduty|opsgenie|pushgateway|ntfy|alert)`)
	// gitlabNotes are parts of GitLab's API where a POST presses nothing.
	gitlabNotes = regexp.MustCompile(`/(statuses/|notes(\?|$)|discussions(\?|$|/)|issues(\?|$)|uploads(\?|$))`)
	notifyPath  = regexp.MustCompile(`(?i)(/metrics/job/|/hooks/[a-z0-9]{20,})`)
)

// send says what a request does.
func (a *analyzer) send(i invocation, r request, s *shellState, program string) {
	a.download(i, r, s)
	for _, target := range r.targets {
		if len(target) > 0 && target[0].kind == pieceText {
			if scheme, _, found := strings.Cut(target[0].text, "://"); found && scheme != "http" && scheme != "https" && scheme != "file" {
				a.opaque(i.node, "what it sends by "+scheme+" is not known")
			}
		}
	}
	method := r.method
	if method == "" {
		method = map[bool]string{true: "POST", false: "GET"}[r.body]
	}
	if method == "GET" || method == "HEAD" || method == "OPTIONS" {
		if !r.body || r.method == "GET" {
			a.effect(i, classReads, program)
			return
		}
	}
	if len(r.targets) == 0 {
		a.opaque(i.node, "to whom it sends is not known")
		return
	}
	for _, written := range r.targets {
		for _, target := range a.withGiven(written, 3) {
			class, kind := a.classOfRequest(target, r, method)
			if class == classOpaque {
				a.effect(i, classOpaque, kind)
				continue
			}
			a.effect(i, class, program+" "+kind)
		}
	}
}

// withGiven are an address as it is written, and as it is with the values that the file gives its variables. Each counts: a
// variable of the project wins over the file's.
func (a *analyzer) withGiven(written value, depth int) []value {
	all := []value{nil}
	for _, p := range written {
		ways := []value{{p}}
		if given := a.context.Given[p.text]; p.kind == pieceVariable && len(given) > 0 {
			if depth == 0 {
				return []value{{{kind: pieceAny}}}
			}
			for _, text := range given {
				ways = append(ways, a.withGiven(valueIn(text), depth-1)...)
			}
		}
		var longer []value
		for _, start := range all {
			for _, way := range ways {
				longer = append(longer, slices.Concat(start, way))
			}
		}
		if all = longer; len(all) > mostAlternatives {
			return []value{{{kind: pieceAny}}}
		}
	}
	return all
}

// valueIn is a value of the file, in which GitLab puts the values of other variables.
func valueIn(given string) value {
	var v value
	rest := 0
	for _, at := range shellVariableInText.FindAllStringIndex(given, -1) {
		v = append(v, text(given[rest:at[0]])...)
		v = append(v, piece{kind: pieceVariable, text: strings.Trim(given[at[0]:at[1]], "${}")})
		rest = at[1]
	}
	return append(v, text(given[rest:])...)
}

// download takes into account the files that a request writes.
func (a *analyzer) download(i invocation, r request, s *shellState) {
	files := slices.Clone(r.files)
	if r.names {
		for _, target := range r.targets {
			file := value{{kind: pieceOutput}}
			if last := len(target) - 1; last >= 0 && target[last].kind == pieceText {
				if n := strings.LastIndex(target[last].text, "/"); n >= 0 {
					file = text(target[last].text[n+1:])
				}
			}
			files = append(files, file)
		}
	}
	for _, file := range files {
		how := "is downloaded"
		name, constant := file.constant()
		program := ""
		if len(r.targets) == 1 && len(files) == 1 && !r.tampered && r.method == "" && !r.body {
			program = publishedProgram(r.targets[0])
		}
		if constant && program != "" && path.Base(name) == program && (slices.Contains(binFolders, path.Dir(path.Clean(name))) || !strings.HasPrefix(name, "/")) {
			s.trusted[path.Clean(name)] = program
			continue
		}
		a.writes(i.node, file, s, how)
		if constant && program != "" {
			s.trusted[path.Clean(name)] = program
		}
	}
}

// classOfRequest decides about one request that may change something.
func (a *analyzer) classOfRequest(target value, r request, method string) (effectClass, string) {
	var address strings.Builder
	var names strings.Builder
	for _, p := range target {
		switch p.kind {
		case pieceText:
			address.WriteString(p.text)
		case pieceVariable:
			address.WriteString("$" + p.text)
			names.WriteString(p.text + " ")
		default:
			address.WriteString("*")
		}
	}
	switch {
	case strings.Contains(address.String(), "/graphql"):
		return classChanges, method + " to GitLab's GraphQL API"
	case strings.Contains(address.String(), "/api/v4") || strings.Contains(address.String(), "$CI_API_V4_URL"):
		if gitlabNotes.MatchString(address.String()) && !strings.Contains(address.String(), "*") || strings.Contains(address.String(), "/packages/generic/") {
			return classReads, method + " to GitLab's API"
		}
		return classChanges, method + " to GitLab's API"
	case strings.Contains(address.String(), "/apis/") || strings.Contains(address.String(), "/api/v1/") || strings.Contains(names.String(), "KUBE"):
		return classChanges, method + " to Kubernetes' API"
	case chatHost.MatchString(address.String()), notifyPath.MatchString(address.String()) && method != "DELETE":
		return classReads, "notice"
	case names.String() != "" && strings.HasPrefix(address.String(), "$") && chatName.MatchString(names.String()) && method == "POST" && !r.rights:
		return classReads, "notice"
	}
	return classOpaque, "what a " + method + " to " + a.placeholders.restore(address.String()) + " does is not known"
}
