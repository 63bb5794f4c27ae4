package config

import (
	"regexp"
	"slices"
	"strings"

	"github.com/our-org/crossbill/internal/hook"
	"github.com/our-org/crossbill/internal/manifest"
)

// Option is one thing that can be set.
type Option struct {
	// Key is its name in crossbill.yaml and in the errors of libraries: prometheus.url. Items of a list are
	// analysis.objectives[].name. One without a dot that Config lacks cannot be in the file: releaseId.
	Key string
	// Flags are its flags without dashes; a command has one of them, or none.
	Flags []string
	// Commands are those whose flag it is, where other commands have a flag of that name that means something
	// else. Empty: all.
	Commands []string
	// Variable is the environment variable that wins over the file.
	Variable string
	// Platform is what a job of GitLab's or GitHub's knows, as $NAME. The file wins over it, and it counts only
	// in such a job.
	Platform []string
	// Default is what holds else, as text; "" for none or for one that depends.
	Default string
	// Secret is true when the variable holds a secret, and the flag names a file that holds it.
	Secret bool
	// Required is true when the section it is in needs it.
	Required bool
	// Doc says what it is, in one sentence without a full stop.
	Doc string

	form form
}

// form says which values an option takes. What parser and JSON Schema check comes from here.
type form struct {
	what    string // completes "is not …"
	example string // completes "give for example …"
	pattern string
	// Bounds of a number; of a duration only the parser checks them, in seconds. NaN is never within.
	min, max, above, below *float64
	path                   bool // of a file or folder, relative to that of crossbill.yaml
}

const durationPattern = `^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$`

func number(n float64) *float64 { return new(n) }

var (
	duration         = form{what: "a duration with a unit", example: "30s, 5m or 1h30m", pattern: durationPattern}
	positiveDuration = form{what: "a duration above 0 with a unit", example: "30s, 5m or 1h30m", pattern: durationPattern, above: number(0)}
	address          = form{what: "a web address without user, password or spaces", example: "https://example.com", pattern: `^https?://[^\s/?#@]+([/?#]\S*)?$`}
	name             = form{what: "a name without spaces", example: "production", pattern: `^\S+$`}
	source           = form{what: "a path, - for the standard input, or a bundle by digest", example: "k8s", pattern: `\S`, path: true}
	folder           = form{what: "a path", example: "k8s", pattern: `\S`, path: true}
	jobName          = form{what: "the name of a job", example: "deploy_canary", pattern: `\S`}
	share            = form{what: "a percentage above 0 and below 50", example: "1", above: number(0), below: number(50)}
	margin           = form{what: "a number of percentage points from 0 to below 100", example: "2, or 0 to leave it out", min: number(0), below: number(100)}
	query            = form{what: "a PromQL expression", example: "my_requests_total", pattern: `\S`}
	anything         = form{what: "text", example: "a name in quotes", pattern: `\S`}
)

// clusterCommands are the commands whose --timeout ends a wait for the cluster.
var clusterCommands = []string{"queue", "canary", "shift", "verify", "approve", "promote", "cleanup", "rollback", "hold", "resume", "guard", "migrate", "up", "down"}

