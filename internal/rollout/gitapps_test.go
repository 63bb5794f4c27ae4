package rollout_test

import (
	"github.com/our-org/crossbill/internal/rollout"
)

// ledgersInGit are the ledgers in the repository, as a job sees them.
func (w *world) ledgersInGit(j *job) *rollout.GitLedgers {
	return &rollout.GitLedgers{Repository: view{w.git.repository, j}, Folder: ledgerFolder}
}
