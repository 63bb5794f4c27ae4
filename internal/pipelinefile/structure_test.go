package pipelinefile

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// edited is the repository's file with texts replaced: pairs of old and new. An empty old one appends.
func edited(t *testing.T, edits ...string) string {
	t.Helper()
	text := Flat(t, "dagger")
	for i := 0; i+1 < len(edits); i += 2 {
		if edits[i] == "" {
			text += "\n" + edits[i+1]
			continue
		}
		if !strings.Contains(text, edits[i]) {
			t.Fatalf("the file has no %q", edits[i])
		}
		text = strings.Replace(text, edits[i], edits[i+1], 1)
	}
	return text
}

func findingsOf(t *testing.T, text string) []Finding {
	t.Helper()
	f, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return Check(f, Options{})
}

// Places of the repository's file.
const (
	gateRules       = "  rules:\n    - when: manual\n      allow_failure: false\n  manual_confirmation"
	cleanupNeed     = "  needs: [promote_to_production]\n  script:\n    - crossbill cleanup"
	cleanupJob      = "  script:\n    - crossbill cleanup"
	verifyJob       = "  stage: verify_canary\n  script:\n"
	inputsEnd       = "---\nworkflow:"
	promoteCall     = "    - crossbill promote --release-id \"$RELEASE_ID\" > promote.json\n"
	rollbackCall    = "    - crossbill rollback --release-id \"$RELEASE_ID\" --reason \"$CI_JOB_NAME of $CI_PIPELINE_URL\" > rollback.json\n"
	gateEnvironment = "  environment:\n    name: production/$[[ inputs.app ]]\n    url: https://app.example.com\n    deployment_tier: production\n"
	canaryStop      = "    on_stop: rollback\n"
	sourcesRule     = `    - if: $CI_PIPELINE_SOURCE == "trigger" || $CI_PIPELINE_SOURCE == "api" || $CI_PIPELINE_SOURCE == "web"`
)

// second is a job that promotes another part of the release.
func second(keywords string) string {
	return "promote_second:\n  extends: .changes\n" + keywords + "  script:\n    - crossbill promote --release-id \"$RELEASE_ID\"\n" +
		"  environment:\n    name: production/$[[ inputs.app ]]-second\n    deployment_tier: production\n"
}

// afterSecond rolls back when the second promotion fails.
const afterSecond = "\nrollback_after_second:\n  extends: .rollback\n  stage: .post\n  needs: [promote_second]\n  rules: [{when: on_failure}]\n"

// reader is a job that only reads.
func reader(name, keywords string) string {
	return name + ":\n" + keywords + "  script: [\"curl -fsS https://app.example.com/health\"]\n"
}

// returnJob is a job that goes back to the release before.
func returnJob(when, environment, keywords string) string {
	return "return_to_previous:\n  extends: .release\n  stage: cleanup\n" + keywords + "  rules:\n    - when: " + when + "\n      allow_failure: true\n" +
		"  script:\n    - crossbill rollback --to previous --reason \"$CI_JOB_NAME of $CI_PIPELINE_URL\" > rollback.json\n" +
		"  environment:\n    name: production/$[[ inputs.app ]]" + environment + "\n    action: access\n    deployment_tier: production\n"
}

