package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/our-org/crossbill/internal/release"
)

// What the linker sets when a release of the command is built (see internal/dist); else it is as `go install` and `go build`
// record it.
var (
	version           string
	versionCommit     string
	versionDate       string // of the commit, as RFC 3339
	versionComponents string // where its GitLab components are: HOST/group/project
)

// modulePath is the module of this command, where its build does not say it.
const modulePath = "github.com/our-org/crossbill"

// buildInfo says what this command was built from.
type buildInfo struct {
	Version       string `json:"version"`
	Commit        string `json:"commit,omitempty"`
	Date          string `json:"date,omitempty"`     // of the commit
	Modified      bool   `json:"modified,omitempty"` // it has changes that are in no commit
	Module        string `json:"module"`
	Components    string `json:"components"`
	LedgerVersion int    `json:"ledgerVersion"` // the newest one of the ledger's format that it reads
	Go            string `json:"goVersion"`
	Platform      string `json:"platform"`
}

func buildVersion() buildInfo {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	return buildInfoOf(buildInfo{Version: version, Commit: versionCommit, Date: versionDate, Components: versionComponents}, info)
}

// buildInfoOf completes what the linker has set.
func buildInfoOf(b buildInfo, info *debug.BuildInfo) buildInfo {
	b.Go, b.Platform, b.LedgerVersion = runtime.Version(), runtime.GOOS+"/"+runtime.GOARCH, release.LedgerVersion
	b.Module = cmp.Or(info.Main.Path, modulePath)
	// GitLab's own server, and the project that has the module's path.
	b.Components = cmp.Or(b.Components, "$CI_SERVER_FQDN/"+b.repository())
	b.Modified = strings.HasSuffix(b.Version, "-dirty")
	if b.Version == "" {
		b.Version = info.Main.Version
	}
	if b.Version == "" || b.Version == "(devel)" {
		b.Version = "development"
	}
	if b.Commit != "" {
		return b
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Commit = s.Value
		case "vcs.time":
			b.Date = s.Value
		case "vcs.modified":
			b.Modified = b.Modified || s.Value == "true"
		}
	}
	return b
}

// repository is owner/name of the module.
func (b buildInfo) repository() string {
	_, path, _ := strings.Cut(b.Module, "/")
	return path
}

type versionOptions struct {
	output outputOptions
	out    io.Writer
}

func newVersionCommand() *cobra.Command {
	o := &versionOptions{}
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Show which crossbill this is, and what it was built from",
		Example: "  crossbill version\n  crossbill version -o json",
		Args:    cobra.NoArgs,
		RunE:    runs(o),
	}
	o.output.add(cmd)
	return cmd
}

func (o *versionOptions) complete(cmd *cobra.Command, _ []string) error {
	o.out = cmd.OutOrStdout()
	return nil
}

func (o *versionOptions) validate() error { return o.output.validate() }

func (o *versionOptions) run(context.Context) error {
	return o.output.print(o.out, buildVersion().view())
}

func (b buildInfo) view() view {
	commit := b.Commit
	if b.Modified {
		commit = strings.TrimSpace(commit + " with changes")
	}
	return view{
		data: b,
		text: func(out io.Writer) error {
			w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
			for _, row := range [][2]string{
				{"crossbill", b.Version}, {"commit", commit}, {"date", b.Date}, {"go", b.Go}, {"platform", b.Platform},
				{"ledger", fmt.Sprintf("format versions 1 to %d", b.LedgerVersion)},
			} {
				if row[1] != "" {
					fmt.Fprintf(w, "%s\t%s\n", row[0], row[1])
				}
			}
			return w.Flush()
		},
		names: []string{"version/" + b.Version},
	}
}
