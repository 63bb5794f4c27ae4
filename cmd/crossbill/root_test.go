package main

import (
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/our-org/crossbill/internal/release"
)

// TestBadLines: what is wrong with a command line is said before anything is asked of a server, with exit code 2.
func TestBadLines(t *testing.T) {
	quiet(t)
	t.Setenv("KUBECONFIG", "/nonexistent")
	image := "registry.example.com/our-org/app@sha256:" + strings.Repeat("0a", 32)
	for line, want := range map[string]string{
		"statsu":                               `unknown command "statsu" for "crossbill"; did you mean status?`,
		"statsu --all":                         `did you mean status?`,
		"image atest":                          `unknown command "atest" for "crossbill image"; did you mean attest?`,
		"image nope":                           `unknown command "nope" for "crossbill image"`,
		"help nope":                            `unknown command "nope" for "crossbill"`,
		"help promot":                          `did you mean promote?`,
		"help image nope":                      `unknown command "nope" for "crossbill image"`,
		"help canary nope":                     `"crossbill canary" has no command "nope"`,
		"promote now":                          `unknown command "now" for "crossbill promote"`,
		"promote --nope":                       "unknown flag: --nope",
		"promote -o xml":                       `--output: "xml" is not a format; give one of: text, wide, json, yaml, name`,
		"promote --timeout -5m":                "-5m0s is too short",
		"promote --timeout 0s":                 "0s is too short",
		"promote --timeout 5":                  `"5" is not a duration`,
		"promote --bake -1m":                   "-1m0s is too short",
		"promote --settle-delay -1":            `"-1" is not a duration`,
		"promote --bake 5m":                    "--prometheus: is missing beside --bake",
		"guard --dead 0s":                      "0s is too short",
		"guard --waiting -1h":                  "-1h0m0s is too short",
		"canary":                               "--image: is missing",
		"canary --image app:v1":                `--image: "app:v1" is not an image with a digest`,
		"canary --weight 100 --image " + image: "--weight: 100 is not a weight",
		"canary --weight 0 --image " + image:   "--weight: 0 is not a weight",
		"canary --match x-canary=yes --image " + image:                     `--match: "x-canary=yes" is not a match of a header or a cookie`,
		"canary --match header:host=a --image " + image:                    `--match: "header:host=a" names a header that is`,
		"canary --match header:x=~( --image " + image:                      "RE2",
		"canary --mirror 0 --image " + image:                               `--mirror: "0" is not a percentage`,
		"canary --mirror 101% --image " + image:                            `--mirror: "101%" is not a percentage`,
		"canary --mirror 5% --weight 10 --image " + image:                  "--weight: 10% is more than a mirrored canary gets",
		"canary --sticky --sticky-assets build --image " + image:           `--sticky-assets: "build" is not a path below /`,
		"canary --manifests /nonexistent --image " + image:                 "--manifests: ",
		"canary --manifests ../../k8s --image " + image:                    "--kubeconfig: ",
		"canary --connect-to here --manifests ../../k8s --image " + image:  "--connect-to: ",
		"status --request-timeout -1s --manifests ../../k8s":               "--request-timeout: ",
		"canary --follow --image " + image:                                 "--prometheus: is missing beside --follow",
		"canary --follow --prometheus http://p --within 0s":                "0s is too short",
		"canary --follow --prometheus http://p --probe x --image " + image: `--probe: "x" is not`,
		"canary --interval 5s --image " + image:                            "--interval: is for --follow",
		"shift":                                                            "--steps: is missing",
		"shift --steps 20,10":                                              "--steps: 10 comes after 20",
		"shift --steps 0":                                                  "--steps: 0 is not a weight",
		"verify":                                                           "--prometheus: is missing",
		"verify --prometheus http://p --probe x":                           `--probe: "x" is not a web address`,
		"verify --prometheus http://p --probe http://a --probe-rate 0":     "--probe-rate: 0 is not",
		"verify --prometheus http://p --probe http://a --probe-header x":   `--probe-header: "x" is not a header`,
		"verify --prometheus http://p --max-duration 0s":                   "0s is too short",
		"promote --prometheus p":                                           `--prometheus: "p" is not a web address`,
		"promote --pushgateway p":                                          `--pushgateway: "p" is not a web address`,
		"promote --github-repository p":                                    `--github-repository: "p" is not a GitHub repository`,
		"status --namespace Bad_Name":                                      `--namespace: "Bad_Name" is not the name of a namespace`,
		"report --gitlab-url p":                                            `--gitlab-url: "p" is not a web address`,
		"watch --project /a/b --pipeline 1":                                `--project: "/a/b" is not a project`,
		"watch --promote-job= --pipeline 1":                                `--promote-job: "" is not the name of a job`,
		"canary --weight abc":                                              `--weight: "abc" is not a whole number; give for example 10`,
		"shift --steps a,b":                                                `--steps: "a,b" is not a list of whole numbers`,
		"promote --dry-run=maybe":                                          `--dry-run: "maybe" is not true or false`,
		"canary --trust none --manifests ../../k8s --kubeconfig " + kubeconfigOf(t, "http://127.0.0.1:1") + " --image " + image: "--trust: open none",
		"image digest":               "REPOSITORY:TAG: is missing",
		"image inspect a b":          "REPOSITORY@DIGEST: 2 are given",
		"plan":                       "name one of: canary, promote, cleanup, rollback, migrate",
		"plan canary --image app:v1": "--image: ",
		"plan nope":                  "name one of: ",
	} {
		t.Run(line, func(t *testing.T) {
			r := runLine(t, strings.Fields(line)...)
			if r.code != exitBadInput || !strings.Contains(r.err, want) || r.out != "" && !strings.HasPrefix(line, "plan") {
				t.Errorf("exit code %d, %q on standard output, and\n%s\nwant\n%s", r.code, r.out, r.err, want)
			}
		})
	}
}

