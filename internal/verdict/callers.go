package verdict

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// callersSpan is how far back a call counts as one of now.
const callersSpan = "30s"

// Callers are the workloads that call a workload now, as both sides of its calls report them: the name and, in
// parentheses, the namespace. One outside the mesh is reported by the workload's own proxy as "unknown".
func (s *Source) Callers(ctx context.Context, workload string) ([]string, error) {
	now := time.Now()
	found := map[string]bool{}
	for _, side := range []string{callersSide, ownSide} {
		vector, err := s.query(ctx, fmt.Sprintf(`sum by (source_workload, source_workload_namespace) (increase(%s[%s])) > 0`,
			s.requests(side, workload), callersSpan), now)
		if err != nil {
			return nil, err
		}
		for _, sample := range vector {
			found[fmt.Sprintf("%s (%s)", sample.Metric["source_workload"], sample.Metric["source_workload_namespace"])] = true
		}
	}
	var callers []string
	for caller := range found {
		callers = append(callers, caller)
	}
	slices.Sort(callers)
	return callers, nil
}
