# The two commands: `make rehearse` and `make test`. Each does its own set-up with Go, Node and
# Python, from package registries alone.

# One set of flags everywhere: packages that two modules share are compiled once. A first rehearsal is mostly compilation: all of it,
# with the control plane, is done without inlining, which costs a third less. What is tested, kept, or published is inlined.
export CGO_ENABLED := 0
export GOFLAGS := -trimpath -buildvcs=false
rehearse adopt-trial first-run: export GOFLAGS := -trimpath -buildvcs=false -gcflags=all=-l
export npm_config_update_notifier := false

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo development)
COMMIT := $(shell git rev-parse HEAD 2>/dev/null)
DATE := $(shell TZ=UTC0 git log -1 --date=format-local:%Y-%m-%dT%H:%M:%SZ --format=%cd 2>/dev/null)
PNPM := npx --yes pnpm@10.34.9

.PHONY: help
help:
	@echo 'make rehearse         a whole release on this machine: canary, verify, promote, roll back'
	@echo 'make rehearse HOLD=1  the same, and leave everything running to look around'
	@echo 'make rehearse GITOPS=flux  the same beside Flux, which applies the app from Git (or GITOPS=argocd); the first time it compiles that'
	@echo 'make first-run        what a first make rehearse costs in processor time, by part, with nothing compiled: 15 minutes or more'
	@echo 'make publish-control-plane REPOSITORY=...  push the control plane, for others to fetch by REHEARSAL_CONTROL_PLANE'
	@echo 'make adopt-trial      an empty repository, crossbill init, and what it refers to: to a promoted canary, in two minutes'
	@echo 'make compare          Argo Rollouts and Flagger release beside Crossbill: right outcomes, seconds, lost requests (SHORT=1: one scenario in a minute and a half, and what is compiled already)'
	@echo 'make test             lint and all tests, as CI runs them'
	@echo 'make test-long        the tests of the commands in full: more crashes, more bad canaries, more of Flux, a real GitLab Runner'
	@echo 'make lint             golangci-lint (lint-rehearsal: of rehearsal/); the first time it compiles the linter, about five minutes'
	@echo 'make cover            how much of internal/rollout its own tests cover'
	@echo 'make test-dagger      every function of the Dagger module on a real engine'
	@echo 'make test-cosign      cosign itself verifies an image and a bundle that Crossbill signed'
	@echo 'make docs             the site of the documentation, into out/site, with its links checked (make docs SERVE=1: at 127.0.0.1:8001)'
	@echo 'make screenshots      the pictures of pages in docs/ anew, by the tests that look at these pages'
	@echo 'make soak             every write of every command made to fail; 50,000 requests over many releases; canaries that turn bad; 200 apps'
	@echo 'make soak-gitops      releases beside Flux and Argo CD, and by commits alone: 50,000 requests each, jobs that die, others who commit'
	@echo 'make handoff-bench    the handoff against plain retries, under 10,000 schedules of faults'
	@echo 'make verdict-bench    the verdict against fixed thresholds, over 10,000 simulated releases a cell'
	@echo 'make lint-trials      crossbill lint on trial files (CASES=FOLDER for more) and on 100,000 made-up pipelines'
	@echo 'make sources          which charts and kustomizations, in the form that public ones have, can be released as they are'
	@echo 'make image-twice      the app image built twice in different folders: both digests, one a line'
	@echo 'make build            the crossbill command, into bin/'
	@echo 'make dist             what a version is published as, into out/dist: archives, SBOMs, checksums, image, Homebrew, krew'
	@echo 'make clean            remove what these have written here (not the cache in ~/.cache/crossbill)'

.PHONY: build
build: bin/crossbill

.PHONY: bin/crossbill
bin/crossbill:
	go build -ldflags='-s -w -X main.version=$(VERSION) -X main.versionCommit=$(COMMIT) -X main.versionDate=$(DATE)' -o $@ ./cmd/crossbill

# Archives for four platforms, their SBOMs, checksums, the manifests of Homebrew and krew, and the image of the command. The same
# commit gives the same bytes. VERSION=1.2.3 names the version that is to be; SHELL_BASE=repository@sha256:... makes a second image,
# with a shell. `go run ./.ci/dist publish` pushes and signs it.
.PHONY: dist
dist:
	go run ./.ci/dist build -version '$(VERSION)' -commit '$(COMMIT)' -created '$(shell git log -1 --format=%ct)' \
		$(if $(shell git status --porcelain --untracked-files=no 2>/dev/null),-modified) $(if $(SHELL_BASE),-shell-base '$(SHELL_BASE)') $(if $(COMPONENTS),-components '$(COMPONENTS)')