// Options are all options that describe an app or its surroundings, in the order of crossbill.yaml, then those that
// only flags and variables set.
var Options = withPreviewPolicy([]Option{
	{Key: "app", Flags: []string{"app"}, Variable: "CROSSBILL_APP", Doc: "Name of the app",
		form: form{what: "a name of lower-case letters, digits and dashes, up to 53", example: "qwik-node-app", pattern: `^[a-z0-9]([a-z0-9-]{0,51}[a-z0-9])?$`}},
	{Key: "manifests", Flags: []string{"manifests"}, Variable: "CROSSBILL_MANIFESTS", Default: "k8s", form: source, Doc: "The app's Kubernetes manifests: a folder, a kustomization, a Helm chart, - for the standard input, or a bundle as oci://REPOSITORY@sha256:…"},
	{Key: "router", Flags: []string{"router"}, Variable: "CROSSBILL_ROUTER", form: form{what: "virtualservice or httproute", example: "httproute", pattern: `^(virtualservice|httproute)$`}, Doc: "What leads the traffic to the tracks, where the manifests have both: a VirtualService, or an HTTPRoute or GRPCRoute of the Gateway API; without it what the manifests have"},

	{Key: "render.subfolders", Default: "false", form: form{what: "true or false", example: "true"}, Doc: "Read a folder's manifests with those of the folders in it"},
	{Key: "render.values", Doc: "Files of values for a Helm chart; a later one wins over an earlier one, and all of them over the chart's"},
	{Key: "render.values[]", form: folder, Doc: "A file, relative to that of crossbill.yaml"},
	{Key: "render.releaseName", Doc: "Name of the release that a Helm chart is rendered as; without it the app's name, else the chart's",
		form: form{what: "a name of lower-case letters, digits and dashes, up to 53", example: "shop", pattern: `^[a-z0-9]([a-z0-9-]{0,51}[a-z0-9])?$`}},
	{Key: "render.kubeVersion", Default: manifest.DefaultKubeVersion, form: form{what: "a version of Kubernetes", example: "v1.34.0", pattern: `^v?[0-9]+\.[0-9]+(\.[0-9]+)?$`}, Doc: "Version of Kubernetes that a Helm chart is rendered for; the cluster is not asked"},
	{Key: "render.allowLookup", Default: "false", form: form{what: "true or false", example: "true"}, Doc: "Let a Helm chart's lookup find nothing, instead of refusing it: for a chart that looks up what its values give it"},
	{Key: "render.allowRemote", Default: "false", form: form{what: "true or false", example: "true"}, Doc: "Let a kustomization name what is fetched from elsewhere: each command then depends on it"},
	{Key: "render.gateway", Doc: "Gateway of the mesh, for manifests without a VirtualService: one is made for it",
		form: form{what: "the name of a gateway, with its namespace", example: "istio-system/public-gateway", pattern: `^([a-z0-9][a-z0-9.-]*/)?[a-z0-9][a-z0-9.-]*$`}},
	{Key: "render.hosts", Doc: "Hosts of that VirtualService; without it those of the Ingress or HTTPRoute in the manifests"},
	{Key: "render.hosts[]", Doc: "A host", form: form{what: "a host", example: "app.example.com", pattern: `^[A-Za-z0-9*]([A-Za-z0-9.-]*[A-Za-z0-9])?$`}},

	{Key: "cluster.context", Flags: []string{"context"}, Variable: "CROSSBILL_CONTEXT", form: name, Doc: "Context of the kubeconfig; without it its current one"},
	{Key: "cluster.namespace", Flags: []string{"namespace"}, Variable: "CROSSBILL_NAMESPACE", Doc: "Namespace of the app; without it the context's",
		form: form{what: "the name of a namespace", example: "production", pattern: `^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`}},
	{Key: "cluster.timeout", Flags: []string{"timeout"}, Commands: clusterCommands, Default: "5m", form: positiveDuration, Doc: "How long a wait for the cluster may see no progress"},

	{Key: "prometheus.url", Flags: []string{"prometheus"}, Variable: "CROSSBILL_PROMETHEUS", form: address, Doc: "Prometheus that scrapes the mesh"},
	{Key: "prometheus.httpConfig", Flags: []string{"prometheus-config"}, Variable: "CROSSBILL_PROMETHEUS_CONFIG", form: folder, Doc: "File in the form of Prometheus's http_config: credentials, CA and headers for Prometheus"},
	{Key: "prometheus.matcher", Flags: []string{"prometheus-matcher"}, Variable: "CROSSBILL_PROMETHEUS_MATCHER", Doc: "Label matchers of every query, where one Prometheus has several clusters, or scrapes each proxy twice",
		form: form{what: "a list of label matchers", example: `'cluster="eu-1"'`, pattern: `^\s*[a-zA-Z_][a-zA-Z0-9_]*\s*(=|!=|=~|!~)\s*["'].*["']\s*$`}},

	{Key: "gitlab.url", Flags: []string{"gitlab-url"}, Variable: "CROSSBILL_GITLAB_URL", Platform: []string{"$CI_SERVER_URL"}, Default: "https://gitlab.com", form: address, Doc: "GitLab's address"},
	{Key: "gitlab.project", Flags: []string{"project"}, Variable: "CROSSBILL_GITLAB_PROJECT", Platform: []string{"$CI_PROJECT_PATH"}, Doc: "GitLab project that deploys",
		form: form{what: "a project", example: "our-org/infrastructure", pattern: `^[^\s/?#%]+(/[^\s/?#%]+)*$`}},
	{Key: "gitlab.ref", Flags: []string{"ref"}, Commands: []string{"trigger", "watch", "cancel", "doctor"}, Variable: "CROSSBILL_GITLAB_REF", Default: "main", Doc: "Branch or tag of the GitLab project that releases run on: pipelines on another are not a release's",
		form: form{what: "a branch or tag", example: "main", pattern: `^[A-Za-z0-9][A-Za-z0-9._/+-]{0,254}$`}},
	{Key: "gitlab.user", Flags: []string{"gitlab-user"}, Variable: "CROSSBILL_GITLAB_USER", Doc: "Login of the trigger token's owner: pipelines of others are not a release's. Unset: known once `trigger` has started the pipeline, else the access token's user",
		form: form{what: "a login", example: "release-bot", pattern: `^[A-Za-z0-9_.][A-Za-z0-9_.-]{0,254}$`}},
	{Key: "gitlab.jobs.canary", Flags: []string{"canary-job", "canary"}, Default: "deploy_canary", form: jobName, Doc: "Job that starts the canary"},
	{Key: "gitlab.jobs.verify", Flags: []string{"verify-job", "verify"}, Default: "verify_canary", form: jobName, Doc: "Job that judges the canary"},
	{Key: "gitlab.jobs.promote", Flags: []string{"promote-job", "gate"}, Default: "promote_to_production", form: jobName, Doc: "Job that promotes the release, behind the approval gate"},
	{Key: "gitlab.jobs.rollback", Flags: []string{"rollback-job", "rollback"}, Default: "rollback", form: jobName, Doc: "Manual job that rolls back"},

	{Key: "notify.github.repository", Flags: []string{"github-repository"}, Variable: "CROSSBILL_GITHUB_REPOSITORY", Platform: []string{"$GITHUB_REPOSITORY"}, Doc: "GitHub repository whose Deployment of the release gets a status; nobody is notified without a token",
		form: form{what: "a GitHub repository", example: "our-org/qwik-node-app", pattern: `^[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+$`}},
	{Key: "notify.github.url", Flags: []string{"github-url"}, Platform: []string{"$GITHUB_API_URL"}, Default: "https://api.github.com", form: address, Doc: "Address of GitHub's API"},
	{Key: "notify.github.pullRequest", Default: "true", form: form{what: "true or false", example: "false"}, Doc: "Show the release on its commit by a check run, and on the pull request that brought the commit by a comment, if there is a token that may write them"},
	{Key: "notify.github.environmentUrl", Flags: []string{"environment-url"}, Variable: "CROSSBILL_ENVIRONMENT_URL", Platform: []string{"$CI_ENVIRONMENT_URL"}, form: address, Doc: "Address of the app, for GitHub's Deployment"},
	{Key: "notify.gitlab.project", Flags: []string{"notify-gitlab-project"}, Platform: []string{"$CI_PROJECT_PATH"}, Doc: "GitLab project where the code of releases is, if it is not on GitHub: shows each on its commit by a status, and on the merge request that brought the commit by a note; nothing is shown without a token. The default is for jobs without a GitHub token",
		form: form{what: "a project", example: "our-org/qwik-node-app", pattern: `^[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*$`}},
	{Key: "notify.gitlab.url", Flags: []string{"notify-gitlab-url"}, Platform: []string{"$CI_SERVER_URL"}, Default: "https://gitlab.com", form: address, Doc: "Address of that GitLab"},
	{Key: "notify.chat.events", Doc: "What chats are sent of a release; without it approval, promoted, rolledBack and failed"},
	{Key: "notify.chat.events[]", Doc: "An event: the canary gets its first traffic (canary), or another share (shift); it was judged (verdict); it waits for an approver (approval); it has all of the traffic (promoted); the canary is removed (finished); it was rolled back (rolledBack); a command failed, or came to no verdict (failed)", form: form{what: "canary, shift, verdict, approval, promoted, finished, rolledBack or failed", example: "approval", pattern: `^(canary|shift|verdict|approval|promoted|finished|rolledBack|failed)$`}},
	{Key: "notify.chat.remindAfter", Default: "1h", form: duration, Doc: "How long a release may wait for an approver before chats are reminded of it; again after twice as long each time, five times at most. 0s: never"},
	{Key: "notify.pushgateway", Flags: []string{"pushgateway"}, Variable: "CROSSBILL_PUSHGATEWAY", form: address, Doc: "Prometheus Pushgateway that gets the metrics of each command"},
	{Key: "notify.otlpEndpoint", Variable: "CROSSBILL_OTLP_ENDPOINT", form: address, Doc: "Collector that gets each command as a span, by OTLP over HTTP"},

	{Key: "image.appDir", Flags: []string{"app-dir"}, Commands: []string{"build"}, Default: "app", form: folder, Doc: "Folder of the built app"},
	{Key: "image.base", Flags: []string{"base"}, Commands: []string{"build"}, Doc: "Base image with Node, by digest, or oci:FOLDER; without it distroless Node",
		form: form{what: "an image by digest, or oci:FOLDER", example: "registry.example.com/node@sha256:…", pattern: `^(\S+@sha256:[0-9a-f]{64}|oci:\S+)$`}},
	{Key: "image.platforms", Flags: []string{"platform"}, Commands: []string{"build"}, Doc: "Platforms of the image; without it linux/amd64 alone, or the one of the base"},
	{Key: "image.platforms[]", Doc: "A platform",
		form: form{what: "a platform", example: "linux/amd64", pattern: `^[a-z0-9]+/[a-z0-9]+(/[a-z0-9.]+)?$`}},
	{Key: "image.assetsFolder", Flags: []string{"assets-folder"}, Commands: []string{"build"}, Default: "dist/build", form: form{what: "a path below the app's folder", example: "dist/build", pattern: `\S`}, Doc: "Folder of files whose names have a hash of their content, below the app's folder"},
	{Key: "image.requireProvenance", Flags: []string{"require-provenance"}, Variable: "CROSSBILL_REQUIRE_PROVENANCE", Default: "false", form: form{what: "true or false", example: "true", pattern: `^(true|false)$`}, Doc: "Refuse releases where there is no image policy, instead of saying that the image's origin was not checked"},

	{Key: "applyOthers", Flags: []string{"apply-others"}, Default: "false", form: form{what: "true or false", example: "true", pattern: `^(true|false)$`}, Doc: "Apply the manifests' other objects with the release, and take them back with it; without it they are listed and left alone"},

	{Key: "canary.weight", Flags: []string{"weight"}, Default: "10", form: form{what: "a whole number from 1 to 99", example: "10, which is 10% of the traffic", min: number(1), max: number(99)}, Doc: "The canary's share of the traffic, in percent"},
	{Key: "canary.match", Flags: []string{"match"}, form: form{what: "a match of a header or a cookie", example: "header:x-canary=yes", pattern: `^(header|cookie):\S`}, Doc: "Requests that reach the canary whatever its weight is, those of testers: header:NAME=VALUE, ^=PREFIX, =~REGEX, or the name alone; the same with cookie. Without canary.weight, nobody else's do until `shift`"},
	{Key: "canary.mirror", Flags: []string{"mirror"}, form: form{what: "a percentage from 1 to 100", example: "5%", pattern: `^([1-9][0-9]?|100)%?$`}, Doc: "Part of the GET and HEAD requests of which the canary gets a copy, whose answers nobody gets, until it has a weight"},
	{Key: "canary.sticky", Flags: []string{"sticky"}, Default: "false", form: form{what: "true or false", example: "true"}, Doc: "Keep a browser on the version that answered it first, by a cookie, until the release has finished"},
	{Key: "canary.stickyAssets", Flags: []string{"sticky-assets"}, Default: "/build/", form: form{what: "a path below /", example: "/build/", pattern: `^/\S+$`}, Doc: "With sticky: prefix of the paths of files that have a hash in their names"},
	{Key: "canary.baseline", Flags: []string{"baseline"}, Default: "false", form: form{what: "true or false", example: "true"}, Doc: "Start new pods of the old version beside the canary, as many as it has, and compare the canary with them instead of primary: both begin cold"},
	{Key: "canary.settleDelay", Flags: []string{"settle-delay"}, Default: "10s", form: duration, Doc: "Without Prometheus: time that the data plane is given to apply a route"},
	{Key: "canary.allowTags", Flags: []string{"allow-tags"}, Doc: "Repositories whose images the pod template may name by tag: sidecars that somebody else releases"},
	{Key: "canary.allowTags[]", Doc: "A repository; * stands for a part of a name", form: form{what: "a repository, without tag", example: "docker.io/envoyproxy/*", pattern: `^[^\s@]+$`}},

	{Key: "steps", Doc: "The way of a canary before promotion, which `canary --follow` takes it: a list of steps, each analyzed before the next"},
	{Key: "steps[].match", form: form{what: "a match", example: "header:x-canary=yes", pattern: `^(header|cookie):\S`}, Doc: "Requests that reach the canary whatever its weight is, as the first step: header:NAME=VALUE, header:NAME^=PREFIX, header:NAME=~REGEX or header:NAME, and the same with cookie"},
	{Key: "steps[].mirror", form: form{what: "a percentage from 1% to 100%", example: "5%", pattern: `^([1-9][0-9]?|100)%$`}, Doc: "Percent of the safe requests (GET, HEAD) that the canary gets a copy of, before the first weight"},
	{Key: "steps[].weight", form: form{what: "a whole number from 1 to 99", example: "10, which is 10% of the traffic", min: number(1), max: number(99)}, Doc: "Percent of the traffic that the canary gets; rising"},
	{Key: "steps[].pause", form: positiveDuration, Doc: "How long the canary stays as it is; it is judged all the while"},
	{Key: "steps[].analyze", Doc: "The canary is analyzed until it passes; {} for as the section analysis says. Where none is written before the next step that gives the canary something, there is one"},
	{Key: "steps[].analyze.minRequests", form: form{what: "a number of requests, at least 1", example: "50", min: number(1), max: new(1e9)}, Doc: "The canary's requests since the step before, below which it does not pass; without it analysis.minRequests"},
	{Key: "steps[].analyze.minDuration", form: duration, Doc: "Time since then before which it does not pass; without it analysis.minDuration"},
	{Key: "steps[].analyze.maxDuration", form: positiveDuration, Doc: "Time after which what is not decided is inconclusive; without it analysis.maxDuration"},
	{Key: "steps[].approve", Doc: "Somebody who may has to approve it, with `crossbill approve`: {}. As the last step it is the gate of `promote`"},

	{Key: "shift.steps", Flags: []string{"steps"}, Doc: "Percentages, rising: the last one is the weight that the canary keeps"},
	{Key: "shift.steps[]", Doc: "A weight of the canary, in percent", form: form{what: "a whole number from 1 to 99", example: "25, which is 25% of the traffic", min: number(1), max: number(99)}},
	{Key: "shift.pause", Flags: []string{"pause"}, Default: "0s", form: duration, Doc: "How long each step but the last stays as it is"},

	{Key: "promote.maxVerdictAge", Flags: []string{"max-verdict-age"}, Default: "10m", form: duration, Doc: "How old a verdict may be that promote promotes by; an older canary is judged again first, 0s accepts any age"},
	{Key: "promote.bake", Flags: []string{"bake"}, Default: "0s", form: duration, Doc: "How long primary is judged after it has all of the traffic; 0s for not at all"},
	{Key: "promote.traffic", Flags: []string{"promote-traffic"}, Default: "canary", form: form{what: "canary or primary", example: "canary", pattern: `^(canary|primary)$`}, Doc: "Which track has the traffic while primary's pods are replaced: the canary, grown for all of it, or primary, under traffic"},

	{Key: "rollback.keepWarm", Flags: []string{"keep-warm"}, Default: "0s", form: duration, Doc: "How long cleanup keeps the pods of the version before, without traffic, so that a return to it takes seconds; 0s for not at all"},
	{Key: "rollback.keepReleases", Flags: []string{"keep-releases"}, Default: "5", form: form{what: "a whole number from 1 to 20", example: "5", min: number(1), max: number(20)}, Doc: "How many of the last releases that ended well can be returned to: their pod templates and the configuration that their pods read are kept"},

	{Key: "queue.policy", Flags: []string{"queue-policy"}, Default: "refuse", form: form{what: "refuse, queue or supersede", example: "queue", pattern: `^(refuse|queue|supersede)$`}, Doc: "What becomes of a release while another one is in flight: it is refused, it waits in order of commits, or it takes the place of one that nobody has approved yet"},
	{Key: "queue.wait", Flags: []string{"queue-wait"}, Default: "23h", form: positiveDuration, Doc: "How long a release waits for its turn"},
	{Key: "queue.turn", Flags: []string{"queue-turn"}, Default: "10m", form: positiveDuration, Doc: "How long a release may take to start when it is its turn; then it is the next one's"},

	{Key: "guard.dead", Flags: []string{"dead"}, Default: "15m", form: positiveDuration, Doc: "How long a release may stand still where a job must be at work"},
	{Key: "guard.waiting", Flags: []string{"waiting"}, Default: "24h", form: positiveDuration, Doc: "How long a canary may wait for its verdict, or for an approver"},

	{Key: "preview.header", Flags: []string{"header"}, Commands: []string{"up"}, Default: "x-crossbill-preview", form: form{what: "the name of a header", example: "x-crossbill-preview", pattern: `^[A-Za-z0-9][A-Za-z0-9-]*$`}, Doc: "Header of the requests that reach a preview, with its name as the value"},
	{Key: "preview.lasts", Flags: []string{"lasts"}, Commands: []string{"up"}, Default: "72h", form: positiveDuration, Doc: "How long a preview lasts after it was brought up; then guard ends it"},
	{Key: "preview.limit", Flags: []string{"limit"}, Commands: []string{"up"}, Default: "5", form: form{what: "a whole number from 1 to 50", example: "5", min: number(1), max: number(50)}, Doc: "How many previews the app may have at one time"},
	{Key: "preview.replicas", Flags: []string{"replicas"}, Commands: []string{"up"}, Default: "1", form: form{what: "a whole number from 1 to 10", example: "1", min: number(1), max: number(10)}, Doc: "Pods of a preview"},
	{Key: "preview.labels", Flags: []string{"labels"}, Commands: []string{"up"}, Doc: "Labels of the app's pods that a preview's have too, for policies that ask for them; none that the app's pods are selected by"},
	{Key: "preview.labels[]", Doc: "The key of a label", form: form{what: "the key of a label", example: "team", pattern: `^([a-z0-9.-]+/)?[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$`}},

	{Key: "probe.url", Flags: []string{"probe"}, form: address, Doc: "Address that verify calls while it judges the canary, for an app with too little traffic: GET requests that are safe to repeat"},
	{Key: "probe.rate", Flags: []string{"probe-rate"}, Default: "10", form: form{what: "a number of requests a second above 0, up to 1000", example: "10", above: number(0), max: number(1000)}, Doc: "Requests a second to the probe's address"},
	{Key: "probe.header", Flags: []string{"probe-header"}, form: form{what: "a header", example: "'x-track: canary'", pattern: "^[-!#$%&'*+.^_`|~0-9A-Za-z]+\\s*:[^\\x00-\\x08\\x0a-\\x1f\\x7f]*$"}, Doc: "Header of these requests, where a route of the VirtualService leads it to the canary"},

	{Key: "analysis.falseRollback", Default: "1", form: share, Doc: "Percent of the good canaries that may be rolled back"},
	{Key: "analysis.falsePass", Default: "5", form: share, Doc: "Percent of the bad canaries that may pass"},
	{Key: "analysis.burst", Default: "1", form: form{what: "a number from 1 to 1000", example: "1, or how many requests fail together", min: number(1), max: number(1000)}, Doc: "How many requests go bad together, when one cause fails more than one"},
	{Key: "analysis.minRequests", Flags: []string{"min-requests"}, Default: "50", form: form{what: "a number of requests, at least 1", example: "50", min: number(1), max: new(1e9)}, Doc: "The canary's requests below which nothing passes"},
	{Key: "analysis.minDuration", Default: "30s", form: duration, Doc: "Time before which nothing passes"},
	{Key: "analysis.maxDuration", Flags: []string{"max-duration"}, Default: "15m", form: positiveDuration, Doc: "Time after which what is not decided is inconclusive"},
	{Key: "analysis.warmUp", Default: "30s", form: duration, Doc: "Time from the start of the analysis in which latency is counted, but not weighed; with canary.baseline 0s, unless it is given"},
	{Key: "analysis.callersLeft", Default: "2", form: margin, Doc: "Percentage points above primary at which the canary is bad, for requests whose callers left before the answer; 0 to not judge them"},
	{Key: "analysis.clientErrors", Default: "5", form: margin, Doc: "The same for answers that blame the caller: 4xx"},
	{Key: "analysis.cutStreams", Default: "2", form: margin, Doc: "The same for answers that had started and were cut off: streams, WebSockets, downloads"},
	{Key: "analysis.objectives", Doc: "What is judged; without it 99.9% available and 95% within 500 ms"},
	{Key: "analysis.objectives[].name", Required: true, form: anything, Doc: "Name of the objective, for people"},
	{Key: "analysis.objectives[].objective", Required: true, form: form{what: "a percentage above 0 and below 100", example: "99.9; no number of requests can show 100", above: number(0), below: number(100)}, Doc: "Percent of the requests that are to be good"},
	{Key: "analysis.objectives[].margin", Required: true, form: form{what: "a number of percentage points above 0 and below 100", example: "1", above: number(0), below: number(100)}, Doc: "Percentage points by which a canary is bad for certain"},
	{Key: "analysis.objectives[].latency", form: positiveDuration, Doc: "A request is good when it took no longer: a bound of the buckets of istio_request_duration_milliseconds"},
	{Key: "analysis.objectives[].good", form: query, Doc: "PromQL for the raw counters of good requests, not summed and without rate; $workload and $namespace stand for the track's"},
	{Key: "analysis.objectives[].total", form: query, Doc: "PromQL for the raw counters of all requests"},

	{Key: "imagePolicy.repository", Required: true, form: form{what: "the address of a repository", example: "https://github.com/our-org/qwik-node-app", pattern: `^https://[^\s@]+$`}, Doc: "The only repository that images may be built from"},
	{Key: "imagePolicy.refs", Doc: "Branches and tags that images may be built from; without it refs/heads/main alone"},
	{Key: "imagePolicy.refs[]", form: form{what: "a ref", example: "refs/heads/main, or refs/tags/v*", pattern: `^refs/[a-z-]+/[^\s?\[\\]+$`}, Doc: "A ref; * stands for a part of a name without /, and a pull request's is named as one: refs/pull/7/merge"},
	{Key: "imagePolicy.builders", Doc: "Builders that the provenance may name; without it any that the signer vouches for"},
	{Key: "imagePolicy.builders[]", form: form{what: "a builder's URI", example: "https://github.com/our-org/crossbill/.github/workflows/deliver.yml@COMMIT", pattern: `^[a-z][a-z0-9+.-]*:\S+$`}, Doc: "A builder, as the provenance names it"},
	{Key: "imagePolicy.maxAge", form: positiveDuration, Doc: "How old the provenance may be when the release starts; without it any age"},
	{Key: "imagePolicy.keys", Doc: "Public keys; one of them, or of the identities, has signed the provenance"},
	{Key: "imagePolicy.keys[]", form: form{what: "a public key as PEM", example: "-----BEGIN PUBLIC KEY----- …", pattern: `-----BEGIN [A-Z ]*PUBLIC KEY-----`}, Doc: "A public key as PEM"},
	{Key: "imagePolicy.identities", Doc: "Who signed without a key, by a certificate of Sigstore's"},
	{Key: "imagePolicy.identities[].issuer", Required: true, form: anything, Doc: "Who has seen that identity: https://token.actions.githubusercontent.com for a GitHub workflow"},
	{Key: "imagePolicy.identities[].subject", form: anything, Doc: "The identity. A GitHub workflow signs as the one that has the signing step, which yours may only call: https://github.com/our-org/crossbill/.github/workflows/deliver.yml@COMMIT"},
	{Key: "imagePolicy.identities[].subjectPattern", form: anything, Doc: "Regular expression for all of the identity, in place of subject"},
	{Key: "imagePolicy.trustedRoots", Doc: "Files with the roots of Sigstore services; without it Sigstore's public ones"},
	{Key: "imagePolicy.trustedRoots[]", form: anything, Doc: "A file, relative to that of crossbill.yaml"},

	{Key: "bundle.kinds", Doc: "Kinds of objects that a bundle may hold; without it those that a web service usually has"},
	{Key: "bundle.kinds[]", form: form{what: "a kind", example: "Deployment, ServiceMonitor.monitoring.coreos.com, or *", pattern: `^(\*|[A-Z][A-Za-z0-9]*(\.[a-z0-9.-]+)?)$`}, Doc: "A kind of Kubernetes' or Istio's, Kind.group of others, or * for any"},
	{Key: "bundle.namespaces", Doc: "Namespaces of its objects, beside the app's own"},
	{Key: "bundle.namespaces[]", form: form{what: "the name of a namespace", example: "istio-system", pattern: `^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`}, Doc: "A namespace"},
	{Key: "bundle.podSecurity", Default: "baseline", form: form{what: "restricted, baseline or privileged", example: "restricted", pattern: `^(restricted|baseline|privileged)$`}, Doc: "Level of Kubernetes' Pod Security Standards that its pods keep"},
	{Key: "bundle.serviceAccounts", Doc: "Service accounts of its pods, beside default and the one with the app's name"},
	{Key: "bundle.serviceAccounts[]", form: form{what: "the name of a service account, or *", example: "shop-reader", pattern: `^(\*|[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?)$`}, Doc: "A service account; * is any"},
	{Key: "bundle.maxCPU", form: form{what: "an amount of CPU", example: "500m or 2, in quotes", pattern: `^[0-9]+(\.[0-9]+)?m?$`}, Doc: "Highest limit of CPU of a container; with it each needs one"},
	{Key: "bundle.maxMemory", form: form{what: "an amount of memory", example: "512Mi or 2Gi", pattern: `^[0-9]+(\.[0-9]+)?([KMGT]i?|k)?$`}, Doc: "Highest limit of memory of a container; with it each needs one"},
	{Key: "bundle.maxReplicas", form: form{what: "a whole number above 0", example: "20", min: number(1), max: number(100000)}, Doc: "Highest number of pods of a workload, also of an autoscaler"},
	{Key: "bundle.allowSecrets", Flags: []string{"allow-secrets"}, Default: "false", form: form{what: "true or false", example: "true"}, Doc: "A bundle may hold Secrets with values, which everybody can read who can pull it"},

	{Key: "approval.issuer", Required: true, form: form{what: "a web address without user, password or spaces", example: "https://gitlab.example.com", pattern: address.pattern}, Doc: "Address of the GitLab whose ID tokens are believed, as iss in them has it"},
	{Key: "approval.audience", Default: "crossbill", form: anything, Doc: "Whom the tokens are for: the aud of the jobs' id_tokens"},
	{Key: "approval.project", Required: true, form: form{what: "a project", example: "our-org/infrastructure", pattern: `^[^\s/?#%]+(/[^\s/?#%]+)+$`}, Doc: "Project whose jobs approve"},
	{Key: "approval.projectId", form: form{what: "the number of a project", example: "42", min: number(1), max: new(1e15)}, Doc: "Its number, so that no other project which gets the name is believed; without it the name alone"},
	{Key: "approval.ref", Default: "main", form: form{what: "a branch, or a ref with refs/", example: "main", pattern: `^[A-Za-z0-9][A-Za-z0-9._/+-]{0,254}$`}, Doc: "Branch whose jobs approve, or a whole ref as refs/tags/…; it has to be protected"},
	{Key: "approval.environment", Required: true, form: form{what: "the name of an environment", example: "production/qwik-node-app", pattern: `^[A-Za-z0-9_/${}. -]{1,255}$`}, Doc: "Environment of the job that approves; it has to be protected, unless approvers are named"},
	{Key: "approval.approvers", Doc: "Users who may approve; without it those whom the protected environment lets deploy"},
	{Key: "approval.approvers[]", Doc: "The login of a user of that GitLab", form: form{what: "a login", example: "mona", pattern: `^[A-Za-z0-9_][A-Za-z0-9_.-]*$`}},
	{Key: "approval.notAuthor", Default: "false", form: form{what: "true or false", example: "true"}, Doc: "Refuse who wrote the release as its approver: what canary --author says"},
	{Key: "approval.number", Default: "1", form: form{what: "a whole number from 1 to 9", example: "2", min: number(1), max: number(9)}, Doc: "How many different approvers a release needs; all but the last one run approve"},
	{Key: "approval.before", Doc: "Commands that need an approval; without it promote alone"},
	{Key: "approval.before[]", Doc: "A command", form: form{what: "canary, shift or promote", example: "promote", pattern: `^(canary|shift|promote)$`}},

	{Key: "hooks", Doc: "Jobs and web calls at points of a release; those of a point run in this order"},
	{Key: "hooks[].name", Required: true, Doc: "Name of the hook, by which it is noted what it has done", form: form{what: "a name of lower-case letters, digits and dashes, up to 30", example: "smoke-test", pattern: hook.NamePattern.String()}},
	{Key: "hooks[].point", Required: true, Doc: "When it runs", form: form{what: "beforeCanary, beforeStep, beforePromotion, afterPromotion or afterRollback", example: "beforePromotion", pattern: `^(beforeCanary|beforeStep|beforePromotion|afterPromotion|afterRollback)$`}},
	{Key: "hooks[].job", Doc: "Job of the manifests that one is made of, each time under another name", form: form{what: "the name of a Job", example: "migrate-database", pattern: `^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$`}},
	{Key: "hooks[].url", Doc: "Address that gets the release as JSON by POST: https, or http on this machine", form: address},
	{Key: "hooks[].secretEnv", Doc: "Environment variable with the secret that the body of a call is signed with", form: form{what: "the name of an environment variable", example: "HOOK_SECRET", pattern: `^[A-Za-z_][A-Za-z0-9_]*$`}},
	{Key: "hooks[].timeout", Doc: "How long a Job may take with its retries, or each attempt of a call; without it 10m for a Job, 30s for a call", form: positiveDuration},
	{Key: "hooks[].retries", Doc: "How often it is repeated when it fails, for a Job its backoffLimit; without it the Job's own, else 0, and 2 for a call", form: form{what: "a whole number from 0 to 10", example: "2", min: number(0), max: number(10)}},
	{Key: "hooks[].onFailure", Doc: "What follows when it fails before the promotion: rollback, which is the default, or continue. After the promotion or a rollback nothing does", form: form{what: "rollback or continue", example: "continue", pattern: `^(rollback|continue)$`}},

	{Key: "gitops.controller", Flags: []string{"controller"}, Commands: []string{"config"}, form: form{what: "flux or argocd", example: "flux", pattern: `^(flux|argocd)$`}, Doc: "What applies the app's manifests from Git: flux or argocd. With it a release keeps the controller from undoing it, and promotion commits the image"},
	{Key: "gitops.store", Default: "cluster", form: form{what: "cluster or git", example: "git", pattern: `^(cluster|git)$`}, Doc: "Where the steps of a release are written: the cluster, beside the controller; or git: each step is a commit, which the controller applies, and the cluster is only read"},
	{Key: "gitops.namespace", Default: "argocd", form: form{what: "the name of a namespace", example: "argocd", pattern: `^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`}, Doc: "Namespace of Argo CD's Applications"},
	{Key: "gitops.repository", Required: true, Variable: "CROSSBILL_GITOPS_REPOSITORY", form: form{what: "an address that git clone takes, without user or password", example: "https://gitlab.example.com/our-org/environment.git", pattern: `^(https?://[^\s@]+|ssh://[^\s:]+(:[0-9]+)?(/\S*)?|[^\s@/:]+@[^\s@/:]+:\S+)$`}, Doc: "The environment repository: the one that the controller applies"},
	{Key: "gitops.branch", Default: "main", form: form{what: "the name of a branch", example: "main", pattern: `^[A-Za-z0-9][A-Za-z0-9._/+-]{0,254}$`}, Doc: "Branch of it that the controller applies"},
	{Key: "gitops.path", Default: ".", form: form{what: "a folder in the repository", example: "apps/shop", pattern: `^[^\s/][^\s]*$`}, Doc: "Folder of it with the app's Deployment, or with the kustomization that sets its image"},
	{Key: "gitops.value", form: form{what: "a file and the path of a value in it", example: "apps/shop/values.yaml:image.digest", pattern: `^[^\s/:][^\s:]*:[^\s:]+$`}, Doc: "Where the image stands, in place of gitops.path: a file of values of a Helm chart, and the path in it. A value that is a digest stays one, any other becomes the whole image"},
	{Key: "gitops.releases", Default: "releases", form: form{what: "a folder in the repository", example: "releases", pattern: `^[^\s/][^\s]*$`}, Doc: "Folder of it in which `crossbill propose` names the release of each app"},
	{Key: "gitops.user", form: form{what: "a name without a colon", example: "oauth2", pattern: `^[^\s:]+$`}, Default: "oauth2", Doc: "User that the token belongs to; the default suits GitLab, GitHub and Gitea"},
	{Key: "gitops.tokenFile", Variable: "CROSSBILL_GITOPS_TOKEN_FILE", form: folder, Doc: "File with a token that may push to the branch, for https"},
	{Key: "gitops.sshKeyFile", Variable: "CROSSBILL_GITOPS_SSH_KEY_FILE", form: folder, Doc: "File with the private key of a deploy key that may write, for ssh"},
	{Key: "gitops.knownHostsFile", Variable: "CROSSBILL_GITOPS_KNOWN_HOSTS_FILE", form: folder, Doc: "File with the public keys of the Git server, as ssh-keyscan writes it, for ssh"},
	{Key: "gitops.signingKeyFile", Variable: "CROSSBILL_GITOPS_SIGNING_KEY_FILE", form: folder, Doc: "File with a private SSH key that commits are signed with; without it they are not signed"},
	{Key: "gitops.allowedSignersFile", Variable: "CROSSBILL_GITOPS_ALLOWED_SIGNERS_FILE", form: folder, Doc: "File of those whose signed commits approve a release for `crossbill run`, as ssh-keygen takes it (ALLOWED SIGNERS); without it, whoever may push to the branch approves"},
	{Key: "gitops.approvals", Default: "1", form: form{what: "a whole number from 1 to 9", example: "2", min: number(1), max: number(9)}, Doc: "How many different people of gitops.allowedSignersFile have to approve a release for `crossbill run`"},
	{Key: "gitops.author", Default: "Crossbill <crossbill@localhost>", form: form{what: "a name with an address", example: "Release bot <releases@example.com>", pattern: `^[^<>\r\n]+ <[^<>\s]+>$`}, Doc: "Author of its commits"},

	{Key: "config", Flags: []string{"config"}, Variable: Variable, Default: FileName, Doc: "The configuration file"},
	{Key: "commit", Flags: []string{"commit"}, Commands: []string{"trigger", "propose"}, Platform: []string{"$GITHUB_SHA", "$CI_COMMIT_SHA"}, Doc: "Commit that the image was built from"},
	{Key: "pipelineUrl", Flags: []string{"pipeline-url"}, Platform: []string{"$CI_PIPELINE_URL"}, form: address, Doc: "Page of the pipeline that runs the release"},
	{Key: "sourceUrl", Flags: []string{"source-url"}, Commands: []string{"trigger", "propose"}, Platform: []string{"$GITHUB_SERVER_URL/$GITHUB_REPOSITORY/actions/runs/$GITHUB_RUN_ID", "$CI_PIPELINE_URL"}, Doc: "Page of the run that hands the release over"},

	{Key: "gitlabToken", Flags: []string{"token-file"}, Variable: "GITLAB_TOKEN", Secret: true, Doc: "GitLab access token, scope read_api, or api to cancel"},
	{Key: "gitlabTriggerToken", Flags: []string{"trigger-token-file"}, Variable: "GITLAB_TRIGGER_TOKEN", Secret: true, Doc: "GitLab pipeline trigger token"},
	{Key: "idToken", Flags: []string{"id-token-file"}, Variable: "CROSSBILL_ID_TOKEN", Secret: true, Doc: "GitLab's ID token of the job that approves"},
	{Key: "githubToken", Flags: []string{"github-token-file"}, Variable: "CROSSBILL_GITHUB_TOKEN", Secret: true, Doc: "GitHub token that may write deployments; and check runs or statuses, and comments, to show releases on commits and pull requests"},
	{Key: "notifyGitlabToken", Flags: []string{"notify-gitlab-token-file"}, Variable: "CROSSBILL_NOTIFY_GITLAB_TOKEN", Secret: true, Doc: "GitLab access token of scope api that shows releases on the commits and merge requests of notify.gitlab.project"},
	{Key: "webhook", Flags: []string{"webhook-file"}, Variable: "CROSSBILL_WEBHOOK", Secret: true, Doc: "Address that gets a notice of each command, as JSON that Slack shows too"},
	{Key: "chat", Flags: []string{"chat-file"}, Variable: "CROSSBILL_CHAT", Secret: true, Doc: "Addresses of chats, one a line: as Slack, Teams, Discord and Google Chat show them, or in the form of shoutrrr; or the path of a file with them"},
	{Key: "registryHost", Variable: "REGISTRY_HOST", Doc: "The registry that user and password are for; others get what `docker login` has. Without it that of the image or bundle that a command names; of a release by image, that of the manifests, if they name one"},
	{Key: "registryUsername", Flags: []string{"username"}, Variable: "REGISTRY_USERNAME", Doc: "User of the registry; without it as `docker login` has it"},
	{Key: "registryPassword", Flags: []string{"password-file"}, Variable: "REGISTRY_PASSWORD", Secret: true, Doc: "Password or token of the registry's user"},
	{Key: "signingKey", Flags: []string{"key-file"}, Variable: "CROSSBILL_SIGNING_KEY", Secret: true, Doc: "Private key as PEM that signs images"},
})