// TestUnsafe: the repository's file with one change that lets something reach production without a press, or that takes
// rollback away.
func TestUnsafe(t *testing.T) {
	for name, test := range map[string]struct {
		edits []string
		rule  string
		job   string // of the finding, "" for any
		says  string
	}{
		// What decides is the script, not the name, the stage or the section.
		"a second promotion beside the gate":     {[]string{"", second("  stage: promote_to_production\n")}, RuleNothingAfter, "promote_second", "after: queue succeeds, deploy_canary succeeds, verify_canary succeeds"},
		"a promotion in an early stage":          {[]string{"", second("  stage: deploy_canary\n")}, RuleNothingAfter, "promote_second", "after: queue succeeds"},
		"a promotion in .pre":                    {[]string{"", second("  stage: .pre\n")}, RuleNothingAfter, "promote_second", "at once"},
		"a promotion in .post after a failure":   {[]string{"", second("  stage: .post\n  when: always\n")}, RuleNothingAfter, "promote_second", "queue fails"},
		"the section pages is a job":             {[]string{"", strings.Replace(second("  stage: cleanup\n  needs: [verify_canary]\n"), "promote_second", "pages", 1)}, RuleNothingAfter, "pages", "crossbill promote"},
		"the section default is a job":           {[]string{"", "default:\n  stage: deploy_canary\n  script: [crossbill promote]\n"}, RuleNothingAfter, "default", ""},
		"a promotion after the script":           {[]string{verifyJob, "  stage: verify_canary\n  after_script: [crossbill promote]\n  script:\n"}, RuleNothingAfter, "verify_canary", "crossbill promote"},
		"a promotion before the sources":         {[]string{verifyJob, "  stage: verify_canary\n  hooks: {pre_get_sources_script: [crossbill promote]}\n  script:\n"}, RuleNothingAfter, "verify_canary", ""},
		"a promotion in default's hooks":         {[]string{"", "default: {hooks: {pre_get_sources_script: [crossbill promote]}}\n"}, RuleNothingAfter, "verify_canary", ""},
		"a promotion in the older before_script": {[]string{"", "before_script: [crossbill promote]\n" + reader("smoke", "  stage: deploy_canary\n")}, RuleNothingAfter, "smoke", ""},
		"cleanup is pressed manually":            {[]string{cleanupNeed, "  needs: []\n  when: manual\n" + cleanupJob}, RuleNothingAfter, "cleanup", "cleanup is pressed"},
		"a delayed promotion":                    {[]string{"", second("  stage: cleanup\n  needs: [verify_canary]\n  when: delayed\n  start_in: 1 hour\n")}, RuleNothingAfter, "promote_second", "its time has come"},
		"a manual promotion that does not block": {[]string{"", second("  stage: promote_to_production\n  when: manual\n")}, RuleGateBlocks, "promote_second", "not blocking"},
		"a gate that is pressed before verify":   {[]string{"", second("  stage: promote_to_production\n  needs: [deploy_canary]\n  rules: [{when: manual}]\n")}, RuleVerified, "promote_second", "verify_canary has not succeeded"},
		"the gate waits for nothing":             {[]string{gateRules, "  needs: []\n" + gateRules}, RuleVerified, "promote_to_production", ""},

		"verify fails without failing":      {[]string{"    - crossbill verify --release-id \"$RELEASE_ID\" > verify.json\n", "    - crossbill verify --release-id \"$RELEASE_ID\" > verify.json || true\n"}, RuleRollsBack, "verify_canary", "goes on after"},
		"a promotion fails without failing": {[]string{"> promote.json\n", "> promote.json || true\n"}, RuleRollsBack, "promote_to_production", "goes on after"},
		"verify is skipped by a variable":   {[]string{"    - crossbill verify --release-id \"$RELEASE_ID\" > verify.json\n", "    - test -n \"$SKIP\" || crossbill verify --release-id \"$RELEASE_ID\" > verify.json\n"}, RuleVerified, "verify_canary", "can succeed without"},
		"verify only says so":               {[]string{"    - crossbill verify --release-id \"$RELEASE_ID\" > verify.json\n", "    - echo verified\n"}, RuleVerified, "verify_canary", "does not run"},

		"a command from a variable of the job": {[]string{"", "x:\n  stage: verify_canary\n  variables: {CMD: promote}\n  script: [\"crossbill $CMD\"]\n"}, RuleNotUnderstood, "x", ""},
		"a command from options":               {[]string{inputsEnd, "    n: {options: [promote, status], default: status}\n" + inputsEnd, "", "x:\n  stage: verify_canary\n  script: [\"crossbill $[[ inputs.n ]]\"]\n"}, RuleNothingAfter, "x", ""},
		"a script from an array":               {[]string{inputsEnd, "    n: {type: array, default: [echo]}\n" + inputsEnd, "", "x:\n  stage: verify_canary\n  script: $[[ inputs.n ]]\n"}, RuleInput, "x", ""},
		"a child pipeline that is pressed":     {[]string{"", "child: {stage: verify_canary, when: manual, trigger: {include: x.yml}}\n"}, RuleNotUnderstood, "child", "child is pressed"},
		"a promotion behind a rollback":        {[]string{"> rollback.json\n", "> rollback.json\n    - crossbill promote\n"}, RuleNothingAfter, "rollback_after_verify", ""},

		// Pipelines without the gate.
		"a rule leaves the gate out": {[]string{gateRules, "  rules:\n    - if: $SKIP_GATE == \"1\"\n      when: never\n    - when: manual\n  manual_confirmation", cleanupNeed, cleanupJob, "  needs: [promote_to_production]\n  rules:\n    - when: on_failure", "  rules:\n    - when: on_failure"}, RuleNothingAfter, "cleanup", "without a gate"},
		"an optional need of the gate": {[]string{
			gateRules, "  rules:\n    - if: $SKIP_GATE\n      when: never\n    - when: manual\n  manual_confirmation",
			cleanupNeed, "  needs: [{job: promote_to_production, optional: true}, verify_canary]\n" + cleanupJob, "  needs: [promote_to_production]\n  rules:\n    - when: on_failure", "  needs: [{job: promote_to_production, optional: true}]\n  rules:\n    - when: on_failure",
		}, RuleNothingAfter, "cleanup", "without a gate"},
		"except leaves the gate out":  {[]string{gateRules, "  when: manual\n  allow_failure: false\n  except: [triggers]\n  manual_confirmation", cleanupNeed, cleanupJob, "  needs: [promote_to_production]\n  rules:\n    - when: on_failure", "  rules:\n    - when: on_failure"}, RuleNothingAfter, "cleanup", ""},
		"only keeps the gate to tags": {[]string{gateRules, "  when: manual\n  allow_failure: false\n  only: {refs: [tags]}\n  manual_confirmation", cleanupNeed, cleanupJob, "  needs: [promote_to_production]\n  rules:\n    - when: on_failure", "  rules:\n    - when: on_failure"}, RuleNothingAfter, "cleanup", ""},
		"verify is left out":          {[]string{verifyJob, "  stage: verify_canary\n  rules: [{if: $SKIP_VERIFY, when: never}, {when: on_success}]\n  script:\n", "  needs: [verify_canary]\n  timeout", "  needs: [deploy_canary]\n  timeout", ".rollback\n  needs: [verify_canary]", ".rollback\n  needs: [{job: verify_canary, optional: true}]"}, RuleVerified, "promote_to_production", "without verify_canary"},

		// Keywords that change the order.
		"a rule's own needs":               {[]string{"", second("  stage: cleanup\n  needs: [promote_to_production]\n  rules:\n    - if: $CI_PIPELINE_SOURCE == \"trigger\"\n      needs: [verify_canary]\n")}, RuleNothingAfter, "promote_second", ""},
		"needs of one region of the gate":  {[]string{gateRules, "  parallel: {matrix: [{REGION: [eu, us]}]}\n" + gateRules, "", second("  stage: cleanup\n  needs: [{job: promote_to_production, parallel: {matrix: [{REGION: eu}]}}]\n")}, RuleNothingAfter, "promote_second", "promote_to_production: [eu] is pressed"},
		"needs: []":                        {[]string{cleanupNeed, "  needs: []\n" + cleanupJob}, RuleNothingAfter, "cleanup", "at once"},
		"needs with changes":               {[]string{"", second("  stage: cleanup\n  needs: [verify_canary]\n  rules: [{changes: [k8s/*]}]\n")}, RuleNothingAfter, "promote_second", ""},
		"stages in another order":          {[]string{"  - promote_to_production\n  - cleanup\n", "  - cleanup\n  - promote_to_production\n", cleanupNeed, cleanupJob}, RuleNothingAfter, "cleanup", ""},
		"verify fails with allowed codes":  {[]string{verifyJob, "  stage: verify_canary\n  allow_failure: {exit_codes: [3, 4]}\n  script:\n"}, RuleVerified, "promote_to_production", "with an exit code that is allowed"},
		"verify may fail":                  {[]string{verifyJob, "  stage: verify_canary\n  allow_failure: true\n  script:\n"}, RuleVerified, "promote_to_production", ""},
		"the gate fails with allowed code": {[]string{gateRules, "  rules: [{when: manual}]\n  allow_failure: {exit_codes: 6}\n  manual_confirmation"}, RuleGateBlocks, "promote_to_production", "exit codes"},
		"a failure cancels the rest":       {[]string{"on_job_failure: none", "on_job_failure: all"}, RuleRollsBack, "", "cancels the others"},
		"a failure cancels, by a rule":     {[]string{sourcesRule, sourcesRule + "\n      auto_cancel: {on_job_failure: all}"}, RuleRollsBack, "", "cancels the others"},
		"on_stop promotes":                 {[]string{canaryStop, "    on_stop: promote_to_production\n    auto_stop_in: 1 hour\n"}, RuleGateBlocks, "promote_to_production", "auto_stop_in"},
		"on_stop cleans up":                {[]string{canaryStop, "    on_stop: cleanup\n"}, RuleNothingAfter, "cleanup", "on_stop"},
		"interruptible by a rule":          {[]string{gateRules, "  rules:\n    - when: manual\n      interruptible: true\n  manual_confirmation"}, RuleOneByOne, "promote_to_production", "newer pipeline"},
		"interruptible by default":         {[]string{"  interruptible: false\n", "", "", "default: {interruptible: on}\n"}, RuleOneByOne, "deploy_canary", ""},
		"rollback waits for what it stops": {[]string{".rollback:\n  extends: .release\n", ".rollback:\n  extends: .changes\n"}, RuleOneByOne, "rollback", "which it is there to stop"},
		"rollback may wait":                {[]string{".rollback:\n  extends: .release\n", ".rollback:\n  extends: .release\n  resource_group: $GROUP\n"}, RuleOneByOne, "rollback", "may have the same"},
		"who waits holds up the release":   {[]string{"queue:\n  extends: .release\n", "queue:\n  extends: .changes\n"}, RuleOneByOne, "queue", "waits for it"},
		"who waits may hold up a release":  {[]string{"queue:\n  extends: .release\n", "queue:\n  extends: .release\n  resource_group: $GROUP\n"}, RuleOneByOne, "queue", "may have the same"},
		"who waits does more than that":    {[]string{"    - crossbill queue ", "    - crossbill canary --image \"$IMAGE\"\n    - crossbill queue "}, RuleOneByOne, "queue", "at the same time"},
		"a group for each pipeline":        {[]string{"resource_group: production/$[[ inputs.app ]]\n", "resource_group: production/$CI_PIPELINE_ID\n"}, RuleOneByOne, "deploy_canary", "$CI_PIPELINE_ID"},
		"rollback is left out by a rule":   {[]string{".rollback\n  needs: [verify_canary]\n  rules:\n    - when: on_failure", ".rollback\n  needs: [verify_canary]\n  rules:\n    - if: $ROLLBACK != \"no\"\n      when: on_failure"}, RuleRollsBack, "verify_canary", ""},
		"a rollback that only says so":     {[]string{".rollback:\n  extends: .release\n  stage: cleanup\n  script:\n    - crossbill rollback", ".rollback:\n  extends: .release\n  stage: cleanup\n  script:\n    - echo crossbill rollback"}, RuleRollback, "deploy_canary", ""},

		// YAML 1.1 as Ruby reads it.
		"allow_failure: yes":        {[]string{"      allow_failure: false\n  manual", "      allow_failure: yes\n  manual"}, RuleGateBlocks, "promote_to_production", "allow_failure is true"},
		"allow_failure: On":         {[]string{"      allow_failure: false\n  manual", "      allow_failure: On\n  manual"}, RuleGateBlocks, "promote_to_production", "allow_failure is true"},
		"interruptible: yes":        {[]string{"interruptible: false", "interruptible: yes"}, RuleOneByOne, "promote_to_production", ""},
		"a merge after what it has": {[]string{gateRules, "  when: manual\n  allow_failure: false\n  <<: {allow_failure: true}\n  manual_confirmation"}, RuleGateBlocks, "promote_to_production", ""},
		"a merge of a list":         {[]string{gateRules, "  <<: [{when: manual}, {when: always, allow_failure: true}]\n  manual_confirmation"}, RuleGateBlocks, "promote_to_production", ""},
		"null inherits":             {[]string{"  interruptible: false\n", "  interruptible: ~\n", "", "default: {interruptible: true}\n"}, RuleOneByOne, "deploy_canary", ""},

		// Inputs in places that decide.
		"when from an input":               {[]string{inputsEnd, "    w:\n      default: on_success\n      options: [on_success, always]\n" + inputsEnd, "", second("  stage: cleanup\n  when: $[[ inputs.w ]]\n")}, RuleNothingAfter, "promote_second", `w is "always"`},
		"allow_failure from a boolean":     {[]string{inputsEnd, "    soft:\n      type: boolean\n      default: false\n" + inputsEnd, "      allow_failure: false\n  manual", "      allow_failure: $[[ inputs.soft ]]\n  manual"}, RuleGateBlocks, "promote_to_production", `soft is "true"`},
		"stage from an input":              {[]string{inputsEnd, "    s:\n      options: [cleanup, deploy_canary]\n" + inputsEnd, "cleanup:\n  extends: .changes\n  stage: cleanup\n  needs: [promote_to_production]\n", "cleanup:\n  extends: .changes\n  stage: $[[ inputs.s ]]\n"}, RuleNothingAfter, "cleanup", "deploy_canary"},
		"a need from an input":             {[]string{inputsEnd, "    n:\n      default: promote_to_production\n      options: [promote_to_production, verify_canary]\n" + inputsEnd, cleanupNeed, "  needs: [$[[ inputs.n ]]]\n" + cleanupJob}, RuleNothingAfter, "cleanup", ""},
		"on_stop from an input":            {[]string{inputsEnd, "    n:\n      default: rollback\n      options: [rollback, promote_to_production]\n" + inputsEnd, "on_stop: rollback", "on_stop: $[[ inputs.n ]]"}, RuleGateBlocks, "promote_to_production", ""},
		"an option that is a job":          {[]string{inputsEnd, "    n: {options: [x, \"x\\nfast: {stage: deploy_canary, script: [crossbill promote]}\\n#\"]}\n" + inputsEnd, "\nstages:", "\n# $[[ inputs.n ]]\nstages:"}, RuleNothingAfter, "fast", "promote"},
		"a gate that only prints":          {[]string{promoteCall, "    - echo yes\n"}, RuleGreen, "promote_to_production", "runs `crossbill promote`"},
		"a gate that only shows":           {[]string{promoteCall, "    - crossbill promote --release-id \"$RELEASE_ID\" --dry-run\n"}, RuleGreen, "promote_to_production", "runs `crossbill promote`"},
		"a gate without an environment":    {[]string{gateEnvironment, ""}, RuleEnvironment, "promote_to_production", "cannot be protected"},
		"verification in the gate's place": {[]string{"-canary\n    action: verify", "\n    action: verify"}, RuleEnvironment, "verify_canary", "GitLab drops"},
		"a rollback that only shows":       {[]string{rollbackCall, "    - crossbill rollback --release-id \"$RELEASE_ID\" --dry-run\n"}, RuleRollback, "rollback", "only shows"},
		"a rollback on a variable":         {[]string{rollbackCall, "    - if [ -n \"$ROLLBACK\" ]; then crossbill rollback; fi\n"}, RuleRollback, "rollback", "a condition"},
		"a rollback behind false":          {[]string{rollbackCall, "    - false && crossbill rollback\n"}, RuleRollback, "rollback", "a condition"},
		"a rollback with a file":           {[]string{rollbackCall, "    - test -f rollback.allowed\n    - crossbill rollback\n"}, RuleRollback, "rollback", "a file"},
		"a rollback that verifies":         {[]string{rollbackCall, "    - crossbill verify\n    - crossbill rollback\n"}, RuleRollback, "rollback", "crossbill verify"},
		"a rollback that asks":             {[]string{rollbackCall, "    - read -p sure x\n    - crossbill rollback\n"}, RuleRollback, "rollback", "an answer"},
		"a rollback in the background":     {[]string{rollbackCall, "    - crossbill rollback &\n"}, RuleRollback, "rollback", "background"},
		"a rollback without its function":  {[]string{".rollback:\n  extends: .release\n", ".rollback:\n"}, RuleRollback, "rollback", "is not defined"},
		"a rollback after a success":       {[]string{"", "rollback_late:\n  extends: .rollback\n  needs: [promote_to_production]\n"}, RuleRollsBack, "rollback_late", "starts by itself"},
		"a rollback at the end":            {[]string{"", "rollback_late:\n  extends: .rollback\n  stage: .post\n  when: always\n"}, RuleRollsBack, "rollback_late", "starts by itself"},
		"a name of a part of the release":  {[]string{"$[[ inputs.release_id ]]\n  auto_cancel", "$[[ inputs.release_id | truncate(0,4) ]]\n  auto_cancel"}, RuleName, "", "cannot find"},
		"rules of the input, none for all": {[]string{"      regex: ^([0-9a-f]{7,64})?$\n", "      rules:\n        - if: $[[ inputs.again ]] == 'yes'\n          options: ['', a]\n"}, RuleInput, "", "commit"},
		"options by rules of the input":    {[]string{inputsEnd, "    w:\n      rules:\n        - if: $[[ inputs.app ]] == \"a\"\n          options: [manual]\n        - options: [manual, always]\n" + inputsEnd, "    - when: manual\n      allow_failure: false\n  manual", "    - when: $[[ inputs.w ]]\n      allow_failure: false\n  manual"}, RuleGateBlocks, "promote_to_production", "starts by itself"},

		// Who starts the pipeline must not choose rights.
		"the environment is an input":            {[]string{inputsEnd, "    env: {regex: '^[a-z/-]+$'}\n" + inputsEnd, "    name: production/$[[ inputs.app ]]\n", "    name: $[[ inputs.env ]]\n"}, RuleOverridable, "promote_to_production", "chooses it"},
		"the environment from an open input":     {[]string{inputsEnd, "    env: {regex: ^prod}\n" + inputsEnd, "    name: production/$[[ inputs.app ]]\n", "    name: production/$[[ inputs.env ]]\n"}, RuleInput, "promote_to_production", "no tight pattern"},
		"an operator in a job":                   {[]string{"crossbill promote --release-id", "GITLAB_CI= crossbill promote --approve-as-operator --release-id"}, RuleOperator, "promote_to_production", "a job is no person"},
		"an approval that starts by itself":      {[]string{"", "approve:\n  extends: .changes\n  stage: verify_canary\n  script: [crossbill approve]\n"}, RuleOperator, "approve", "by itself"},
		"a hold that is released by itself":      {[]string{"    - crossbill canary ", "    - crossbill resume\n    - crossbill canary "}, RuleOperator, "deploy_canary", "put on hold"},
		"a hold that is released behind":         {[]string{cleanupJob, "  script:\n    - crossbill resume\n    - crossbill cleanup"}, RuleOperator, "cleanup", "put on hold"},
		"a return that starts by itself":         {[]string{"", returnJob("on_failure", "", "  needs: [verify_canary]\n")}, RuleNothingAfter, "return_to_previous", "crossbill rollback --to"},
		"a return by everybody":                  {[]string{"", returnJob("manual", "-canary", "  needs: []\n")}, RuleEnvironment, "return_to_previous", "no approvers"},
		"a return that blocks":                   {[]string{"", strings.Replace(returnJob("manual", "", "  needs: []\n"), "allow_failure: true", "allow_failure: false", 1)}, RuleNotBlocking, "return_to_previous", "waits for it forever"},
		"a return that starts a promotion":       {[]string{"", returnJob("manual", "", "  needs: []\n  after_script: [kubectl apply -f x]\n")}, RuleNothingAfter, "return_to_previous", ""},
		"a bundle of any registry":               {[]string{"    release_id:\n", "    any: {default: '', regex: '^([a-z0-9./-]+@sha256:[0-9a-f]{64})?$'}\n    release_id:\n", "      BUNDLE='$[[ inputs.bundle ]]'\n", "      BUNDLE='$[[ inputs.any ]]'\n"}, RuleByDigest, "deploy_canary", "any registry"},
		"a bundle by tag":                        {[]string{"      regex: ^(registry\\.example\\.com/our-org/qwik-node-app@sha256:[0-9a-f]{64})?$\n    release_id", "      regex: ^(registry\\.example\\.com/our-org/qwik-node-app:[0-9a-f]+)?$\n    release_id"}, RuleByDigest, "deploy_canary", "without a digest"},
		"a bundle from a variable":               {[]string{"      BUNDLE='$[[ inputs.bundle ]]'\n", ""}, RuleOverridable, "deploy_canary", "$BUNDLE"},
		"the environment from a variable":        {[]string{"    name: production/$[[ inputs.app ]]\n", "    name: production/$TARGET\n"}, RuleOverridable, "promote_to_production", "$TARGET"},
		"the image from an open input":           {[]string{inputsEnd, "    runner: {regex: '^[a-z0-9./:@-]+$'}\n" + inputsEnd, "  image: docker:29", "  image: $[[ inputs.runner ]] #"}, RuleOverridable, "deploy_canary", "the job's secrets"},
		"the image from a variable":              {[]string{"  image: docker:29", "  image: $TOOLS_IMAGE #"}, RuleOverridable, "deploy_canary", "$TOOLS_IMAGE"},
		"a service from an open input":           {[]string{inputsEnd, "    runner: {regex: '^[a-z0-9./:@-]+$'}\n" + inputsEnd, "    - name: docker:29", "    - name: $[[ inputs.runner ]] #"}, RuleOverridable, "deploy_canary", "`services`"},
		"runner tags from an input":              {[]string{inputsEnd, "    tag: {regex: '^[a-z]+$'}\n" + inputsEnd, "  interruptible: false\n", "  interruptible: false\n  tags: [$[[ inputs.tag ]]]\n"}, RuleOverridable, "deploy_canary", "`tags`"},
		"an input can end a line":                {[]string{inputsEnd, "    note: {regex: '^[^;]*$'}\n" + inputsEnd, "\nstages:", "\n# $[[ inputs.note ]]\nstages:"}, RuleInput, "", "change the file"},
		"an input without a pattern in a name":   {[]string{inputsEnd, "    note: {description: any}\n" + inputsEnd, "manual_confirmation: Give", "manual_confirmation: $[[ inputs.note ]] Give"}, RuleInput, "", "no pattern"},
		"an input can leave a flow map":          {[]string{inputsEnd, "    note: {regex: '^[a-z, }]*$'}\n" + inputsEnd, "", reader("smoke", "  stage: cleanup\n  variables: {NOTE: $[[ inputs.note ]]}\n")}, RuleInput, "", "change the file"},
		"variables are put in as text":           {[]string{"    url: https://app.example.com\n", "    url: https://$[[ inputs.app | expand_vars ]].example.com\n"}, RuleInput, "", "expand_vars"},
		"a guarded variable in a rule":           {[]string{gateRules, "  rules:\n    - when: manual\n      variables: {KUBE_CONTEXT: other}\n  manual_confirmation"}, RuleOverridable, "promote_to_production", "KUBE_CONTEXT"},
		"a guarded variable in a workflow rule":  {[]string{sourcesRule, sourcesRule + "\n      variables: {KUBE_CONTEXT: other}"}, RuleOverridable, "", "KUBE_CONTEXT"},
		"a workflow rule that admits everything": {[]string{"    - if: $CI_COMMIT_REF_PROTECTED", "    - if: $FORCE\n    - if: $CI_COMMIT_REF_PROTECTED"}, RuleWorkflow, "", "push can create"},
		"the source as a variable of the file":   {[]string{gateRules, "  variables: {CI_PIPELINE_SOURCE: schedule}\n" + gateRules}, RuleNotUnderstood, "promote_to_production", "CI_PIPELINE_SOURCE"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			found := findingsOf(t, edited(t, test.edits...))
			if !slices.ContainsFunc(found, func(f Finding) bool {
				return f.Rule == test.rule && (test.job == "" || f.Job == test.job) && strings.Contains(f.Problem, test.says) && f.Fix != ""
			}) {
				t.Errorf("no %s of %q that says %q among %s", test.rule, test.job, test.says, listed(found))
			}
		})
	}
}

