package main

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

// version is set when a release of the command is built (see the Makefile); else the module's version is
// shown, as `go install` records it.
var version = ""

// buildInfo says what this command was built from.
type buildInfo struct {
	Version  string `json:"version"`
	Commit   string `json:"commit,omitempty"`
	Date     string `json:"date,omitempty"` // of the commit
	Modified bool   `json:"modified,omitempty"`
	Go       string `json:"goVersion"`
	Platform string `json:"platform"`
}

func buildVersion() buildInfo {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	return buildInfoOf(version, info)
}

func buildInfoOf(version string, info *debug.BuildInfo) buildInfo {
	b := buildInfo{Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if b.Version == "" {
		b.Version = info.Main.Version
	}
	if b.Version == "" || b.Version == "(devel)" {
		b.Version = "development"
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Commit = s.Value
		case "vcs.time":
			b.Date = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}

type versionOptions struct {
	output outputOptions
	out    io.Writer
}

func newVersionCommand() *cobra.Command {
	o := &versionOptions{}
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Show which crossbill this is",
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
	return view{
		data: b,
		text: line("crossbill %s", b.Version),
		wide: func(out io.Writer) error {
			w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
			for _, row := range [][2]string{{"crossbill", b.Version}, {"commit", b.Commit}, {"date", b.Date}, {"go", b.Go}, {"platform", b.Platform}} {
				if row[1] != "" {
					fmt.Fprintf(w, "%s\t%s\n", row[0], row[1])
				}
			}
			return w.Flush()
		},
		names: []string{"version/" + b.Version},
	}
}
