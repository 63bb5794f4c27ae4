package main

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/our-org/crossbill/internal/manifest"
	"github.com/our-org/crossbill/internal/registry"
	"github.com/our-org/crossbill/internal/usererr"
)

func newImageCommand() *cobra.Command {
	cmd := newGroupCommand("image", "Build, name, sign and inspect the app's image, without a container engine")
	cmd.AddCommand(newImageBuildCommand(), newImageDigestCommand(), newImageAttestCommand(), newImageInspectCommand())
	return cmd
}

// loginOptions are the credentials of the registry that has the app's image.
type loginOptions struct{ username, passwordFile string }

func (o *loginOptions) add(cmd *cobra.Command) {
	inSection(cmd.Flags(), registrySection, func(flags *pflag.FlagSet) {
		flags.StringVar(&o.username, "username", "", "user of the registry (default $REGISTRY_USERNAME, then as docker login has it)")
		flags.StringVar(&o.passwordFile, "password-file", "", "file with the user's password or token (default $REGISTRY_PASSWORD)")
	})
}

// keychain is the login for one registry: that of a reference, unless REGISTRY_HOST names it. Other registries get what docker
// login has for them.
func (o *loginOptions) keychain(reference string) (authn.Keychain, error) {
	password, err := secret("--password-file", o.passwordFile, "REGISTRY_PASSWORD")
	if err != nil {
		return nil, err
	}
	username := o.username
	if username == "" {
		username = os.Getenv("REGISTRY_USERNAME")
	}
	switch {
	case username == "" && password == "":
		return authn.DefaultKeychain, nil
	case username == "":
		return nil, &usererr.Error{Field: "--username", Problem: "is missing beside a password", Fix: "give both, or neither"}
	case password == "":
		return nil, &usererr.Error{Field: "--password-file", Problem: "is missing beside a user name", Fix: "give both, or neither"}
	}
	host := registry.HostOf(reference)
	if text := os.Getenv("REGISTRY_HOST"); text != "" {
		named, err := name.NewRegistry(text)
		if err != nil {
			return nil, &usererr.Error{Field: "REGISTRY_HOST", Problem: fmt.Sprintf("%q is not a registry", text), Fix: "give its host, for example registry.example.com, without https:// and path"}
		}
		host = named.RegistryStr()
	}
	return registry.Login{Host: host, Username: username, Password: password}, nil
}

// environmentLogin is the login of commands that have no flags for one.
func environmentLogin(reference string) (authn.Keychain, error) {
	return new(loginOptions).keychain(reference)
}

// releaseLogin is the login for the image of a release, which whoever starts its pipeline names. So it is for the registry that the
// manifests name, if they are not the bundle's own and name one: Docker Hub's may be what a placeholder stands for.
func releaseLogin(set *manifest.Set, bundle, image string) (authn.Keychain, error) {
	if bundle != "" {
		return environmentLogin(bundle)
	}
	if set != nil && set.Deployment != nil {
		if of := set.Repository(); of != "" && registry.HostOf(of) != name.DefaultRegistry {
			return environmentLogin(of)
		}
	}
	return environmentLogin(image)
}

// createdFlag adds --created, in seconds since 1970.
func createdFlag(flags *pflag.FlagSet, seconds *int64, usage string) {
	// https://reproducible-builds.org/specs/source-date-epoch/
	epoch, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64)
	if err != nil {
		epoch = 0 // checkCreated says so
	}
	flags.Int64Var(seconds, "created", epoch, usage)
}

// checkCreated finds a time that there is not.
func checkCreated(seconds int64) error {
	if text := os.Getenv("SOURCE_DATE_EPOCH"); text != "" && seconds == 0 {
		if _, err := strconv.ParseInt(text, 10, 64); err != nil {
			return &usererr.Error{Field: "SOURCE_DATE_EPOCH", Problem: fmt.Sprintf("%q is not a number of seconds", text), Fix: "give seconds since 1970, as `git log -1 --format=%ct` prints them, or --created"}
		}
	}
	if seconds < 0 || seconds > maxCreated {
		return &usererr.Error{Field: "--created", Problem: fmt.Sprintf("%d is not a time", seconds), Fix: "give seconds since 1970, as `git log -1 --format=%ct` prints them"}
	}
	return nil
}

// maxCreated is the end of the year 9999, the last one that JSON's times have.
const maxCreated = 253402300799

// createdAt is the time of --created; otherwise when it is 0.
func createdAt(seconds int64, otherwise time.Time) time.Time {
	if seconds == 0 {
		return otherwise
	}
	return time.Unix(seconds, 0)
}

func parseDigest(reference string) (name.Digest, error) {
	ref, err := name.NewDigest(reference)
	if err != nil {
		return ref, &usererr.Error{Field: "image", Problem: err.Error(), Fix: "give repository@sha256:…; `crossbill image digest` prints it for a tag"}
	}
	return ref, nil
}

// imageNames are what -o name prints for an image.
func imageNames(reference string) []string { return []string{"image/" + reference} }
