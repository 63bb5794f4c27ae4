package main

import (
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/our-org/crossbill/internal/rollout"
	"github.com/our-org/crossbill/internal/verdict"
)

// trafficOptions say how a command sees that the canary gets no more requests, before its pods are deleted.
type trafficOptions struct {
	prometheus       string
	prometheusConfig string
	matcher          string
	settle           time.Duration

	source *verdict.Source // after validate; nil without --prometheus
}

func (o *trafficOptions) add(cmd *cobra.Command) {
	inSection(cmd.Flags(), trafficSection, func(flags *pflag.FlagSet) {
		o.addPrometheus(flags, "Prometheus's URL: a canary is deleted when its request counters stand still")
		o.addSettleDelay(flags, "without --prometheus: time that the data plane is given to apply a route")
	})
}

func (o *trafficOptions) addPrometheus(flags *pflag.FlagSet, usage string) {
	flags.StringVar(&o.prometheus, "prometheus", "", usage)
	flags.StringVar(&o.prometheusConfig, "prometheus-config", "", "file in the form of Prometheus's http_config: credentials, CA and headers for Prometheus (default: none)")
	flags.StringVar(&o.matcher, "prometheus-matcher", "", "label matchers of every query, such as cluster=\"eu-1\" (default: none)")
}

func (o *trafficOptions) addSettleDelay(flags *pflag.FlagSet, usage string) {
	anyDuration(flags, &o.settle, "settle-delay", rollout.DefaultSettleDelay, usage)
}

func (o *trafficOptions) validate(namespace string) (err error) {
	if o.prometheus != "" {
		o.source, err = o.sourceOf(namespace, verdict.SourceOptions{})
	}
	return err
}

// sourceOf is the Prometheus that the options name.
func (o *trafficOptions) sourceOf(namespace string, options verdict.SourceOptions) (*verdict.Source, error) {
	options.URL, options.HTTPConfig, options.Matcher, options.Namespace = o.prometheus, o.prometheusConfig, o.matcher, namespace
	return verdict.NewSource(options)
}

func (o *trafficOptions) apply(c *rollout.Cluster) {
	c.SettleDelay = o.settle
	if o.source != nil {
		c.Drained, c.Callers = o.source.Quiet, o.source.Callers
	}
}