// TestBadLinesBesideAKubeconfig: what the kubeconfig has is in order, and nothing answers at its address: exit code 1
// would show that it was asked first.
func TestBadLinesBesideAKubeconfig(t *testing.T) {
	quiet(t)
	rest := []string{"--manifests", "../../k8s", "--kubeconfig", kubeconfigOf(t, "http://127.0.0.1:1")}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]string{
		"status --cluster none":                                `--cluster: cluster "none" not found in the kubeconfig`,
		"status --user none":                                   `--user: user "none" not found in the kubeconfig`,
		"status --server ftp://here":                           `--server: "ftp://here" is not a web address`,
		"status --certificate-authority /nonexistent":          "--certificate-authority: ",
		"status --as-group admins":                             "--as-group: is given without a user",
		"report --html /nonexistent/a.html":                    "--html: open /nonexistent/a.html",
		"report --html .":                                      "--html: open .: is a directory",
		"verify --prometheus http://p --record /nonexistent/a": "--record: open /nonexistent/a",
		"verify --prometheus http://p --min-requests Inf":      "--min-requests: +Inf is not a number of requests",
		"promote --slo /nonexistent":                           "--slo: open /nonexistent",
		"promote --webhook-file /nonexistent":                  "--webhook-file: open /nonexistent",
		"promote --github-token-file /nonexistent":             "--github-token-file: open /nonexistent",
		"status --kubeconfig " + empty:                         "--kubeconfig: it names no cluster",
	} {
		t.Run(line, func(t *testing.T) {
			if r := runLine(t, append(strings.Fields(line)[:1:1], append(slices.Clone(rest), strings.Fields(line)[1:]...)...)...); r.code != exitBadInput || !strings.Contains(r.err, want) {
				t.Errorf("exit code %d, %q; want %q", r.code, r.err, want)
			}
		})
	}
	// Who is notified never holds a rollback up.
	if r := runLine(t, append([]string{"rollback", "--webhook-file", "/nonexistent"}, rest...)...); r.code != exitFailure || !strings.Contains(r.err, "the release itself is not affected") {
		t.Errorf("rollback: exit code %d, %q", r.code, r.err)
	}
}

// TestHelpOfAnUnknownCommand: cobra shows the group's help for it; the exit code still says that it was not found.
func TestHelpOfAnUnknownCommand(t *testing.T) {
	quiet(t)
	for _, line := range []string{"nope --help", "image nope --help", "completion nope"} {
		r := runLine(t, strings.Fields(line)...)
		if want := `unknown command "nope" for "crossbill`; r.code != exitBadInput || !strings.Contains(r.err, want) {
			t.Errorf("%s: exit code %d, %q; want %q", line, r.code, r.err, want)
		}
	}
}

// every calls a function with each command that a person can run.
func every(t *testing.T, check func(*testing.T, *cobra.Command)) {
	var visit func(*cobra.Command)
	visit = func(cmd *cobra.Command) {
		for _, child := range cmd.Commands() {
			visit(child)
		}
		if name := cmd.CommandPath(); cmd.Runnable() && !strings.HasPrefix(name, "crossbill completion") {
			t.Run(name, func(t *testing.T) { check(t, cmd) })
		}
	}
	visit(newRootCommand())
}

var placeholder = regexp.MustCompile("`[^`]*`")

// TestHelp: each command has a group and an example (the calls are parsed on the pages of the reference), and no flag's text breaks the help.
func TestHelp(t *testing.T) {
	every(t, func(t *testing.T, cmd *cobra.Command) {
		if cmd.HasParent() && cmd.Parent() == cmd.Root() && cmd.GroupID == "" && !cmd.Hidden {
			t.Error("it is in no group")
		}
		if cmd.Example == "" && !cmd.HasSubCommands() {
			t.Error("its help has no example")
		}
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if found := placeholder.FindString(f.Usage); found != "" {
				t.Errorf("--%s: pflag takes %s for the name of the value", f.Name, found)
			}
			if strings.Contains(f.Usage, "(default") && f.DefValue != "" && f.DefValue != "0" && f.DefValue != "[]" {
				t.Errorf("--%s has two defaults: %q and %s", f.Name, f.Usage, f.DefValue)
			}
		})
		if _, out := runCommand(t, append(strings.Fields(cmd.CommandPath())[1:], "--help")...); !strings.Contains(out, "Usage:\n") {
			t.Errorf("its help:\n%s", out)
		}
	})
}

