// Package snowplow sends what GitLab bills, where a configuration asks for it. The rehearsal's does not.
package snowplow

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"gitlab.com/gitlab-org/labkit/v2/events/snowplow/metrics"
	"gitlab.com/gitlab-org/labkit/v2/events/snowplow/oidc"
)

var errStandIn = errors.New("stand-in for labkit: it sends no billing events")

// SendResult is one delivery.
type SendResult struct {
	EventCount, StatusCode int
	Err                    error
}

// SendCallback is called after a delivery.
type SendCallback func(successes, failures []SendResult)

// EmitterOption sets nothing.
type EmitterOption func()

// WithCallback sets nothing.
func WithCallback(SendCallback) EmitterOption { return nil }

// WithTokenSource sets nothing.
func WithTokenSource(*oidc.Source) EmitterOption { return nil }

// WithMetricsCollectorOptions sets nothing.
func WithMetricsCollectorOptions(...metrics.CollectorOption) EmitterOption { return nil }

// Emitter sends nothing.
type Emitter struct{}

// NewEmitter refuses.
func NewEmitter(string, ...EmitterOption) (*Emitter, error) { return nil, errStandIn }

// Collector is none.
func (*Emitter) Collector() prometheus.Collector { return nil }

// Tracker sends nothing.
type Tracker struct{}

// NewTracker refuses.
func NewTracker(string, *Emitter) (*Tracker, error) { return nil, errStandIn }

// Stop stops nothing.
func (*Tracker) Stop() {}

// TrackBillingEventWithOptionalInput refuses.
func (*Tracker) TrackBillingEventWithOptionalInput(BillingEventRequiredInput, BillingEventOptionalInput) error {
	return errStandIn
}

// BillingEventRequiredInput is what an event has.
type BillingEventRequiredInput struct {
	Category, EventType, Realm, UnitOfMeasure string
	Quantity                                  float64
}

// BillingEventOptionalInput is what it may have.
type BillingEventOptionalInput struct {
	Subject, DeploymentType, InstanceID, UniqueInstanceID string
	ProjectID, NamespaceID, RootNamespaceID               int64
	OrganizationID                                        int64
	Metadata                                              map[string]any
}