.PHONY: bin/rehearse
bin/rehearse:
	cd rehearsal && go build -o ../$@ ./cmd/rehearse

.PHONY: rehearse
rehearse: bin/rehearse bin/crossbill
	bin/rehearse $(if $(HOLD),--hold) $(if $(OUT),--out $(OUT)) $(if $(GITOPS),--gitops $(GITOPS))

.PHONY: bin/compare
bin/compare:
	cd rehearsal/compare && go build -o ../../$@ .

# The real Argo Rollouts and Flagger beside Crossbill, in the same scenarios at the same time: out/compare.json, and a page of it,
# with DOCS=1 docs/compare.md and its figures, rehearsal/compare/figures.json. The first time it compiles both controllers. COMPARE has more flags, such as COMPARE='-minutes 30';
# `bin/compare -help` shows them; COMPARE='-add out/compare.json' adds up several runs. SHORT=1 is one scenario, once, in a minute and
# a half, without controllers that are not compiled yet.
.PHONY: compare
compare: bin/compare bin/crossbill
	bin/compare $(if $(DOCS),-page docs/compare.md) $(if $(SHORT),-short) $(COMPARE)
	$(if $(DOCS),cp out/compare.json rehearsal/compare/figures.json)

# What a first make rehearse costs, by part. Compiles everything again, in a folder of its own.
.PHONY: first-run
first-run:
	.ci/first-run

# Pushes this checkout's control plane, and prints what others give to fetch it instead of compiling it.
.PHONY: publish-control-plane
publish-control-plane: bin/rehearse
	bin/rehearse --publish-control-plane '$(REPOSITORY)'

# A team with an app, its manifests, and an empty repository: init, doctor, and the references that init wrote, up to a promoted
# canary. out/adopt.json says how much init wrote, how much had to be edited, and how long it took.
.PHONY: adopt-trial
adopt-trial: bin/rehearse bin/crossbill
	bin/rehearse --adopt --rate 100

# The comparison waits for answers most of the time, so it is made beside what computes; the rehearsal counts lost requests alone.
.PHONY: test
test: lint docs
	@$(MAKE) --no-print-directory -j2 test-go $(if $(wildcard ci/go.mod),test-ci) test-app test-compare
	@$(MAKE) --no-print-directory test-rehearsal

# The linter has a module of its own, so that the product's go.mod stays small.
LINT = go tool -modfile=$(CURDIR)/tools/go.mod golangci-lint run --allow-parallel-runners

# It names each test when it ends, and prints what the failed ones printed last, where it is found. It is of the same module.
TESTS = go tool -modfile=$(CURDIR)/tools/go.mod gotestsum --hide-summary=skipped --format

.PHONY: lint
lint: lint-words
	@echo '== lint'
	$(LINT)

# Needs the control plane's packages compiled, as make rehearse does.
.PHONY: lint-rehearsal
lint-rehearsal:
	cd rehearsal && $(LINT) --build-tags controlplane
	cd rehearsal/compare && $(LINT)

# The linter has vetted all but .ci/dist, whose name it does not look into.
.PHONY: test-go
test-go:
	@echo '== Go: unit tests'
	go vet ./.ci/dist
	$(TESTS) pkgname-and-test-fails --format-hide-empty-pkg -- -vet=off ./...

# ci/ is compiled against stand-ins for what Dagger's engine generates.
.PHONY: test-ci
test-ci:
	@echo '== the Dagger module: compile check and tests, without an engine'
	cd ci && ./check.sh

# Calls every function of ci/ for real: needs the dagger command, v0.21.8, and an engine. IMAGES names images
# where the module's own are not reached, for example IMAGES='--tool-images=node=mirror.example.com/node@sha256:...'.
# What each call printed is left in out/dagger-functions.md, or with DOCS=1 in docs/.
.PHONY: test-dagger
test-dagger:
	mkdir -p out
	cd rehearsal && go test -tags dagger ./dagger -count=1 -timeout 90m -v -dagger.images='$(IMAGES)' \
		-dagger.page=$(CURDIR)/$(if $(DOCS),docs,out)/dagger-functions.md

