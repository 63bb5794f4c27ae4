package dist

import (
	"bytes"
	"fmt"
	"text/template"

	"sigs.k8s.io/yaml"
)

// What the package managers show of Crossbill.
const (
	summary     = "Canary releases from GitHub, through GitLab, into an Istio mesh"
	description = `Crossbill carries a release from a GitHub repository, through GitLab, into an
Istio mesh, a little traffic first. An unhealthy canary is rolled back
automatically. Its commands run on a laptop, in GitHub Actions and in GitLab
CI/CD, and need nothing in the cluster.
`
)

// homebrew is the formula (https://docs.brew.sh/Formula-Cookbook).
func homebrew(v *Version, binaries []Binary, sums map[string]string) []byte {
	type download struct{ CPU, URL, SHA256 string }
	of := map[string][]download{}
	for _, b := range binaries {
		name := b.name(v, ".tar.gz")
		of[b.Platform.OS] = append(of[b.Platform.OS], download{map[string]string{"amd64": "intel", "arm64": "arm"}[b.Platform.Architecture], v.Downloads + "/" + name, sums[name]})
	}
	var text bytes.Buffer
	err := formulaText.Execute(&text, map[string]any{"Version": v, "Summary": summary, "Mac": of["darwin"], "Linux": of["linux"]})
	if err != nil {
		panic(err) // plain data: cannot fail
	}
	return text.Bytes()
}

var formulaText = template.Must(template.New("").Parse(`{{ define "archives" }}
{{- range . }}
    on_{{ .CPU }} do
      url "{{ .URL }}"
      sha256 "{{ .SHA256 }}"
    end
{{- end }}
{{- end -}}
# Made by ` + "`make dist`" + ` for version {{ .Version.Number }}.
class Crossbill < Formula
  desc "{{ .Summary }}"
  homepage "{{ .Version.Repository }}"
  version "{{ .Version.Number }}"
  license "Apache-2.0"
{{ with .Mac }}
  on_macos do
{{- template "archives" . }}
  end
{{ end }}
{{- with .Linux }}
  on_linux do
{{- template "archives" . }}
  end
{{ end }}
  def install
    bin.install "crossbill"
    generate_completions_from_executable(bin/"crossbill", "completion")
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/crossbill --version")
  end
end
`))

// krew is the manifest of the plugin for kubectl (https://krew.sigs.k8s.io/docs/developer-guide/plugin-manifest/).
func krew(v *Version, binaries []Binary, sums map[string]string) ([]byte, error) {
	type object = map[string]any
	var platforms []object
	for _, b := range binaries {
		name := b.name(v, ".tar.gz")
		platforms = append(platforms, object{
			"selector": object{"matchLabels": object{"os": b.Platform.OS, "arch": b.Platform.Architecture}},
			"uri":      v.Downloads + "/" + name, "sha256": sums[name], "bin": "crossbill",
			"files": []object{{"from": "crossbill", "to": "."}, {"from": "LICENSE", "to": "."}},
		})
	}
	text, err := yaml.Marshal(object{
		"apiVersion": "krew.googlecontainertools.github.com/v1alpha2", "kind": "Plugin", "metadata": object{"name": "crossbill"},
		"spec": object{"version": "v" + v.Number, "homepage": v.Repository, "shortDescription": "Canary releases into an Istio mesh", "description": description, "platforms": platforms},
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", plugin, err)
	}
	return text, nil
}
