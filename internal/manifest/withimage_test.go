package manifest

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestWithImage: the image is where Track puts it, in the app's Deployment alone.
func TestWithImage(t *testing.T) {
	const image = "registry.example.com/our-org/shop@sha256:0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a"
	const pods = `template: {metadata: {labels: {app: shop%s}}, spec: {initContainers: [{name: migrate, image: registry.example.com/our-org/shop:1}, {name: wait, image: wait}], containers: [{name: app, image: registry.example.com/our-org/shop:1}, {name: proxy, image: proxy}], volumes: [{name: none, emptyDir: {}}, {name: files, image: {reference: registry.example.com/our-org/shop:1}}]}}`
	const around = `
---
{apiVersion: v1, kind: Service, metadata: {name: shop}, spec: {selector: {app: shop}, ports: [{port: 80}]}}
---
{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: shop}, spec: {host: shop, subsets: [{name: primary, labels: {version: primary}}, {name: canary, labels: {version: canary}}]}}
---
{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: shop}, spec: {hosts: [shop.example.com], http: [{route: [{destination: {host: shop, subset: primary}, weight: 100}, {destination: {host: shop, subset: canary}, weight: 0}]}]}}
---
{apiVersion: batch/v1, kind: Job, metadata: {name: shop}, spec: {template: {spec: {containers: [{name: app, image: registry.example.com/our-org/shop:1}]}}}}
`
	own := `{apiVersion: apps/v1, kind: Deployment, metadata: {name: shop-primary}, spec: {selector: {matchLabels: {app: shop, version: primary}}, ` + strings.Replace(pods, "%s", ", version: primary", 1) + `}}`
	derived := `{apiVersion: apps/v1, kind: Deployment, metadata: {name: shop}, spec: {selector: {matchLabels: {app: shop}}, ` + strings.Replace(pods, "%s", "", 1) + `}}`
	for name, deployment := range map[string]string{"named as primary": own, "another name": derived} {
		t.Run(name, func(t *testing.T) {
			rendered, err := RenderedFrom("app.yaml", []byte(deployment+around))
			if err != nil {
				t.Fatal(err)
			}
			before := string(rendered.YAML())
			set, err := rendered.Set()
			if err != nil {
				t.Fatal(err)
			}
			filled, err := rendered.WithImage(set, image)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(before, string(rendered.YAML())); diff != "" {
				t.Errorf("it has changed what it was given:\n%s", diff)
			}
			document, others, _ := strings.Cut(strings.TrimPrefix(string(filled.YAML()), "---\n"), "---\n")
			if strings.Count(document, image) != 3 || strings.Contains(document, "shop:1") || strings.Contains(others, image) {
				t.Errorf("%s", filled.YAML())
			}
			again, err := RenderedFrom("app.yaml", filled.YAML())
			if err != nil {
				t.Fatal(err)
			}
			read, err := again.Set()
			if err != nil || read.Image(read.Deployment) != image || read.App != "shop" {
				t.Errorf("%v, %+v", err, read)
			}
		})
	}
}
