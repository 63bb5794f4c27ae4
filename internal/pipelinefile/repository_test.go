package pipelinefile

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// Engines are the component's.
var Engines = []string{"dagger", "none"}

// CrossbillImage is an image of the command for engine none.
const CrossbillImage = "registry.example.com/our-org/crossbill@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// given are the literals that an include gives, or that are the component's defaults.
var given = map[string]string{
	"dagger_module": ".", "url": "https://app.example.com", "branch": "main", "environment": "production", "config": "crossbill.yaml", "manifests": "k8s",
}

// Flat is the repository's file with the component in the place of its include, so that a test can change any line of
// either. TestFlat holds it against what is read by the include.
func Flat(t testing.TB, engine string) string {
	t.Helper()
	header, _, _ := strings.Cut(read(t, ".gitlab-ci.yml"), "\n---\n")
	_, body, _ := strings.Cut(read(t, "templates/release/template.yml"), "\n---\n")
	return header + "\n---\n" + regexp.MustCompile(`\$\[\[ inputs\.(\w+) \]\]`).ReplaceAllStringFunc(body, func(input string) string {
		switch name := block.FindStringSubmatch(input)[1]; {
		case name == "inputs.engine":
			return engine
		case name == "inputs.crossbill_image":
			return map[string]string{"none": CrossbillImage}[engine]
		case given[strings.TrimPrefix(name, "inputs.")] != "":
			return given[strings.TrimPrefix(name, "inputs.")]
		}
		return input
	})
}

// including is the repository's file, with the engine that it is to have.
func including(t testing.TB, engine string) string {
	text := read(t, ".gitlab-ci.yml")
	if engine == "none" {
		text = strings.Replace(text, "engine: dagger", "engine: none\n      crossbill_image: "+CrossbillImage, 1)
	}
	return text
}

// read gives one of the repository's files.
func read(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile("../../" + path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
