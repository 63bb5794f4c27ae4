// Command dist makes what a version of Crossbill is published as, publishes it, and verifies what was published (package dist).
//
//	go run ./.ci/dist build -version "$(git describe --tags --always --dirty)" -commit "$(git rev-parse HEAD)" -created "$(git log -1 --format=%ct)"
//	go run ./.ci/dist publish -push registry.example.com/our-org/crossbill -keyless
//	go run ./.ci/dist verify -policy policy.yaml FOLDER
//
// Environment:
//
//	CROSSBILL_SIGNING_KEY                 private key as PEM, for publish without -keyless
//	REGISTRY_USERNAME, REGISTRY_PASSWORD  of the registry; default: as docker login has it
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/our-org/crossbill/internal/dist"
	"github.com/our-org/crossbill/internal/provenance"
	"github.com/our-org/crossbill/internal/registry"
	"github.com/our-org/crossbill/internal/usererr"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:])
	stop()
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return
	}
	fmt.Fprintln(os.Stderr, "dist:", err)
	if errors.As(err, new(*usererr.Error)) {
		os.Exit(2)
	}
	os.Exit(1)
}

func run(ctx context.Context, args []string) error {
	commands := map[string]func(context.Context, []string) error{"build": build, "publish": publish, "verify": verify}
	if len(args) == 0 || commands[args[0]] == nil {
		return &usererr.Error{Field: "command", Problem: "is missing", Fix: "give build, publish or verify"}
	}
	return commands[args[0]](ctx, args[1:])
}

// parse reads flags, and takes no other arguments than most.
func parse(flags *flag.FlagSet, args []string, most int) error {
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > most {
		return &usererr.Error{Field: flags.Arg(most), Problem: "is an argument too many", Fix: "see -help"}
	}
	return nil
}

func build(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("build", flag.ContinueOnError)
	v := dist.Version{}
	described := flags.String("version", "", "the version: 1.2.3, or what `git describe` prints")
	modified := flags.Bool("modified", false, "the source has changes that are in no commit: the version ends with -dirty, and is not published")
	flags.StringVar(&v.Commit, "commit", "", "commit of the source, in full")
	created := flags.Int64("created", 0, "time of the commit, in seconds since 1970")
	flags.StringVar(&v.Repository, "repository", "https://github.com/our-org/crossbill", "address of the source repository")
	flags.StringVar(&v.Downloads, "downloads", "", "URL that the names of files follow (default: of GitHub's release of the version)")
	flags.StringVar(&v.Components, "components", "", "where the GitLab components of the version are: HOST/group/project (default: the same project on the GitLab that runs the job)")
	shell := flags.String("shell-base", "", "base image with a shell, by digest: there is then a second image, on this one")
	source := flags.String("source", ".", "folder of the source")
	out := flags.String("out", "out/dist", "folder to write, which is removed before")
	if err := parse(flags, args, 0); err != nil {
		return err
	}
	var err error
	if v.Number, err = dist.NumberOf(*described, *modified); err != nil {
		return err
	}
	if *created > 0 {
		v.Date = time.Unix(*created, 0).UTC()
	}
	if v.Downloads == "" {
		v.Downloads = v.Repository + "/releases/download/v" + v.Number
	}
	bases := []dist.Base{{}}
	if *shell != "" {
		bases = append(bases, dist.Base{Name: "shell", Reference: *shell})
	}
	work, err := os.MkdirTemp("", "crossbill-dist-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	binaries, err := dist.Compile(ctx, &v, *source, work, dist.Platforms)
	if err != nil {
		return err
	}
	if err := os.RemoveAll(*out); err != nil {
		return err
	}
	keychain, err := login(*shell)
	if err != nil {
		return err
	}
	if err := dist.Write(ctx, &v, binaries, filepath.Join(*source, "LICENSE"), *out, bases, keychain); err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(*out, "checksums.txt"))
	fmt.Printf("%s", text)
	return err
}

func publish(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("publish", flag.ContinueOnError)
	folder := flags.String("dist", "out/dist", "folder that build has written")
	repository := flags.String("push", "", "repository of the images: registry/repository")
	keyless := flags.Bool("keyless", false, "sign as the GitHub workflow that runs this; it needs id-token: write")
	of := provenance.Build{FinishedAt: time.Now()}
	flags.StringVar(&of.Ref, "ref", "", "branch or tag of the commit, for example refs/tags/v1.2.3 (default: GitHub's variable)")
	if err := parse(flags, args, 0); err != nil {
		return err
	}
	signer, err := signerOf(ctx, *keyless)
	if err != nil {
		return err
	}
	keychain, err := login(*repository)
	if err != nil {
		return err
	}
	of.FillIn(os.Getenv)
	if of.Ref == "" {
		return &usererr.Error{Field: "-ref", Problem: "is missing", Fix: "give the branch or tag of the commit: an image policy asks for it"}
	}
	images, err := dist.Publish(ctx, *folder, *repository, signer, of, keychain)
	for _, image := range images {
		fmt.Println(image)
	}
	return err
}

func verify(_ context.Context, args []string) error {
	flags := flag.NewFlagSet("verify", flag.ContinueOnError)
	file := flags.String("policy", "", "file with the policy: as imagePolicy in crossbill.yaml")
	want := provenance.Wanted{AnyAge: true}
	flags.StringVar(&want.Commit, "commit", "", "commit that it must be built from (default: any)")
	if err := parse(flags, args, 1); err != nil {
		return err
	}
	folder := "out/dist"
	if flags.NArg() == 1 {
		folder = flags.Arg(0)
	}
	policy, err := provenance.ReadVerifier(*file)
	if err != nil {
		return err
	}
	origin, err := dist.Verify(policy, folder, want)
	if err != nil {
		return err
	}
	fmt.Printf("%s: built from %s at %s (%s), signed by %s\n", folder, origin.Repository, origin.Commit, origin.Ref, origin.SignedBy)
	return nil
}

func signerOf(ctx context.Context, keyless bool) (*provenance.Signer, error) {
	key := os.Getenv("CROSSBILL_SIGNING_KEY")
	switch {
	case keyless && key != "":
		return nil, &usererr.Error{Field: "-keyless", Problem: "CROSSBILL_SIGNING_KEY is set as well", Fix: "give one of them"}
	case keyless:
		return provenance.NewKeylessSigner(ctx, provenance.PublicFulcio, provenance.PublicRekor)
	case key == "":
		return nil, &usererr.Error{Field: "CROSSBILL_SIGNING_KEY", Problem: "is not set", Fix: "set it to a private key as PEM, or sign as a GitHub workflow with -keyless"}
	}
	return provenance.NewKeySigner([]byte(key))
}

// login is that of a reference's registry.
func login(reference string) (authn.Keychain, error) {
	username, password := os.Getenv("REGISTRY_USERNAME"), os.Getenv("REGISTRY_PASSWORD")
	switch {
	case username == "" && password == "":
		return authn.DefaultKeychain, nil
	case username == "" || password == "":
		return nil, &usererr.Error{Field: "REGISTRY_USERNAME", Problem: "is set without REGISTRY_PASSWORD, or that without it", Fix: "set both, or neither"}
	}
	return registry.Login{Host: registry.HostOf(reference), Username: username, Password: password}, nil
}
