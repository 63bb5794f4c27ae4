package report

import (
	"github.com/fatih/color"

	"github.com/our-org/crossbill/internal/release"
)

// coloured is a word of a release as a terminal shows it: outcomes, stages and verdicts. Package color leaves
// it plain where there is no terminal, and where NO_COLOR is set (https://no-color.org).
func coloured(word string) string {
	paint := color.New(color.FgCyan)
	switch word {
	case string(release.OutcomePromoted), string(release.OutcomeFirst), string(release.OutcomeUnchanged), string(release.Healthy):
		paint = color.New(color.FgGreen)
	case string(release.OutcomeRolledBack), string(release.StageRollingBack), string(release.Unhealthy):
		paint = color.New(color.FgRed)
	}
	return paint.Sprint(word)
}