# Has cosign itself verify what Crossbill signs. It has a module of its own, and is compiled the first time, in minutes.
.PHONY: test-cosign
test-cosign:
	go build -modfile=$(CURDIR)/tools/cosign/go.mod -o bin/cosign github.com/sigstore/cosign/v3/cmd/cosign
	cd rehearsal && go test ./signing -count=1 -v -run TestCosign -cosign=$(CURDIR)/bin/cosign

# Our own words to avoid; .ci/words has the list.
.PHONY: lint-words
lint-words:
	@echo '== words'
	go vet ./.ci/words && go test ./.ci/words && go run ./.ci/words

.PHONY: test-app
test-app:
	@echo '== the app: types, lint, unit tests'
	cd app && $(PNPM) install --frozen-lockfile --prefer-offline && $(PNPM) check

# The whole rehearsal and the commands one at a time: what two of them do on two cores loses requests that Crossbill does not.
# The others wait most of the time; those that take longest are started first.
ALONE = /(commands|e2e)$$
LONGEST = /(cluster|hardening|workflow)$$
.PHONY: test-rehearsal
test-rehearsal: bin/rehearse bin/crossbill
	@echo '== a real control plane and mesh: integration and end-to-end tests'
	bin/rehearse --setup-only
	mkdir -p out
	cd rehearsal && go vet -tags dagger ./... && \
		$(TESTS) testname --jsonfile ../out/test-tools.json -- -p 3 -count=1 -timeout 40m \
			$$(go list ./... | grep -E '$(LONGEST)') $$(go list ./... | grep -vE '$(ALONE)|$(LONGEST)') && \
		$(TESTS) testname --jsonfile ../out/test-rehearsal.json -- -p 1 -count=1 -timeout 40m -parallel 10 $$(go list ./... | grep -E '$(ALONE)')

# The harness of make compare: what it would make, how it judges, and the page of recorded figures. Then one release, beside those
# controllers that are in the cache: they take too long to compile for a test that everybody runs.
.PHONY: test-compare
test-compare: bin/compare bin/crossbill
	@echo '== the comparison: its scenarios, judgment, and page; a canary with 30% errors beside what is compiled of Argo Rollouts and Flagger'
	cd rehearsal/compare && go vet ./... && go test ./...
	bin/compare -short

# What make test leaves out of the rehearsal's tests of the commands, and GitLab's own runner with the release jobs: about 35 minutes.
.PHONY: test-long
test-long: bin/rehearse bin/crossbill
	bin/rehearse --setup-only
	cd rehearsal && go test ./gitlab -long -run '^TestRunner' -count=1 -timeout 20m -parallel 4 -v && go test ./commands -long -count=1 -timeout 90m -parallel 8 -v

# Lets every write of every command fail in each way, by each router, on a real API server (out/crash-matrix.json), lets
# jobs of several releases work against each other over bad networks, releases an app that drains and one that
# does not under 50,000 requests by each path into the mesh, beside the usual hand-written pipeline (out/traffic.json), lets canaries turn
# bad (out/scenarios.json), and releases 1 to 200 apps side by side (out/many-apps.json). About 40 minutes; make
# test does a shorter form of all five.
.PHONY: soak
soak: bin/rehearse bin/crossbill
	go test ./internal/rollout -count=1 -timeout 60m -run 'Crashes|TestMigrate|TestFence|TestTakeover' -every-write
	go test ./internal/environment -count=1 -run 'TestEveryTemplate|TestEveryObject|TestEveryServer' -edits=20000 -rounds=100
	go test ./internal/analysis -count=1 -run TestFollowSchedules -schedules=1000
	go test ./internal/gitlab -count=1 -run TestAnyScheduleHasOneEffect -rapid.checks=10000
	bin/rehearse --setup-only
	cd rehearsal && go test ./commands -count=1 -timeout 90m -parallel 8 -v -run 'TestCrashMatrix|TestTraffic|TestScenarios|TestRandomSchedules|TestManyApps' -long -schedules=40 \
		-crash.stride=1 -crash.json=$(CURDIR)/out/crash-matrix.json \
		-scenarios.json=$(CURDIR)/out/scenarios.json \
		-traffic.requests=50000 -traffic.json=$(CURDIR)/out/traffic.json \
		-many.apps=1,10,100,200 -many.json=$(CURDIR)/out/many-apps.json

