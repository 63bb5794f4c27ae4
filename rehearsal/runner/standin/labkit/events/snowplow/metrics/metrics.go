// Package metrics counts deliveries.
package metrics

// CollectorOption sets nothing.
type CollectorOption func()

// WithCollectorNamespace sets nothing.
func WithCollectorNamespace(string) CollectorOption { return nil }

// WithCollectorBatchDeliveryDurationBuckets sets nothing.
func WithCollectorBatchDeliveryDurationBuckets([]float64) CollectorOption { return nil }
