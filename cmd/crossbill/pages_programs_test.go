package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// programs are what the shell blocks of pages run, and which test runs it or holds its command lines. "not run" says why none can
// here.
var programs = map[string]string{
	"crossbill": "TestCommandLinesOnPagesParse; TestMakeRehearse runs docs/tutorials/rehearsal.md",
	"make":      "TestProgramsOnPages: the target exists; TestMakeRehearse runs make rehearse",
	"go":        "TestProgramsOnPages: the package exists",
	"dagger":    "TestCallsThatArePublished in ci/; make test-dagger runs each function",
	"cosign":    "TestCosign, by make test-cosign",
	"sha256sum": "TestWrite in internal/dist",
	"tar":       "TestWrite in internal/dist has the archive's files",
	"pnpm":      "TestMakeRehearse builds the app with it",
	"curl":      "TestTraffic, in Go: a request with a preview's header",
	"openssl":   "not run: makes a key",
	"jq":        "not run: shows how output is read",
	"glab":      "not run: needs a project in GitLab",
	"kind":      "not run: needs a container engine",
	"istioctl":  "not run: needs the cluster of kind",
	"kubectl":   "not run: is not installed; TestManifestsOnPages has an API server take the manifests",
	"cd":        "the shell's own", "export": "the shell's own", "source": "the shell's own", ".": "the shell's own",
}

var (
	quoted    = regexp.MustCompile(`'[^'\n]*'|"[^"$\n]*"`)
	separator = regexp.MustCompile(`&&|\|\||[|;\n]`)
	// started is a command after variables that are set for it, or to what it prints.
	started = regexp.MustCompile(`^(?:\w+=(?:"?\$\(|\S* ))*(?:bin/)?(\S+)(.*)`)
)

// commands are those in a page's shell blocks: the program, and its arguments with text in quotes left out.
func commands(page string) (found [][2]string) {
	for _, block := range fence.FindAllStringSubmatch(page, -1) {
		if block[1] != "sh" {
			continue
		}
		script := quoted.ReplaceAllString(comment.ReplaceAllString(continued.ReplaceAllString(block[2], " "), ""), "")
		for _, line := range separator.Split(script, -1) {
			if parts := started.FindStringSubmatch(strings.TrimSpace(line)); parts != nil {
				found = append(found, [2]string{parts[1], parts[2]})
			}
		}
	}
	return found
}

// TestProgramsOnPages: a test runs or holds each command that a page shows, or it is known why none can. A target of make and a
// package of Go exist.
func TestProgramsOnPages(t *testing.T) {
	makefile := read(t, "Makefile")
	target := func(page, name string) {
		if !strings.Contains(makefile, "\n"+name+":") {
			t.Errorf("%s: make %s: no such target", page, name)
		}
	}
	exists := func(path string) bool {
		_, err := os.Stat(filepath.Join(repository, path))
		return err == nil
	}
	inText := regexp.MustCompile("`make ([a-z-]+)")
	used := map[string]bool{}
	for page, text := range pages(t) {
		for _, command := range commands(text) {
			program, args := command[0], strings.Fields(command[1])
			used[program] = true
			if programs[program] == "" {
				t.Errorf("%s runs %s%s: say in programs which test holds it", page, program, command[1])
			}
			for _, arg := range args {
				path, _, _ := strings.Cut(strings.TrimPrefix(arg, "github.com/our-org/crossbill/"), "@")
				switch {
				case program == "make" && !strings.Contains(arg, "="):
					target(page, arg)
				case program == "go" && strings.Contains(path, "/") && (path != arg || strings.HasPrefix(path, ".")) && !strings.HasSuffix(path, "...") && !exists(path) && !exists("rehearsal/"+path):
					t.Errorf("%s: go%s: no such package", page, command[1])
				}
			}
		}
		for _, found := range inText.FindAllStringSubmatch(text, -1) {
			target(page, found[1])
		}
	}
	for program := range programs {
		if !used[program] {
			t.Errorf("no page runs %s: take it out of programs", program)
		}
	}
}
