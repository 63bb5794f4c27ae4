package main

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/our-org/crossbill/internal/pipelinefile"
	"github.com/our-org/crossbill/internal/usererr"
	"github.com/our-org/crossbill/templates"
)

// includes finds the files that a pipeline file includes.
type includes struct {
	root  string            // of the repository
	given map[string]string // files of --include, by the address
	build buildInfo
}

// addresses reads --include.
func addresses(given []string) (map[string]string, error) {
	files := map[string]string{}
	for _, one := range given {
		at := strings.LastIndex(one, "=")
		if at <= 0 || at == len(one)-1 {
			return nil, &usererr.Error{Field: "--include", Problem: fmt.Sprintf("%q is not ADDRESS=FILE", one), Fix: "give the address as the pipeline file has it, and a file with its text"}
		}
		if _, err := os.Stat(one[at+1:]); err != nil {
			return nil, &usererr.Error{Field: "--include", Problem: err.Error(), Fix: "give a file with the text of " + one[:at]}
		}
		files[one[:at]] = one[at+1:]
	}
	return files, nil
}

// repositoryOf is the folder of the repository that a file is in; its own folder, if it is in none.
func repositoryOf(file string) string {
	whole, err := filepath.Abs(file)
	if err != nil {
		return filepath.Dir(file)
	}
	up := filepath.Dir(file)
	for dir := filepath.Dir(whole); ; dir, up = filepath.Dir(dir), filepath.Join(up, "..") {
		if _, err := os.Stat(filepath.Join(dir, ".git")); err == nil {
			return up
		}
		if dir == filepath.Dir(dir) {
			return filepath.Dir(file)
		}
	}
}

// find is the text of an included file, and what findings call it.
func (i includes) find(include pipelinefile.Include) (string, []byte, error) {
	if file, ok := i.given[include.Address]; ok {
		text, err := os.ReadFile(file)
		return file, text, err
	}
	if include.Kind == "component" {
		return i.component(include.Address)
	}
	return pipelinefile.InRepository(i.root)(include)
}

// component is one of this build's own: HOST/…/crossbill/NAME@VERSION.
func (i includes) component(address string) (string, []byte, error) {
	project, version, text, err := templates.Component(address)
	if err != nil || path.Base(project) != "crossbill" {
		return "", nil, errors.New("it is in another project")
	}
	if version == "" || version != strings.TrimPrefix(i.build.Version, "v") && version != i.build.Version && version != i.build.Commit {
		return "", nil, fmt.Errorf("this is crossbill %s: version %s is checked by the lint of that version", i.build.Version, version)
	}
	return address, text, nil
}
