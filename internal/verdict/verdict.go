// Package verdict judges a canary by what its callers saw. It reads raw request counters from Prometheus and
// weighs them with a sequential test that has stated error rates.
//
// It keeps these invariants:
//   - Too few requests, or metrics that are missing, stale or not numbers, never give a healthy verdict.
//   - The same counts always give the same verdict, so that a record can be judged again.
//   - An old record stays readable.
//
// The mathematics is pure: sequential.go has the test, evalue.go its e-values, evidence.go what they add up
// to. The other files read Prometheus (source.go, counters.go), watch a canary (verify.go), wait until nobody
// calls a workload (quiet.go), and read what the user asks for (slo.go) and what was counted (record.go).
package verdict