// TestFlagsHaveOneMeaning: the flags of a section are those that mean something for the command.
func TestFlagsHaveOneMeaning(t *testing.T) {
	root := newRootCommand()
	has := func(command, flag string) bool {
		cmd, _, err := root.Find([]string{command})
		if err != nil {
			t.Fatal(err)
		}
		f := cmd.Flags().Lookup(flag)
		return f != nil && f.Deprecated == ""
	}
	for _, c := range []struct {
		flag     string
		with, no []string
	}{
		{"dry-run", []string{"canary", "shift", "verify", "promote", "cleanup", "rollback", "guard", "migrate"}, []string{"status", "history", "report", "replay"}},
		{"timeout", []string{"canary", "promote"}, []string{"status", "history", "report", "replay"}},
		{"takeover", []string{"canary", "promote", "migrate"}, []string{"rollback", "guard", "status"}},
		{"app", []string{"canary", "shift", "verify", "promote", "cleanup", "rollback", "guard", "migrate"}, []string{"status", "history", "report", "replay"}},
		{"release-id", []string{"canary", "promote", "rollback"}, []string{"guard", "migrate", "status"}},
		{"webhook-file", []string{"canary", "guard"}, []string{"migrate", "status"}},
	} {
		for _, command := range c.with {
			if !has(command, c.flag) {
				t.Errorf("%s has no --%s", command, c.flag)
			}
		}
		for _, command := range c.no {
			if has(command, c.flag) {
				t.Errorf("%s has --%s", command, c.flag)
			}
		}
	}
}

func TestBuildInfo(t *testing.T) {
	settings := []debug.BuildSetting{{Key: "vcs.revision", Value: "c0ffee1"}, {Key: "vcs.time", Value: "2026-11-26T08:00:00Z"}, {Key: "vcs.modified", Value: "true"}}
	const fork, components = "git.example.com/tools/crossbill", "gitlab.example.com/tools/crossbill"
	for name, c := range map[string]struct {
		linked buildInfo
		info   debug.BuildInfo
		want   buildInfo
	}{
		"go install":    {info: debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}}, want: buildInfo{Version: "v1.2.3"}},
		"a release":     {linked: buildInfo{Version: "1.2.3", Commit: "0a0b", Date: "2026-11-25T08:00:00Z"}, info: debug.BuildInfo{Main: debug.Module{Version: "(devel)"}, Settings: settings}, want: buildInfo{Version: "1.2.3", Commit: "0a0b", Date: "2026-11-25T08:00:00Z"}},
		"make build":    {linked: buildInfo{Version: "1.2.3-dirty", Commit: "0a0b"}, want: buildInfo{Version: "1.2.3-dirty", Commit: "0a0b", Modified: true}},
		"with vcs":      {linked: buildInfo{Version: "v1.2.3-4"}, info: debug.BuildInfo{Settings: settings}, want: buildInfo{Version: "v1.2.3-4", Commit: "c0ffee1", Date: "2026-11-26T08:00:00Z", Modified: true}},
		"go build":      {info: debug.BuildInfo{Main: debug.Module{Version: "(devel)"}}, want: buildInfo{Version: "development"}},
		"a fork":        {info: debug.BuildInfo{Main: debug.Module{Path: fork}}, want: buildInfo{Version: "development", Module: fork, Components: "$CI_SERVER_FQDN/tools/crossbill"}},
		"another home":  {linked: buildInfo{Components: components}, want: buildInfo{Version: "development", Components: components}},
		"nothing known": {want: buildInfo{Version: "development"}},
	} {
		got := buildInfoOf(c.linked, &c.info)
		got.Go, got.Platform = "", ""
		c.want.LedgerVersion = release.LedgerVersion
		if c.want.Module == "" {
			c.want.Module = "github.com/our-org/crossbill"
		}
		if c.want.Components == "" {
			c.want.Components = "$CI_SERVER_FQDN/our-org/crossbill"
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// transport answers every request in the same way.
type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestVerboseHidesSecrets: --verbose shows method, address and status, no password and no header.
func TestVerboseHidesSecrets(t *testing.T) {
	var log strings.Builder
	client := &http.Client{Timeout: time.Second, Transport: logRequests(&log)(transport(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 404, Status: "404 Not Found", Body: http.NoBody}, nil
	}))}
	request, err := http.NewRequest(http.MethodGet, "https://jane:hunter2@kubernetes.example.com/api/v1/namespaces/shop", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer secret")
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if got := log.String(); !strings.HasPrefix(got, "GET https://jane:xxxxx@kubernetes.example.com/api/v1/namespaces/shop 404 Not Found in ") || strings.Contains(got, "secret") {
		t.Errorf("it says %q", got)
	}
}
