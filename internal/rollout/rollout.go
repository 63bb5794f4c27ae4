// Package rollout is the only code that changes what is deployed. Each of its commands (canary, shift,
// verify, approve, promote, cleanup, rollback, guard, migrate) can die anywhere and be run again, and rollback works
// from wherever another one died.
//
// It keeps invariants 1 to 7, 12 and 13 of the design: a subset exists before a route names it, ready
// endpoints before a weight, weight 0 before removal; every write is fenced by the lock of the job that makes
// it; the fields, routes and subsets of others stay as they are.
//
// The fence: a lock has an epoch, one more than the last one's. It is written into the ledger and, as an
// annotation, onto each object that a job writes; each write names the resourceVersion that was read together
// with an epoch not above the job's own. A job that follows one whose lock did not end in order (the ledger
// says so) first stamps every object, so that the next write of the old one is a conflict and then a refusal.
// The creation of an object is a conflict where there is one by then; what a late one makes where there is none gets no traffic.
//
// Where to find what: rollout.go has the types, run.go the way of every command, a file each the commands;
// lock.go and ledger.go say who may write, change.go and object.go are the only way to write, fence.go what
// keeps others out; deployment.go and service.go know what is written, wait.go, endpoints.go and drain.go what is waited
// for. How traffic is routed is behind the seam of router.go; subsets*.go is a VirtualService with a DestinationRule. Where
// changes are written is behind the seam of store.go: apiserver.go, gitops.go beside a GitOps controller, gitstore.go by commits.
package rollout

import (
	"context"
	"fmt"
	"net/http"
	"time"

	istio "istio.io/client-go/pkg/clientset/versioned"
	"k8s.io/client-go/kubernetes"

	"github.com/our-org/crossbill/internal/hook"
	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/release"
)

// DefaultSettleDelay is Cluster.SettleDelay's.
const DefaultSettleDelay = 10 * time.Second

// Cluster is one app in one namespace of one cluster.
type Cluster struct {
	Kube      kubernetes.Interface
	API       *Contact // of both clients; nil: reads are not tried again, and the server's clock is not known
	Istio     istio.Interface
	Kinds     *Kinds // what reaches the other objects of the manifests; nil: there are none
	Namespace string
	Manifests *manifest.Set

	// ReleaseID names the release that a command is about: verify, promote, cleanup and rollback refuse
	// any other one in flight, so that the buttons of an old pipeline do nothing to a new release.
	// Empty: whichever is in flight.
	ReleaseID string
	// Again lets Canary start a release that has finished before, with the same name, or whose image is older than
	// primary's.
	Again bool
	// AllowTags are the repositories whose images the pod template may name by tag, with * for a part of a name.
	AllowTags []string
	// By names the job or person, for the ledger and the lock.
	By string
	// Timeout ends a wait for the cluster that sees no progress for so long. Default 5 minutes.
	Timeout time.Duration
	// LockTimeout bounds the wait for the lock. Default 1 minute.
	LockTimeout time.Duration
	// Takeover takes the lock of another job at once instead of waiting until it is released or
	// its job is dead.
	Takeover bool
	// Drained returns when a workload that has weight 0 no longer gets requests, or with an error
	// when it has not come to rest in time. Nil: SettleDelay is waited out instead.
	Drained func(ctx context.Context, workload string) error
	// Callers are the workloads that call a workload now, for messages. Nil: not known.
	Callers func(ctx context.Context, workload string) ([]string, error)
	// SettleDelay is how long the data plane is given to have a route when nothing shows that it has
	// it. istiod sends a change within a second at most by default (debounce 100 ms to 10 s under
	// constant change); the default is 10 seconds.
	SettleDelay time.Duration
	// PromoteTraffic is the track that has the traffic while promotion replaces primary's pods: the canary, grown for all of
	// it, or primary, whose pods are replaced one after the other under their traffic. Empty: the canary.
	PromoteTraffic release.Track
	// Urgent: what a rollback goes back from gives callers errors, so that it waits for nothing that they need not.
	Urgent bool
	// Admit says whether a release's image may be deployed at all, and notes its origin in it. Canary, Shift and Promote
	// ask it before they write anything, and so does Migrate with what runs. Nil: every image may.
	Admit func(context.Context, *release.Release) error
	// Gate says who has approved that a command goes on with a release, as the ledger has it or as canary will start it. Canary,
	// Shift, Promote and Approve ask it before they write anything, and after it they act as the user that it has verified.
	// Nil: nobody is asked.
	Gate func(ctx context.Context, command string, l *release.Ledger, r *release.Release) (*release.Passed, error)
	// ApplyOthers: the objects of the manifests that a canary is not made of are applied with the release.
	ApplyOthers bool
	// Parts are the digests of the images that an index is made of, none of another image: a node may say that it
	// runs one of these. Nil: none.
	Parts func(ctx context.Context, image string) ([]string, error)
	// Configs are the digests of the configurations of what a node reports in place of a release's image, or of that image
	// itself: of each platform's, where it is an index. The same configuration is the same image. The error of a registry that
	// does not have it, or does not give it, is a *transport.Error. Nil: not known.
	Configs func(ctx context.Context, image, reported string) ([]string, error)
	// KeepReleases is how many of the last good releases can be returned to. Default release.DefaultKeepReleases.
	KeepReleases int
	// KeepWarm is how long cleanup keeps the pods that primary ran before, without traffic, for a return. 0: not at all.
	KeepWarm time.Duration
	// MaxVerdictAge is how old a verdict may be that Promote promotes by. 0: any age.
	MaxVerdictAge time.Duration
	// Hooks are Jobs and web calls at points of a release: Canary, Shift, Promote, Cleanup and what rolls back run them, each
	// once for a release, point and step.
	Hooks []hook.Hook
	// HookLog keeps what a hook has said at a point of a release. Nil: its last lines are logged, no more.
	HookLog func(releaseID string, run release.HookRun, text string) error
	// Web is what calls of hooks go through. Nil: the usual way.
	Web http.RoundTripper
	// GitOps is what applies the app's manifests from Git. Nil: nothing does.
	GitOps *GitOps
	// Git is where changes are written in place of the API server, which is then only read. Nil: they are written there.
	Git *GitStore
	// Line says how releases wait for each other. Its zero value: a second one is refused.
	Line Line
	// Plan makes every command a dry run: nothing is written and nothing is waited for, and what would be
	// written is collected in it. Nil: commands write.
	Plan *Plan
	// Log gets one event for each step. Nil: none.
	Log func(Event)

	ledgerRead *justRead           // by Preflight
	configs    map[string][]string // what Configs has said, by image
	unbound    *manifest.Set       // what Manifests were before bind
	given      *manifest.Set       // what Manifests were before this job went by the names in the ledger
}

