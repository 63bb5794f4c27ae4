package release

// ledgerBudget is how many bytes a ledger may have, together with what is kept beside it. A ConfigMap may have 1 MiB,
// and whoever applies it keeps a copy of it in an annotation.
const ledgerBudget = 512 << 10

// Fit makes room until the ledger and what is kept beside it are within the budget: the evidence of finished releases
// goes first, then the pod templates that can be returned to, both the oldest first, then the oldest of the history, and last
// what the release in flight can do without.
// The release in flight itself stays.
func (l *Ledger) Fit(beside int) {
	most := max(ledgerBudget-beside, ledgerBudget/4)
	for len(l.String()) > most && l.shed() {
	}
}

// shed drops what can be missed most easily, and says whether there was anything.
func (l *Ledger) shed() bool {
	for i := len(l.History) - 1; i >= 0; i-- {
		if l.History[i].shedEvidence() {
			return true
		}
	}
	if l.shedPod() {
		return true
	}
	if n := len(l.History); n > 0 {
		l.History = l.History[:n-1]
		return true
	}
	r := l.Release
	switch {
	case r == nil:
		return false
	case len(r.Judged) > 0:
		r.Judged = r.Judged[1:]
	case len(r.Takeovers) > 0:
		r.Takeovers = r.Takeovers[1:]
	default:
		return r.shedEvidence()
	}
	return true
}

// shedEvidence drops what the verdict on a release rests on. The verdict stays.
func (r *Release) shedEvidence() bool {
	if r.Verdict == nil || r.Verdict.Evidence == "" {
		return false
	}
	verdict := *r.Verdict
	verdict.Evidence, verdict.Dropped = "", true
	r.Verdict = &verdict
	return true
}
