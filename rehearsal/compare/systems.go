package main

import (
	"context"
	"embed"
	"fmt"
	"strings"
	"text/template"
	"time"
)

// ours is Crossbill's name among the systems.
const ours = "crossbill"

// The configurations: as tight as is sensible here, and as the documentation has it.
const (
	tight = "tight"
	docs  = "docs"
)

// systemID is a system with a configuration.
type systemID struct {
	Name   string `json:"system"`
	Config string `json:"configuration"`
}

func (id systemID) String() string { return id.Name + "/" + id.Config }

var systems = []systemID{{ours, tight}, {"argo-rollouts", tight}, {"flagger", tight}, {"argo-rollouts", docs}, {"flagger", docs}}

// look is what a system says of a release.
type look struct {
	pass, fail bool   // its verdict, as soon as it acts on it
	final      string // promoted or rolledBack, when it does nothing more
	share      int    // of the traffic, that the route gives the new version; -1 if that cannot be read now
}

// system is how an app is released by one of them.
type system interface {
	// install makes the app in its first version, and returns when the system has taken it over.
	install(ctx context.Context, a *app) error
	// release asks for another version: of the image, or of the configuration.
	release(ctx context.Context, a *app, image string) error
	look(ctx context.Context, a *app) (look, error)
	// kill kills what promotes, and has it start again.
	kill(ctx context.Context, a *app) error
	// end leaves nothing running for the app.
	end(a *app)
}

//go:embed objects
var objects embed.FS

// values fill the objects' templates.
type values struct {
	App, Namespace, Image, Prometheus string
	Replicas, ProgressDeadline        int
	Weight, Half                      int
	Tight, LowTraffic, Short          bool
	Interval, Window, Pause           string
	Faults                            string
	Capacity, PerPod                  int    // with an HPA
	Repository                        string // that Flux applies the app from
	GitOps                            bool
	ConfigMap, Configuration          string
	Fail                              int
}

// shorten makes the others quick where nothing is measured. A window has more than four scrapes all the same.
func (v *values) shorten() {
	v.Short, v.Interval, v.Window, v.Pause = true, "5s", "5s", "8s"
}

// settings are those of a scenario for a system.
func settings(s scenario, id systemID) values {
	v := values{Replicas: 2, ProgressDeadline: 60, Weight: 10, Tight: id.Config == tight, LowTraffic: s.low(), Interval: "10s", Window: "15s", Pause: "15s"} // Envoy's histograms follow every 5 s
	if id.Name == "flagger" {
		v.Window = "10s" // a check each interval, of the traffic since the last one
	}
	if s.Half {
		v.Weight = 50
	}
	if s.low() { // a window with too few requests has no answer
		v.Interval, v.Window, v.Pause = "30s", "1m", "1m"
	}
	if s.fleet || s.gitops { // in Git a Deployment that Flagger scales has no replicas, so it has one pod
		v.Replicas = 1
	}
	if s.autoscaled {
		v.Replicas, v.Capacity, v.PerPod = neededPods, capacity, perPod
	}
	v.GitOps = s.gitops
	if id.Config == docs {
		v.Weight, v.Pause = 20, "5m"
		if id.Name == "argo-rollouts" {
			v.ProgressDeadline = 600
		}
	}
	v.Half = v.Weight / 2
	return v
}

func (v values) render(file string) (string, error) {
	t, err := template.ParseFS(objects, "objects/"+file, "objects/pod.yaml")
	if err != nil {
		return "", err
	}
	var b strings.Builder
	if err := t.ExecuteTemplate(&b, file, v); err != nil {
		return "", fmt.Errorf("%s: %w", file, err)
	}
	return b.String(), nil
}

// written is what a user writes for one app: objects, and lines besides what every app has, its pod's template.
type written struct {
	Objects int `json:"objects"`
	Lines   int `json:"lines"`
}

// writes counts it.
func writes(id systemID, init map[string]int) (written, error) {
	v := settings(scenarios[0], id)
	v.App, v.Namespace, v.Image, v.Prometheus = "app", "production", "image", "http://prometheus.istio-system:9090"
	text, err := v.render(id.Name + ".yaml")
	if err != nil {
		return written{}, err
	}
	_, pod, _ := strings.Cut(text, "\n    spec:\n")
	pod, _, _ = strings.Cut(pod, "\n---\n")
	w := written{Objects: strings.Count(text, "\nkind: "), Lines: countLines(text) - countLines(pod) - 1}
	if id.Name == ours {
		for _, n := range init {
			w.Lines += n
		}
	}
	return w, nil
}

// retryAfter is when a killed job runs again, restartAfter when a controller's container does.
const (
	retryAfter   = 5 * time.Second
	restartAfter = time.Second
)