// Event is one step of a command.
type Event struct {
	At      time.Time `json:"at"`
	Object  string    `json:"object"`
	Message string    `json:"message"`
}

// Result is the outcome of a command.
type Result struct {
	Command string           `json:"command"`
	App     string           `json:"app"`
	Release *release.Release `json:"release,omitempty"`
	Outcome release.Outcome  `json:"outcome,omitempty"` // when the release finished with this command
	Message string           `json:"message"`
	// SupersededBy is the newer release in favor of which the one that was meant is not released.
	SupersededBy string `json:"supersededBy,omitempty"`
	// Compared is what an unchanged release was found to be the same in as what primary runs.
	Compared []string `json:"compared,omitempty"`
	Preview  *Preview `json:"preview,omitempty"` // that was brought up
}

// say logs, and notes in a plan.
func (c *Cluster) say(object, format string, args ...any) {
	if c.planning() {
		c.Plan.note(object + ": " + fmt.Sprintf(format, args...))
	}
	c.log(object, format, args...)
}

func (c *Cluster) log(object, format string, args ...any) {
	if c.Log != nil && !c.planning() {
		c.Log(Event{At: now(), Object: object, Message: fmt.Sprintf(format, args...)})
	}
}

// now is the time as the ledger keeps it.
func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }

// timeout is how long a wait may go without progress.
func (c *Cluster) timeout() time.Duration {
	if c.Timeout > 0 {
		return c.Timeout
	}
	return 5 * time.Minute
}

// keepReleases is how many of the last good releases can be returned to.
func (c *Cluster) keepReleases() int {
	if c.KeepReleases > 0 {
		return c.KeepReleases
	}
	return release.DefaultKeepReleases
}

func (c *Cluster) app() string { return c.Manifests.App }

// stateName is the name of the ledger's ConfigMap and of the lock's Lease.
func (c *Cluster) stateName() string { return statePrefix + c.app() }

const statePrefix = "crossbill-"

func (c *Cluster) deploymentName(track release.Track) string { return c.Manifests.Name(track) }

func plural(n int, word string) string {
	if n == 1 {
		return word
	}
	return word + "s"
}
