package release

// DefaultKeepReleases is how many releases can be returned to where nobody says another number.
const DefaultKeepReleases = 5

// Return says that a release goes back to one that had all of the traffic before: the same image, pod template and
// configuration, without another canary.
type Return struct {
	From   string `json:"from,omitempty"` // the release that primary ran when the return started
	Reason string `json:"reason,omitempty"`
}

// Why is why a release is taken back, or returned to, for people.
func (r *Release) Why() string {
	if r.Reason != "" || r.Return == nil {
		return r.Reason
	}
	why := "in place of release " + r.Return.From
	if r.Return.Reason != "" {
		why += ": " + r.Return.Reason
	}
	return why
}

// Again is the release that returns to a finished one: its content under its name.
func (f *Finished) Again(back Return) Release {
	return Release{
		ID: f.ID, Image: f.Image, Template: f.Template, Pod: f.Pod, Config: f.Config, Bundle: f.Bundle,
		Commit: f.Commit, Origin: f.Origin, SourceURL: f.SourceURL, Authors: f.Authors, Return: &back,
	}
}

// Returnable are the finished releases that can be returned to, newest first, each content once: they had all of the
// traffic, and the pod template that they had on primary is kept.
func (l *Ledger) Returnable() (found []Finished) {
	seen := map[string]bool{}
	for _, f := range l.History {
		if f.Pod == "" || !f.Outcome.Good() || seen[f.content()] {
			continue
		}
		seen[f.content()] = true
		found = append(found, f)
	}
	return found
}

// content is what a release puts on primary.
func (r *Release) content() string { return r.Image + "\n" + r.Pod }

// KeepPods keeps the pod templates of the newest releases that can be returned to, so many and each once, and drops those of
// all others.
func (l *Ledger) KeepPods(most int) {
	kept := map[string]bool{}
	for i := range l.History {
		f := &l.History[i]
		if !f.Outcome.Good() || kept[f.content()] || len(kept) >= most {
			f.Pod = ""
		}
		if f.Pod != "" {
			kept[f.content()] = true
		}
	}
}

// shedPod drops the pod template of the oldest release that can be returned to, and says whether there was one.
func (l *Ledger) shedPod() bool {
	for i := len(l.History) - 1; i >= 0; i-- {
		if f := &l.History[i]; f.Pod != "" {
			f.Pod = ""
			return true
		}
	}
	return false
}