// withPreviewPolicy adds the options of preview.imagePolicy, which are those of imagePolicy, behind the section preview.
func withPreviewPolicy(all []Option) []Option {
	var own []Option
	for _, o := range all {
		if strings.HasPrefix(o.Key, "imagePolicy.") {
			own = append(own, Option{Key: "preview." + o.Key, Required: o.Required, Doc: o.Doc, form: o.form})
		}
	}
	last := 0
	for i, o := range all {
		if strings.HasPrefix(o.Key, "preview.") {
			last = i
		}
	}
	return slices.Insert(all, last+1, own...)
}

// byKey are the options by their keys.
var byKey = func() map[string]*Option {
	index := map[string]*Option{}
	for i := range Options {
		index[Options[i].Key] = &Options[i]
	}
	return index
}()

// itemIndex is an item's number, in analysis.objectives[0].name.
var itemIndex = regexp.MustCompile(`\[[0-9]+\]`)

// find gives the option of a key; its items have numbers: analysis.objectives[0].name.
func find(key string) *Option { return byKey[itemIndex.ReplaceAllString(key, "[]")] }

// means says whether the option is what a command's flag of its name sets.
func (o *Option) means(command string) bool {
	return len(o.Commands) == 0 || slices.Contains(o.Commands, command)
}

// kebab gives the flag of an option that the table does not have: releaseId is release-id.
func kebab(key string) string {
	var flag strings.Builder
	for _, r := range key {
		if r >= 'A' && r <= 'Z' {
			flag.WriteByte('-')
			r += 'a' - 'A'
		}
		flag.WriteRune(r)
	}
	return flag.String()
}
