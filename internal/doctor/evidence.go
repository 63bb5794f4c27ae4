package doctor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/our-org/crossbill/internal/usererr"
	"github.com/our-org/crossbill/internal/verdict"
)

// Evidence is what a canary is judged by.
type Evidence struct {
	Source      *verdict.Source
	URL         string
	Primary     string        // workload
	MaxDuration time.Duration // of an analysis
	Now         func() time.Time
}

// Checks are those of Prometheus.
func (e *Evidence) Checks() []Check {
	const prometheus = "Prometheus"
	return []Check{{Name: prometheus, Run: e.counters}, {Name: "scraping", Run: e.scraping, Needs: prometheus}}
}

// counters looks whether primary's requests are counted, with the labels that the queries select by.
func (e *Evidence) counters(ctx context.Context) ([]string, error) {
	cause, reason := e.Source.Missing(ctx, e.Primary, e.Now())
	switch cause {
	case "":
		return []string{fmt.Sprintf("%s counts the requests of %s, by Istio's labels", e.URL, e.Primary)}, nil
	case verdict.NoTraffic: // it answers, and before a first release there is none
		return nil, &UnknownError{e.URL + " answers; " + reason + ". Its labels show with the first requests"}
	case verdict.MissingLabels:
		return nil, &usererr.Error{Field: "prometheus.url", Problem: reason, Fix: "correct the scrape configuration of the mesh's proxies: nothing else shows whether a canary is healthy"}
	}
	return nil, &usererr.Error{Field: "prometheus.url", Problem: reason, Fix: "check the address and the credentials, and that this machine reaches it"}
}

// scraping compares how often counters are sampled with what an analysis needs.
func (e *Evidence) scraping(ctx context.Context) ([]string, error) {
	every, last, err := e.Source.Scraped(ctx, e.Primary, e.Now())
	if err != nil {
		return nil, err
	}
	if every == 0 {
		return nil, &UnknownError{"there are not two samples of " + e.Primary + " yet"}
	}
	var problems []error
	if ago := e.Now().Sub(last); verdict.Late(ago, every) {
		problems = append(problems, &usererr.Error{
			Field: "prometheus.url", Problem: fmt.Sprintf("the requests of %s were sampled %s ago, and every %s before: scraping has stopped", e.Primary, ago.Round(time.Second), every),
			Fix: "look at the targets in Prometheus: counters that old are no evidence",
		})
	}
	if least := verdict.LeastDuration(every); e.MaxDuration < least {
		problems = append(problems, &usererr.Error{
			Field: "analysis.maxDuration", Problem: fmt.Sprintf("%s is too short: the counters are sampled every %s", e.MaxDuration, every), Fix: fmt.Sprintf("give at least %s", least),
		})
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	return []string{fmt.Sprintf("the requests of %s are sampled every %s", e.Primary, every)}, nil
}