func listed(found []Finding) string {
	var b strings.Builder
	for _, f := range found {
		fmt.Fprintf(&b, "\n%s", f)
	}
	return b.String()
}

// TestSafe: the repository's file with one change that is right.
func TestSafe(t *testing.T) {
	for name, edits := range map[string][]string{
		"a notice at the end":                   {"", "notify:\n  stage: .post\n  when: always\n  script: [\"echo done\"]\n"},
		"a notice with an environment":          {"", "notify:\n  stage: .post\n  when: always\n  script: [\"echo done\"]\n  environment: {name: production/notices, action: access}\n"},
		"a smoke test of a later stage":         {"", reader("smoke", "  stage: cleanup\n  needs: [deploy_canary]\n")},
		"a smoke test that may be stopped":      {"", reader("smoke", "  stage: cleanup\n  needs: [deploy_canary]\n  interruptible: true\n  retry: 2\n")},
		"a smoke test in each region":           {"", reader("smoke", "  stage: verify_canary\n  parallel: {matrix: [{REGION: [eu, us]}]}\n")},
		"interruptible: no":                     {"interruptible: false", "interruptible: no"},
		"interruptible left out":                {"  interruptible: false\n", ""},
		"retry left out":                        {"  retry:\n    max: 2\n    when: [runner_system_failure, scheduler_failure]\n", ""},
		"retry: 0":                              {"  retry:\n    max: 2\n    when: [runner_system_failure, scheduler_failure]\n", "  retry: 0\n"},
		"auto_cancel left out":                  {"  auto_cancel:\n    on_new_commit: none\n    on_job_failure: none\n", ""},
		"a gate without rules":                  {gateRules, "  when: manual\n  allow_failure: false\n  manual_confirmation"},
		"a gate with allow_failure: off":        {gateRules, "  when: manual\n  allow_failure: off\n  manual_confirmation"},
		"a gate that blocks by its rule alone":  {gateRules, "  rules:\n    - when: manual\n  manual_confirmation"},
		"a gate with the source in its rule":    {gateRules, "  rules:\n    - if: $CI_PIPELINE_SOURCE == \"trigger\" || $CI_PIPELINE_SOURCE == \"api\" || $CI_PIPELINE_SOURCE == \"web\"\n      when: manual\n  manual_confirmation"},
		"a gate by a merge":                     {"\ndeploy_canary:", "\n.gate: &gate {when: manual, allow_failure: false}\n\ndeploy_canary:", gateRules, "  <<: *gate\n  manual_confirmation"},
		"a gate by extends":                     {"\ndeploy_canary:", "\n.gate:\n  rules: [{when: manual}]\n\ndeploy_canary:", "promote_to_production:\n  extends: .changes", "promote_to_production:\n  extends: [.changes, .gate]", gateRules, "  manual_confirmation"},
		"rules by reference":                    {"\ndeploy_canary:", "\n.gate:\n  rules: [{when: manual}]\n\ndeploy_canary:", gateRules, "  rules:\n    - !reference [.gate, rules]\n  manual_confirmation"},
		"a gate for each region":                {gateRules, "  parallel: {matrix: [{REGION: [eu, us]}]}\n" + gateRules, "rollback_after_promote:\n  extends: .rollback\n  needs: [promote_to_production]\n", "rollback_after_us:\n  extends: .rollback\n  needs: [{job: promote_to_production, parallel: {matrix: [{REGION: us}]}}]\n  rules: [{when: on_failure}]\n\nrollback_after_eu:\n  extends: .rollback\n  needs: [{job: promote_to_production, parallel: {matrix: [{REGION: eu}]}}]\n"},
		"a second gate":                         {"", second("  stage: cleanup\n  needs: [promote_to_production]\n  rules: [{when: manual}]\n") + afterSecond},
		"a second promotion behind":             {"", second("  stage: cleanup\n  needs: [promote_to_production]\n") + afterSecond},
		"an approval and then promotion":        {"    - crossbill promote --release-id", "    - echo approved; echo --release-id", "", second("  stage: cleanup\n  needs: [promote_to_production]\n") + afterSecond},
		"steps behind the gate":                 {"", "steps:\n  stage: cleanup\n  needs: [promote_to_production]\n  resource_group: production/$[[ inputs.app ]]\n  run: [{name: a, script: ./anything}]\n"},
		"a child pipeline behind it":            {"", "child:\n  stage: cleanup\n  needs: [promote_to_production]\n  resource_group: production/$[[ inputs.app ]]\n  trigger: {include: .gitlab/more.yml}\n"},
		"stage from an input":                   {inputsEnd, "    s: {default: cleanup, options: [cleanup, verify_canary]}\n" + inputsEnd, "", reader("smoke", "  stage: $[[ inputs.s ]]\n")},
		"a switch for a smoke test":             {inputsEnd, "    smoke: {type: boolean, default: true}\n" + inputsEnd, "", reader("smoke", "  stage: cleanup\n  allow_failure: $[[ inputs.smoke ]]\n")},
		"an array that is not used":             {inputsEnd, "    labels:\n      type: array\n      default: [a, b]\n" + inputsEnd},
		"an array in a list":                    {inputsEnd, "    labels:\n      type: array\n      default: [a, b]\n" + inputsEnd, "", reader("smoke", "  stage: cleanup\n  artifacts: {paths: $[[ inputs.labels ]]}\n")},
		"a number":                              {inputsEnd, "    n: {type: number, default: 10}\n" + inputsEnd, "", reader("smoke", "  stage: cleanup\n  variables: {COUNT: $[[ inputs.n ]]}\n")},
		"an image from options":                 {inputsEnd, "    tools: {default: a, options: [a, b]}\n" + inputsEnd, "  image: docker:29", "  image: registry.example.com/$[[ inputs.tools ]]:1 #"},
		"tags that are written":                 {"  interruptible: false\n", "  interruptible: false\n  tags: [production]\n"},
		"only protected refs":                   {sourcesRule, `    - if: $CI_COMMIT_REF_PROTECTED == "true" && $CI_PIPELINE_SOURCE == "trigger"`},
		"the workflow's sources by match":       {sourcesRule, `    - if: $CI_PIPELINE_SOURCE =~ /^(trigger|api|web)$/`},
		"keywords that do not matter":           {"  timeout: 30m\n", "  timeout: 30m\n  coverage: /x/\n  cache: {key: a, paths: [b]}\n  id_tokens: {T: {aud: crossbill}}\n  secrets: {S: {vault: a/b}}\n"},
		"defaults in default":                   {"  interruptible: false\n  timeout: 30m\n", "", "", "default:\n  interruptible: false\n  timeout: 30m\n"},
		"rules that all jobs have":              {verifyJob, "  stage: verify_canary\n  rules: [{if: $CI_PIPELINE_SOURCE == \"schedule\", when: never}, {when: on_success}]\n  script:\n"},
		"only on all of a part":                 {"", reader("smoke", "  stage: cleanup\n  only: [triggers]\n") + reader("more", "  stage: cleanup\n  needs: [smoke]\n  only: [triggers]\n")},
		"an auto-stop that rolls back":          {canaryStop, canaryStop + "    auto_stop_in: 1 day\n"},
		"a rollback group of its own":           {".rollback:\n  extends: .release\n", ".rollback:\n  extends: .release\n  resource_group: rollback/$[[ inputs.app ]]\n"},
		"a manual cleanup behind, and a notice": {cleanupNeed, "  needs: [promote_to_production]\n  when: manual\n" + cleanupJob, "", "notify:\n  stage: .post\n  needs: [cleanup]\n  script: [\"echo done\"]\n"},
		"a smoke test if a file exists":         {"", reader("smoke", "  stage: cleanup\n  rules: [{exists: [k8s/x]}]\n")},
		"a smoke test on main":                  {"", reader("smoke", "  stage: cleanup\n  only: {refs: [main]}\n")},
		"a notice that may come early":          {"", reader("smoke", "  stage: cleanup\n  needs: [{job: promote_to_production, optional: true}]\n")},
		"verify with a message":                 {"> verify.json\n", "> verify.json || { code=$?; echo unhealthy; exit $code; }\n"},
		"a hook that says hello":                {"  interruptible: false\n", "  interruptible: false\n  hooks: {pre_get_sources_script: [echo hello]}\n"},
		"reading from options":                  {inputsEnd, "    n: {options: [report, status], default: status}\n" + inputsEnd, "", "look:\n  stage: verify_canary\n  script: [\"crossbill $[[ inputs.n ]]\"]\n"},
		"variables of a report for nobody":      {"", "smoke:\n  stage: cleanup\n  needs: [deploy_canary]\n  script: [\"echo A=1 > a.env\"]\n  artifacts: {reports: {dotenv: a.env}}\n"},
		"a database for a test":                 {"", "test:\n  stage: deploy_canary\n  services: [postgres:16]\n  variables: {POSTGRES_PASSWORD: test}\n  script: [npm test]\n"},
		"a return that an approver presses":     {"", returnJob("manual", "", "  needs: []\n")},
		"an approval that somebody presses":     {"", "approve:\n  extends: .changes\n  stage: promote_to_production\n  rules: [{when: manual, allow_failure: true}]\n  script: [crossbill approve]\n"},
		"holding and releasing manually":        {"", "hold:\n  extends: .changes\n  stage: promote_to_production\n  needs: []\n  rules: [{when: manual, allow_failure: true}]\n  script: [crossbill hold --reason maintenance]\nresume:\n  extends: .changes\n  stage: promote_to_production\n  needs: []\n  rules: [{when: manual, allow_failure: true}]\n  script: [crossbill resume]\n"},
		"a bundle for the next stage":           {"", "bundle:\n  stage: deploy_canary\n  script: [\"crossbill bundle --image registry.example.com/app@" + digest + "\"]\n"},
		"bundles alone":                         {"      regex: ^(registry\\.example\\.com/our-org/qwik-node-app@sha256:[0-9a-f]{64})?$\n    bundle", "      options: [\"\"]\n    bundle"},
		"a header with a component":             {"spec:\n", "spec:\n  component: [name]\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if found := findingsOf(t, edited(t, edits...)); len(found) > 0 {
				t.Error(listed(found))
			}
		})
	}
}