# Releases beside Flux and Argo CD and by commits that Flux applies, each under 50,000 requests, lets every push of every
# command fail in each way, and lets jobs die and others commit in random schedules: out/gitops.json. About an hour, and the
# compilation of both when they are not in the cache.
.PHONY: soak-gitops
soak-gitops: bin/rehearse bin/crossbill
	mkdir -p out
	go test ./internal/rollout -count=1 -timeout 60m -run 'TestCrashes/matrix/.*(flux|git),.*' -every-write
	go test ./internal/rollout -count=1 -timeout 30m -run TestSchedulesInGit -git.schedules=200 -git.json=$(CURDIR)/out/gitops.json
	bin/rehearse --setup-only
	cd rehearsal && go test ./commands -count=1 -timeout 2h -parallel 8 -v -run 'TestGitOps|TestArgoCD' -long -argocd \
		-crash.stride=1 -traffic.requests=50000 -gitops.json=$(CURDIR)/out/gitops.json

# Makes docs/*.png anew: the tests that look at these pages make them. About 10 minutes.
.PHONY: screenshots
screenshots: bin/rehearse bin/crossbill
	bin/rehearse --setup-only
	cd rehearsal && go test -p 1 ./e2e ./commands -count=1 -timeout 40m -v -run 'TestMakeRehearse|TestLivePage' -screenshots=$(CURDIR)/docs

# Sends a release through random faults in three ways and counts what became of it: out/handoff.json.
.PHONY: handoff-bench
handoff-bench:
	go test ./internal/gitlab -count=1 -v -run TestOthersFailTheSameSchedules -handoff.schedules=10000 -handoff.json=$(CURDIR)/out/handoff.json

# Hands thirty releases over within ten minutes, many times with each policy of the line, and counts what became of them:
# out/queue.json.
.PHONY: queue
queue:
	go test ./internal/rollout -count=1 -v -timeout 2h -run TestQueueSchedules -queue.schedules=100 -queue.releases=30 -queue.json=$(CURDIR)/out/queue.json

# Simulates releases under each way to judge them: out/verdict-bench.json, docs/verdict.md and its plot.
.PHONY: verdict-bench
verdict-bench:
	go test ./internal/verdict -count=1 -v -timeout 90m -run 'TestMethods|TestErrorRates|TestDistance' -verdict.releases=10000 -verdict.json=$(CURDIR)/out/verdict-bench.json -verdict.docs=$(CURDIR)/docs

# Compares the word of crossbill lint with what is right: for the trial files of this repository and of CASES, and for
# made-up pipelines, which a simulation of GitLab judges. out/lint-trials.json has the counts; files of which the two
# disagree are in out/lint-trials.
GENERATED ?= 100000
CASES ?= $(wildcard $(CURDIR)/../shared/cases/lint)
.PHONY: lint-trials
lint-trials:
	go test ./internal/pipelinefile/trials -count=1 -v -timeout 5h -run 'TestGeneratedFiles|TestTheFilesAreWhatTheySay' -lint.generated=$(GENERATED) \
		-lint.cases='$(CASES)' -lint.keep=$(CURDIR)/out/lint-trials -lint.json=$(CURDIR)/out/lint-trials.json

# Renders charts and kustomizations in the form that public ones have: out/sources.json says of each whether it works, and why.
.PHONY: sources
sources:
	go test ./internal/manifest -count=1 -v -run TestSources -sources.json=$(CURDIR)/out/sources.json

# Builds the app's image twice and prints both digests; exit status 1 when they differ.
.PHONY: image-twice
image-twice:
	@cd rehearsal && go build -o ../bin/imagetwice ./cmd/imagetwice
	@bin/imagetwice

.PHONY: clean
clean:
	rm -rf bin out app/dist app/server app/node_modules

# Builds the site with MkDocs, which comes from PyPI the first time. A link or an anchor that leads nowhere, and a page that is
# not in docs/README.md, fail it.
.PHONY: docs
docs:
	@echo '== the documentation: its site, links, and pages'
	tools/site/mkdocs.sh $(if $(SERVE),serve --strict --dev-addr 127.0.0.1:8001,build --strict)

# Prints how much of internal/rollout its own tests cover, without the rehearsal's control plane.
.PHONY: cover
cover:
	go test -count=1 -cover ./internal/rollout
