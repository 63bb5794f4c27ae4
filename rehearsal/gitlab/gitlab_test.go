package gitlab

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/our-org/crossbill/internal/config"
	"github.com/our-org/crossbill/internal/pipelinefile"
)

// TestConfigure: the sample app's file with other values is one that crossbill takes, and only those differ.
func TestConfigure(t *testing.T) {
	const sample = "../../crossbill.yaml"
	text, err := Configure(sample, map[string]any{
		"cluster.context": "rehearsal", "cluster.namespace": "demo", "prometheus.url": "http://127.0.0.1:9090", "image.base": "oci:base",
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := config.Parse("crossbill.yaml", text)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	before, err := os.ReadFile(sample)
	if err != nil {
		t.Fatal(err)
	}
	want, err := config.Parse("crossbill.yaml", before)
	if err != nil {
		t.Fatal(err)
	}
	if got.Cluster.Context != "rehearsal" || got.Cluster.Namespace != "demo" || got.Prometheus.URL != "http://127.0.0.1:9090" || got.Image.Base != "oci:base" {
		t.Errorf("configured: %+v", got)
	}
	if got.App != want.App || got.GitLab != want.GitLab || !cmp.Equal(got.Notify, want.Notify) || len(got.Analysis.Objectives) != len(want.Analysis.Objectives) {
		t.Errorf("what was not named differs: %+v, want %+v", got, want)
	}
}

func TestTheProjectsFile(t *testing.T) {
	text, err := os.ReadFile("../../.gitlab-ci.yml")
	if err != nil {
		t.Fatal(err)
	}
	const images = "^(127\\.0\\.0\\.1:5000/our-org/[a-z]+@sha256:[0-9a-f]{64})?$"
	if text, err = projects(text, images); err != nil {
		t.Fatal(err)
	}
	file, err := pipelinefile.ParseIncluding(text, pipelinefile.InRepository("../.."))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"image", "bundle"} {
		if got := file.Inputs[name].Regex; got != images {
			t.Errorf("the input %s takes %s, want %s", name, got, images)
		}
	}
	if findings := pipelinefile.Check(file, pipelinefile.Options{}); len(findings) > 0 {
		t.Errorf("findings %v", findings)
	}
}