// TestNotUnderstood: what GitLab accepts and is not understood here is a finding with its line and keyword.
func TestNotUnderstood(t *testing.T) {
	for name, test := range map[string]struct {
		edits   []string
		keyword string
	}{
		"a keyword of the future":           {[]string{verifyJob, "  stage: verify_canary\n  starts_before: gate\n  script:\n"}, "starts_before"},
		"a keyword of a rule":               {[]string{gateRules, "  rules:\n    - when: manual\n      unless: $X\n  manual_confirmation"}, "rules:unless"},
		"a keyword of a need":               {[]string{cleanupNeed, "  needs: [{job: promote_to_production, soft: true}]\n" + cleanupJob}, "needs:soft"},
		"a keyword of the environment":      {[]string{canaryStop, canaryStop + "    on_start: x\n"}, "environment:on_start"},
		"a keyword of the workflow":         {[]string{"  auto_cancel:\n", "  order: any\n  auto_cancel:\n"}, "workflow:order"},
		"a keyword of a workflow rule":      {[]string{sourcesRule, sourcesRule + "\n      order: any"}, "workflow:rules:order"},
		"a keyword of default":              {[]string{"", "default: {when: manual}\n"}, "default:when"},
		"a keyword of allow_failure":        {[]string{verifyJob, "  stage: verify_canary\n  allow_failure: {on: x, exit_codes: 1}\n  script:\n"}, "allow_failure:on"},
		"a keyword of the header":           {[]string{"spec:\n", "spec:\n  include: [{local: inputs.yml}]\n"}, "spec:include"},
		"a keyword of an input":             {[]string{inputsEnd, "    a: {default: x, options: [x], hidden: true}\n" + inputsEnd}, "spec:inputs:a:hidden"},
		"a hook":                            {[]string{verifyJob, "  stage: verify_canary\n  hooks: {post_build: [echo]}\n  script:\n"}, "hooks:post_build"},
		"rules from an input":               {[]string{inputsEnd, "    r: {type: array}\n" + inputsEnd, gateRules, "  when: manual\n  allow_failure: false\n  rules: $[[ inputs.r ]]\n  manual_confirmation"}, "rules"},
		"stage from an open input":          {[]string{inputsEnd, "    s: {regex: '^[a-z_]+$'}\n" + inputsEnd, "cleanup:\n  extends: .changes\n  stage: cleanup\n", "cleanup:\n  extends: .changes\n  stage: $[[ inputs.s ]]\n"}, "stage"},
		"needs from an array":               {[]string{inputsEnd, "    n: {type: array}\n" + inputsEnd, cleanupNeed, "  needs: $[[ inputs.n ]]\n" + cleanupJob}, "needs"},
		"a name from an open input":         {[]string{inputsEnd, "    s: {regex: '^[a-z_]+$'}\n" + inputsEnd, "", reader("$[[ inputs.s ]]", "  stage: cleanup\n")}, "name of the job"},
		"when from an input with functions": {[]string{inputsEnd, "    s: {options: [manual_and_more]}\n" + inputsEnd, gateRules, "  allow_failure: false\n  when: $[[ inputs.s | truncate(0,6) ]]\n  manual_confirmation"}, "when"},
		"when that is no text":              {[]string{gateRules, "  allow_failure: false\n  when: [manual]\n  manual_confirmation"}, "when"},
		"a boolean in quotes":               {[]string{"      allow_failure: false\n  manual", "      allow_failure: \"false\"\n  manual"}, "rules:allow_failure"},
		"a key twice":                       {[]string{gateRules, "  when: manual\n  allow_failure: false\n  allow_failure: true\n  manual_confirmation"}, "allow_failure"},
		"a job twice":                       {[]string{"", "cleanup: {stage: cleanup, script: [echo]}\n"}, "cleanup"},
		"a tag":                             {[]string{gateRules, "  when: !!binary bWFudWFs\n  allow_failure: false\n  manual_confirmation"}, "!!binary"},
		"a key that is a boolean":           {[]string{verifyJob, "  stage: verify_canary\n  on: x\n  script:\n"}, "on"},
		"a child pipeline":                  {[]string{"", "child: {stage: verify_canary, trigger: {include: .gitlab/all.yml, strategy: depend}}\n"}, "script"},
		"another project's pipeline":        {[]string{"", "child: {stage: verify_canary, trigger: our-org/deploy}\n"}, "script"},
		"steps":                             {[]string{"", "steps: {stage: verify_canary, run: [{name: a, script: crossbill promote}]}\n"}, "script"},
		"a container's command":             {[]string{"      alias: docker\n", "      alias: docker\n      command: [crossbill, promote]\n"}, "script"},
		"an image's entrypoint":             {[]string{"", "smoke: {stage: verify_canary, image: {name: a, entrypoint: [sh, -c, crossbill promote]}, script: [echo]}\n"}, "script"},
		"variables of a report":             {[]string{verifyJob, "  stage: verify_canary\n  artifacts: {reports: {dotenv: a.env}}\n  script:\n"}, "artifacts:reports:dotenv"},
		"artifacts of another project":      {[]string{verifyJob, "  stage: verify_canary\n  needs: [deploy_canary, {project: other/tools, job: build, ref: main, artifacts: true}]\n  script:\n"}, "needs"},
		"GitLab's own changes":              {[]string{canaryStop, canaryStop + "    kubernetes: {agent: a, managed_resources: {enabled: true}}\n"}, "environment:kubernetes:managed_resources"},
		"the shell's path":                  {[]string{"    RUNNER_SCRIPT_TIMEOUT: 24m\n", "    PATH: /builds/bin\n"}, "variables:PATH"},
		"a matrix of variables":             {[]string{gateRules, "  parallel: {matrix: [{REGION: [$REGIONS]}]}\n" + gateRules}, "parallel:matrix:REGION"},
		"a number of jobs from an input":    {[]string{inputsEnd, "    n: {type: number, default: 2}\n" + inputsEnd, gateRules, "  parallel: $[[ inputs.n ]]\n" + gateRules}, "parallel"},
		"a script that is a map":            {[]string{verifyJob, "  stage: verify_canary\n  after_script: {a: b}\n  script:\n"}, "after_script"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, err := Parse([]byte(edited(t, test.edits...)))
			if err != nil {
				t.Fatal(err)
			}
			found := Check(f, Options{})
			if !slices.ContainsFunc(found, func(f Finding) bool {
				return f.Rule == RuleNotUnderstood && f.Keyword == test.keyword && f.Line > 0
			}) {
				t.Errorf("no %s of %q among %s", RuleNotUnderstood, test.keyword, listed(found))
			}
		})
	}
}

// TestTooMany: bounds are findings. Without them this does not end.
func TestTooMany(t *testing.T) {
	inputs, jobs, rules := "", "", ""
	for i := range 8 {
		inputs += fmt.Sprintf("    b%d: {type: boolean}\n", i)
		jobs += reader(fmt.Sprintf("smoke%d", i), fmt.Sprintf("  stage: cleanup\n  allow_failure: $[[ inputs.b%d ]]\n", i))
	}
	for i := range 13 {
		rules += reader(fmt.Sprintf("smoke%d", i), fmt.Sprintf("  stage: cleanup\n  rules: [{if: $X%d}]\n", i))
	}
	for name, edits := range map[string][]string{
		"values of inputs": {inputsEnd, inputs + inputsEnd, "", jobs},
		"sets of rules":    {"", rules},
	} {
		found := findingsOf(t, edited(t, edits...))
		if !slices.ContainsFunc(found, func(f Finding) bool { return f.Rule == RuleTooLarge }) {
			t.Errorf("%s: %s", name, listed(found))
		}
	}
}

// TestPsych: scalars and merges as Ruby's YAML reader has them.
func TestPsych(t *testing.T) {
	for text, want := range map[string]string{
		"yes": "true", "Yes": "true", "ON": "true", "true": "true", "no": "false", "off": "false", "False": "false",
		"y": `"y"`, "n": `"n"`, `"yes"`: `"yes"`, "'off'": `"off"`, "~": "null", "null": "null", "": "null", "!!str on": `"on"`,
		"010": `"010"`, "|\n  on": `"on\n"`,
		"{a: 1, <<: {a: 2, b: 3}, b: 4}":           `{"a":"2","b":"4"}`,
		"{<<: [{a: 1}, {a: 2, b: 3}]}":             `{"a":"1","b":"3"}`,
		"[&x {a: on}, *x]":                         `[{"a":true},{"a":true}]`,
		"{<<: [&x {a: off}, *x], <<: {a: always}}": `{"a":"always"}`,
	} {
		nodes, err := decodeDocuments([]byte("v: " + text + "\n"))
		if err != nil {
			t.Fatal(text, err)
		}
		d := &decoder{restore: func(text string) string { return text }}
		v, err := d.decode(nodes[0], 0)
		if err != nil {
			t.Fatal(text, err)
		}
		if got := v.get("v").canonical(); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

// TestInherit: what a job takes over from default and from the older keywords of the top level.
func TestInherit(t *testing.T) {
	f, err := Parse([]byte(`
default: {interruptible: true, retry: 1, before_script: [echo default]}
image: busybox
all: {script: [x]}
none: {inherit: {default: false}, script: [x]}
some: {inherit: {default: [interruptible]}, script: [x]}
own: {before_script: [], retry: ~, script: [x]}
`))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"all":  `{"before_script":["echo default"],"image":"busybox","interruptible":true,"retry":"1","script":["x"]}`,
		"none": `{"inherit":{"default":false},"script":["x"]}`,
		"some": `{"inherit":{"default":["interruptible"]},"interruptible":true,"script":["x"]}`,
		"own":  `{"before_script":[],"image":"busybox","interruptible":true,"retry":"1","script":["x"]}`,
	} {
		if got := f.Job(name).values.canonical(); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// TestWorlds: conditions that are the same have the same answer for every job, and those of one variable exclude each
// other.
func TestWorlds(t *testing.T) {
	for name, test := range map[string]struct {
		file string
		want []string
	}{
		"the same condition": {"a: {rules: [{if: $X}]}\nb: {rules: [{if: $X}]}\nc: {}", []string{"a b c", "c"}},
		"one or the other":   {"a: {rules: [{if: $X == \"1\"}]}\nb: {rules: [{if: $X == \"2\"}]}\nc: {}", []string{"a c", "b c", "c"}},
		"its opposite":       {"a: {rules: [{if: $X}]}\nb: {rules: [{if: $X == null}]}\nc: {}", []string{"a c", "b c"}},
		"of another value":   {"a: {variables: {X: 1}, rules: [{if: $X}]}\nb: {rules: [{if: $X}]}\nc: {}", []string{"a b c", "a c", "b c", "c"}},
		"a pattern":          {"a: {rules: [{if: $X =~ /^v/}]}\nb: {rules: [{if: $X == \"v1\"}]}\nc: {}", []string{"a b c", "a c", "c"}},
		"changes":            {"a: {rules: [{changes: [x]}]}\nb: {rules: [{changes: [x]}]}\nc: {rules: [{changes: [y]}]}\nd: {}", []string{"a b c d", "a b d", "c d", "d"}},
		"the workflow":       {"workflow: {rules: [{if: $CI_PIPELINE_SOURCE == \"api\"}]}\na: {rules: [{if: $CI_PIPELINE_SOURCE == \"push\"}]}\nc: {}", []string{"c"}},
		"never":              {"a: {rules: [{if: $X, when: never}, {when: always}]}\nc: {}", []string{"a c", "c"}},
		"a need is missing":  {"a: {rules: [{if: $X}]}\nb: {needs: [a]}\nc: {}", []string{"a b c"}},
		"an optional need":   {"a: {rules: [{if: $X}]}\nb: {needs: [{job: a, optional: true}]}", []string{"a b", "b"}},
		"only":               {"a: {only: [tags]}\nb: {only: [tags]}\nc: {only: [main]}\nd: {}", []string{"a b c d", "a b d", "c d", "d"}},
		"only .post":         {"a: {stage: .post}\nb: {rules: [{if: $X}]}", []string{"a b"}},
		"instances":          {"a: {parallel: {matrix: [{A: [x, y], B: z}, {A: w}]}}\nb: {parallel: 7}", []string{"a: [w] a: [x, z] a: [y, z] b: [1] b: [2]"}},
	} {
		if !strings.HasPrefix(test.file, "workflow:") { // without it GitLab has defaults of its own
			test.file = "workflow: {rules: [{when: always}]}\n" + test.file
		}
		f, err := Parse([]byte(test.file))
		if err != nil {
			t.Fatal(name, err)
		}
		all, complete := f.pipelines(mostPipelines)
		var got []string
		for _, p := range all {
			names := []string{}
			for _, job := range p.jobs {
				names = append(names, job.Name)
			}
			slices.Sort(names)
			if text := strings.Join(names, " "); !slices.Contains(got, text) {
				got = append(got, text)
			}
		}
		slices.Sort(got)
		if !complete || !slices.Equal(got, test.want) {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

// TestDocuments: what of a file GitLab reads.
func TestDocuments(t *testing.T) {
	f, err := Parse([]byte("a: {script: [x]}\n---\nb: {script: [x]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if f.Job("a") == nil || f.Job("b") != nil || len(f.problems) != 1 {
		t.Errorf("%+v", f)
	}
	f, err = Parse([]byte("--- {spec: {inputs: {a: {options: [x]}}}}\n--- # body\na:\n  stage: $[[ inputs.a ]]\n  tags: [$[[ inputs.b ]]]\n  script: [x]\nstages: [x]\n"))
	if err != nil {
		t.Fatal(err)
	}
	if job := f.Job("a"); job == nil || job.Stage != "x" || job.Line != 3 || job.values.get("tags").texts()[0] != "$[[ inputs.b ]]" {
		t.Errorf("%+v", job)
	}
}

// TestOutcome: whether a job fails when crossbill verify fails, and cannot succeed without it. The runner's shell has
// errexit and pipefail.
func TestOutcome(t *testing.T) {
	for script, want := range map[string]string{
		`crossbill verify`:                                                                    "",
		`crossbill verify > verify.json; echo done`:                                           "",
		`crossbill verify | tee verify.json`:                                                  "",
		`crossbill verify || exit 1`:                                                          "",
		`crossbill verify || { echo bad; exit 3; }`:                                           "",
		`crossbill verify && echo good`:                                                       "",
		`crossbill verify && echo good || exit 1`:                                             "",
		`code=0; crossbill verify || code=$?; echo; exit $code`:                               "",
		`result=$(crossbill verify); echo "$result"`:                                          "",
		`set +e; set -e; crossbill verify; echo`:                                              "",
		`set +e; crossbill verify`:                                                            "",
		`if [ -n "$A" ]; then echo; fi; crossbill verify`:                                     "",
		`dagger call verify --release-id a || true`:                                           "hidden",
		`crossbill verify || true`:                                                            "hidden",
		`judge() { crossbill verify; cat v; }; judge || exit 1`:                               "hidden",
		`j() { crossbill verify; }; if j; then echo; fi`:                                      "hidden",
		`run() { "$@" || echo; }; run crossbill verify`:                                       "hidden",
		`env crossbill verify || true`:                                                        "hidden",
		`timeout 600 crossbill verify || [ $? -eq 124 ]`:                                      "hidden",
		`(exec crossbill verify) || true`:                                                     "hidden",
		`sh -c 'crossbill verify; echo done'`:                                                 "hidden",
		`eval 'crossbill verify' || true`:                                                     "hidden",
		`set +o pipefail; crossbill verify | tee v`:                                           "hidden",
		`f() { exit 0; }; trap f EXIT; crossbill verify`:                                      "hidden",
		`code=0; crossbill verify || code=$?; code=0; exit $code`:                             "hidden",
		`for a in "$APP"; do crossbill verify; done`:                                          "",
		`for a in "$@"; do crossbill verify; done`:                                            "conditional",
		`crossbill verify --help`:                                                             "conditional",
		`if ! crossbill verify; then echo; exit 1; fi`:                                        "",
		`set +e; crossbill verify; code=$?; set -e; cat v; exit $code`:                        "",
		`code=0; crossbill verify || code=$?; case $code in 0) echo ;; *) exit $code ;; esac`: "",
		`( cd . && crossbill verify )`:                                                        "",
		`true && crossbill verify`:                                                            "",
		`crossbill verify || echo bad`:                                                        "hidden",
		`crossbill verify || exit 0`:                                                          "hidden",
		`crossbill verify || code=$?; exit 0`:                                                 "hidden",
		`crossbill verify && echo good; echo done`:                                            "hidden",
		`! crossbill verify`:                                                                  "hidden",
		`crossbill verify & wait`:                                                             "hidden",
		`if crossbill verify; then echo; fi`:                                                  "hidden",
		`while ! crossbill verify; do sleep 1; done`:                                          "hidden",
		`set +e; crossbill verify; exit 0`:                                                    "hidden",
		`set +o errexit; crossbill verify; echo`:                                              "hidden",
		`trap 'exit 0' EXIT; crossbill verify; echo`:                                          "hidden",
		`echo "$(crossbill verify)"`:                                                          "hidden",
		`check() { crossbill verify || true; }; check`:                                        "hidden",
		`if [ -n "$A" ]; then crossbill verify; fi`:                                           "conditional",
		`[ -n "$A" ] || crossbill verify`:                                                     "conditional",
		`case $A in yes) crossbill verify ;; esac`:                                            "conditional",
		`for r in $REGIONS; do crossbill verify; done`:                                        "conditional",
		`[ -n "$A" ] && crossbill verify; crossbill verify`:                                   "",
		`crossbill canary; [ -z "$A" ] || crossbill verify --x`:                               "conditional",
	} {
		f, err := Parse([]byte("verify_canary:\n  script:\n    - |\n      " + strings.ReplaceAll(script, "\n", "\n      ") + "\n"))
		if err != nil {
			t.Fatal(script, err)
		}
		o := outcomeOf(f.Job("verify_canary"))
		var got []string
		if line, hidden := o.hides("crossbill verify"); hidden {
			got = append(got, "hidden")
			if line != 4 {
				t.Errorf("%s: line %d", script, line)
			}
		}
		if !o.certain("crossbill verify") {
			got = append(got, "conditional")
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %q, want %q", script, got, want)
		}
	}
}
