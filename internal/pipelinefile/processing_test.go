package pipelinefile

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// processingCase is one rule of GitLab's processing. Its published cases (spec/services/ci/pipeline_processing/test_cases,
// 61 files with those that later versions renamed) are named in gitlab, without their .yml; the pipelines here are our own.
//
// A step is an event and what it leads to: the pipeline's status, and the jobs that differ from the step before. Events:
// "+job" succeeds, "-job" fails, "job=3" ends with that exit code, "!job" is pressed, "~job" is retried, "xjob" is canceled,
// ">job" is a delayed job whose time has come; "~" and "x" are those of the whole pipeline.
type processingCase struct {
	rule   string
	gitlab string
	file   string
	steps  []string
}

// row is three stages; the jobs of a case follow.
const row = "stages: [one, two, three, four, five]\n"

var processingCases = []processingCase{
	// Stages.
	{
		"a failed stage skips the later ones", "stage_build_fails",
		"a: {stage: one}\nb: {stage: two}\nc: {stage: three}",
		[]string{"pending: a pending, b created, c created", "-a failed: a failed, b skipped, c skipped"},
	},
	{
		"a job that may fail is skipped after a failed stage like any other", "stage_build_fails_test_allow_failure",
		"a: {stage: one}\nb: {stage: two, allow_failure: true}\nc: {stage: three}",
		[]string{"pending: a pending, b created, c created", "-a failed: a failed, b skipped, c skipped"},
	},
	{
		"a failure that is allowed is none: on_failure is skipped, the next stage runs", "stage_build_fails_with_allow_failure_test_on_failure",
		"a: {stage: one, allow_failure: true}\nfix: {stage: two, when: on_failure}\nc: {stage: three}",
		[]string{"pending: a pending, fix created, c created", "-a pending: a failed, fix skipped, c pending", "+c success: c success"},
	},
	{
		"a canceled stage skips everything after it, on_failure too", "stage_build_cancels_test1_and_test2_have_when",
		"a: {stage: one}\nb: {stage: two, when: on_success}\nfix: {stage: two, when: on_failure}\nc: {stage: three}",
		[]string{"pending: a pending, b created, fix created, c created", "xa canceled: a canceled, b skipped, fix skipped, c skipped"},
	},
	{
		"a canceled job that may fail counts as done", "stage_build_cancels_with_allow_failure_test1_and_test2_have_when",
		"a: {stage: one, allow_failure: true}\nb: {stage: two, when: on_success}\nfix: {stage: two, when: on_failure}\nc: {stage: three}",
		[]string{"pending: a pending, b created, fix created, c created", "xa pending: a canceled, b pending, fix skipped"},
	},
	{
		"an optional manual job holds no stage up", "stage_build_succeeds_test_manual_allow_failure_true",
		"a: {stage: one}\nb: {stage: two, when: manual, allow_failure: true}\nc: {stage: three}",
		[]string{"pending: a pending, b created, c created", "+a running: a success, b manual, c pending"},
	},
	{
		"an optional manual job beside others waits for an approver, they for each other", "stage_build_test_manual_review_deploy",
		"a: {stage: one}\nb: {stage: two}\noffer: {stage: two, when: manual, allow_failure: true}\nc: {stage: three}\nd: {stage: four}\ne: {stage: four}",
		[]string{
			"pending: a pending, b created, offer created, c created, d created, e created",
			"+a running: a success, b pending, offer manual", "+b running: b success, c pending", "+c running: c success, d pending, e pending",
		},
	},
	{
		"a retry of a manual job starts it at once", "stage_one_test_succeeds_one_manual_test_fails_and_retry_manual_build",
		"a: {stage: one}\noffer: {stage: one, when: manual}",
		[]string{"pending: a pending, offer manual", "+a success: a success", "!offer running: offer pending", "-offer success: offer failed", "~offer running: offer pending"},
	},
	{
		"a retry of the pipeline offers a manual job again", "stage_one_test_succeeds_one_manual_test_fails_and_retry_pipeline",
		"a: {stage: one}\noffer: {stage: one, when: manual}",
		[]string{"pending: a pending, offer manual", "+a success: a success", "!offer running: offer pending", "-offer success: offer failed", "~ success: offer manual"},
	},
	{
		"a blocking manual job holds the later stages, and the pipeline is manual", "stage_test_manual_allow_failure_false",
		"gate: {stage: one, when: manual, allow_failure: false}\nb: {stage: two}",
		[]string{"manual: gate manual, b created", "!gate pending: gate pending", "+gate running: gate success, b pending", "+b success: b success"},
	},
	{
		"an optional manual job can be pressed after the pipeline has succeeded", "stage_test_manual_allow_failure_true",
		"offer: {stage: one, when: manual, allow_failure: true}\nb: {stage: two}",
		[]string{"pending: offer manual, b pending", "+b success: b success", "!offer running: offer pending", "-offer success: offer failed"},
	},
	{
		"always runs after an optional manual job that nobody pressed", "stage_test_manual_allow_failure_true_deploy_always",
		"offer: {stage: one, when: manual, allow_failure: true}\nb: {stage: two, when: always}",
		[]string{"pending: offer manual, b pending"},
	},
	{
		"a press revives an on_failure job of a later stage; a failure that is allowed skips it again", "stage_test_manual_allow_failure_true_deploy_on_failure",
		"offer: {stage: one, when: manual, allow_failure: true}\nfix: {stage: two, when: on_failure}",
		[]string{"skipped: offer manual, fix skipped", "!offer pending: offer pending, fix created", "-offer success: offer failed, fix skipped"},
	},
	{
		"on_failure without an earlier stage is skipped at once", "stage_test_on_failure_no_prev_stage",
		"a: {stage: one}\nfix: {stage: one, when: on_failure}",
		[]string{"pending: a pending, fix skipped", "+a success: a success"},
	},
	{
		"on_failure runs after a failed stage, and the stages behind it stay skipped", "stage_test_on_failure_with_failure",
		"a: {stage: one}\nfix: {stage: two, when: on_failure}\nc: {stage: three}",
		[]string{"pending: a pending, fix created, c created", "-a running: a failed, fix pending", "+fix failed: fix success, c skipped"},
	},
	{
		"on_failure is skipped when nothing failed, and holds nobody up", "stage_test_on_failure_with_success",
		"a: {stage: one}\nfix: {stage: two, when: on_failure}\nc: {stage: three}",
		[]string{"pending: a pending, fix created, c created", "+a running: a success, fix skipped, c pending", "+c success: c success"},
	},

	// Needs.
	{
		"an optional need that is not in the pipeline is as if it had not been written", "dag_build_rules_out_test_needs_build_with_optional",
		"a: {stage: one, rules: [{when: never}]}\nb: {stage: two, needs: [{job: a, optional: true}]}",
		[]string{"pending: b pending", "+b success: b success"},
	},
	{
		"without its only, optional need a job starts at once, before its stage", "dag_build2_build1_rules_out_test_needs_build1_with_optional",
		"a: {stage: one, rules: [{when: never}]}\nother: {stage: one}\nb: {stage: two, needs: [{job: a, optional: true}]}",
		[]string{"pending: other pending, b pending", "+b running: b success", "+other success: other success"},
	},
	{
		"a failed need skips what needs it", "dag_build_fails",
		"a: {stage: one}\nb: {stage: two, needs: [a]}\nc: {stage: three}",
		[]string{"pending: a pending, b created, c created", "-a failed: a failed, b skipped, c skipped"},
	},
	{
		"a skipped need skips what needs it: a delayed job", "dag_build_fails_deploy_is_delayed_and_needs_test",
		"a: {stage: one}\nb: {stage: two}\nc: {stage: three, when: delayed, start_in: 5 seconds, needs: [b]}",
		[]string{"pending: a pending, b created, c created", "-a failed: a failed, b skipped, c skipped"},
	},
	{
		"a skipped need skips what needs it: a manual job", "dag_build_fails_deploy_is_manual_and_needs_test",
		"a: {stage: one}\nb: {stage: two}\nc: {stage: three, when: manual, needs: [b]}",
		[]string{"pending: a pending, b created, c created", "-a failed: a failed, b skipped, c skipped"},
	},
	{
		"a skipped need skips what needs it", "dag_build_fails_deploy_needs_test",
		"a: {stage: one}\nb: {stage: two}\nc: {stage: three, needs: [b]}",
		[]string{"pending: a pending, b created, c created", "-a failed: a failed, b skipped, c skipped"},
	},
	{
		"always runs although its need was skipped", "dag_build_fails_deploy_needs_test_when_always",
		"a: {stage: one}\nb: {stage: two}\nc: {stage: three, when: always, needs: [b]}",
		[]string{"pending: a pending, b created, c created", "-a running: a failed, b skipped, c pending"},
	},
	{
		"always waits until each of its needs has ended or is skipped", "dag_build_fails_other_build_succeeds_deploy_always",
		"a: {stage: one}\nother: {stage: one}\nb: {stage: two}\nc: {stage: three, when: always, needs: [a, b]}",
		[]string{"pending: a pending, other pending, b created, c created", "+a running: a success", "-other running: other failed, b skipped, c pending"},
	},
	{
		"one skipped need of several skips what needs them", "dag_build_fails_other_build_succeeds_deploy_needs_one_build_and_test",
		"a: {stage: one}\nother: {stage: one}\nb: {stage: two}\nc: {stage: three, needs: [a, b]}",
		[]string{"pending: a pending, other pending, b created, c created", "+a running: a success", "-other failed: other failed, b skipped, c skipped"},
	},
	{
		"always runs after a failed need", "dag_build_fails_test_always",
		"a: {stage: one}\nb: {stage: two, when: always, needs: [a]}",
		[]string{"pending: a pending, b created", "-a running: a failed, b pending"},
	},
	{
		"a job that may fail and was skipped skips what needs it", "dag_build_fails_test_fails_with_allow_failure",
		"a: {stage: one}\nb: {stage: two, allow_failure: true}\nc: {stage: three, needs: [b]}",
		[]string{"pending: a pending, b created, c created", "-a failed: a failed, b skipped, c skipped"},
	},
	{
		"on_failure runs after a failed need", "dag_build_fails_test_on_failure",
		"a: {stage: one}\nfix: {stage: two, when: on_failure, needs: [a]}",
		[]string{"pending: a pending, fix created", "-a running: a failed, fix pending"},
	},
	{
		"what needs an on_failure job follows it, though the pipeline failed", "dag_build_fails_test_on_failure_deploy_needs_test",
		"a: {stage: one}\nfix: {stage: two, when: on_failure}\nc: {stage: three, needs: [fix]}",
		[]string{"pending: a pending, fix created, c created", "-a running: a failed, fix pending", "+fix running: fix success, c pending", "+c failed: c success"},
	},
	{
		"on_failure with a failed and a skipped need is skipped", "dag_build_fails_test_skips_rollback_on_failure",
		"a: {stage: one}\nb: {stage: two}\nc: {stage: three, needs: [a, b]}\nfix: {stage: three, when: on_failure, needs: [a, b]}",
		[]string{"pending: a pending, b created, c created, fix created", "-a failed: a failed, b skipped, c skipped, fix skipped"},
	},
	{
		"on_failure after a need whose failure is allowed is skipped, and what needs it", "dag_build_fails_with_allow_failure_test_on_failure",
		"a: {stage: one, allow_failure: true}\nfix: {stage: two, when: on_failure, needs: [a]}\nc: {stage: three, needs: [fix]}",
		[]string{"pending: a pending, fix created, c created", "-a success: a failed, fix skipped, c skipped"},
	},
	{
		"one need that is an optional manual job skips what needs several", "dag_build_succeeds_test_manual_allow_failure_true_deploy_needs_both",
		"a: {stage: one}\noffer: {stage: two, when: manual, allow_failure: true}\nc: {stage: three, needs: [a, offer]}",
		[]string{"pending: a pending, offer created, c created", "+a success: a success, offer manual, c skipped"},
	},
	{
		"a need that is an optional manual job skips what needs it", "dag_build_succeeds_test_manual_allow_failure_true_deploy_needs_test",
		"a: {stage: one}\noffer: {stage: two, when: manual, allow_failure: true}\nc: {stage: three, needs: [offer]}",
		[]string{"pending: a pending, offer created, c created", "+a success: a success, offer manual, c skipped"},
	},
	{
		"on_failure is skipped after a need that succeeded", "dag_build_succeeds_test_on_failure",
		"a: {stage: one}\nfix: {stage: two, when: on_failure, needs: [a]}",
		[]string{"pending: a pending, fix created", "+a success: a success, fix skipped"},
	},
	{
		"what needs an optional manual job is skipped at once, while its other need still runs", "dag_build_test_manual_review_deploy",
		"a: {stage: one}\nb: {stage: two}\noffer: {stage: two, when: manual, allow_failure: true}\nc: {stage: three, needs: [b, offer]}\nd: {stage: four, needs: [b, offer]}\ne: {stage: four, needs: [c]}",
		[]string{
			"pending: a pending, b created, offer created, c created, d created, e created",
			"+a running: a success, b pending, offer manual, c skipped, d skipped, e skipped", "+b success: b success",
		},
	},
	{
		"a press revives what was skipped because of it, and no more stays revived", "dag_build_test_two_manual_review_test_staging_production",
		"a: {stage: one}\nb: {stage: two}\noffer1: {stage: two, when: manual}\noffer2: {stage: two, when: manual}\nboth: {stage: three, needs: [b, offer1, offer2]}\n" +
			"first: {stage: four, needs: [offer1]}\nsecond: {stage: four, needs: [offer2]}\nlater: {stage: five, needs: [second]}\nfix: {stage: five, when: on_failure}",
		[]string{
			"pending: a pending, b created, offer1 created, offer2 created, both created, first created, second created, later created, fix created",
			"+a running: a success, b pending, offer1 manual, offer2 manual, both skipped, first skipped, second skipped, later skipped",
			"+b success: b success, fix skipped", "!offer1 running: offer1 pending, first created, fix created",
			"+offer1 running: offer1 success, first pending", "+first success: first success, fix skipped",
		},
	},
	{
		"a need that is on_failure and was skipped skips what needs it", "dag_builds_succeed_test_on_failure_deploy_needs_one_build_and_test",
		"a: {stage: one}\nother: {stage: one}\nfix: {stage: two, when: on_failure}\nc: {stage: three, needs: [a, fix]}",
		[]string{"pending: a pending, other pending, fix created, c created", "+a running: a success", "+other success: other success, fix skipped, c skipped"},
	},
	{
		"always runs although an on_failure need was skipped", "dag_builds_succeed_test_on_failure_deploy_needs_one_build_and_test_when_always",
		"a: {stage: one}\nother: {stage: one}\nfix: {stage: two, when: on_failure}\nc: {stage: three, when: always, needs: [a, fix]}",
		[]string{"pending: a pending, other pending, fix created, c created", "+a running: a success", "+other running: other success, fix skipped, c pending", "+c success: c success"},
	},
	{
		"needs: [] starts a job at once", "dag_deploy_needs_empty",
		"a: {stage: one}\nb: {stage: two}\nc: {stage: three, needs: []}",
		[]string{"pending: a pending, b created, c pending"},
	},
	{
		"a retry revives the whole chain that was skipped", "dag_same_stage_with_fail_and_retry_1",
		"a: {stage: one}\nb: {stage: one, needs: [a]}\nc: {stage: one, needs: [b]}",
		[]string{"pending: a pending, b created, c created", "-a failed: a failed, b skipped, c skipped", "~a running: a pending, b created, c created", "+a running: a success, b pending"},
	},
	{
		"what a retry revives is skipped again for its other reason", "dag_same_stage_with_fail_and_retry_2",
		"a: {stage: one}\nb: {stage: one, needs: [a]}\noffer: {stage: one, when: manual}\nc: {stage: one, needs: [b, offer]}",
		[]string{"pending: a pending, b created, offer manual, c skipped", "-a failed: a failed, b skipped", "~a running: a pending, b created", "+a running: a success, b pending"},
	},
	{
		"a press revives a chain, manual jobs in it too, and it waits at the next of them", "dag_same_stage_with_subsequent_manual_jobs",
		"offer: {stage: one, when: manual}\nb: {stage: one, needs: [offer]}\nnext: {stage: one, when: manual, needs: [b]}\nd: {stage: one, needs: [next]}",
		[]string{
			"skipped: offer manual, b skipped, next skipped, d skipped", "!offer pending: offer pending, b created, next created, d created",
			"+offer running: offer success, b pending", "+b success: b success, next manual, d skipped",
		},
	},
	{
		"needs order jobs of one stage", "dag_same_stages",
		"a: {stage: one}\nb: {stage: one, needs: [a]}\nc: {stage: one, needs: [b]}",
		[]string{"pending: a pending, b created, c created", "+a running: a success, b pending", "+b running: b success, c pending"},
	},
	{
		"a need whose failure is allowed counts as done", "dag_test_allow_failure_true",
		"a: {stage: one, allow_failure: true}\nb: {stage: two, needs: [a]}",
		[]string{"pending: a pending, b created", "-a pending: a failed, b pending", "+b success: b success"},
	},
	{
		"a blocking manual job holds what needs it", "dag_test_manual_allow_failure_false",
		"gate: {stage: one, when: manual, allow_failure: false}\nb: {stage: two, needs: [gate]}",
		[]string{"manual: gate manual, b created", "!gate pending: gate pending", "+gate running: gate success, b pending", "+b success: b success"},
	},
	{
		"a blocking manual job holds always too", "dag_test_manual_allow_failure_false_deploy_always",
		"gate: {stage: one, when: manual, allow_failure: false}\nb: {stage: two, when: always, needs: [gate]}",
		[]string{"manual: gate manual, b created", "!gate pending: gate pending", "-gate running: gate failed, b pending"},
	},
	{
		"a blocking manual job that fails starts on_failure", "dag_test_manual_allow_failure_false_deploy_on_failure",
		"gate: {stage: one, when: manual, allow_failure: false}\nfix: {stage: two, when: on_failure, needs: [gate]}",
		[]string{"manual: gate manual, fix created", "!gate pending: gate pending", "-gate running: gate failed, fix pending"},
	},
	{
		"a blocking manual job holds what needs it and another one", "dag_test_manual_allow_failure_false_other_test_succeeds_deploy_needs_both",
		"a: {stage: one}\ngate: {stage: one, when: manual, allow_failure: false}\nb: {stage: two, needs: [a, gate]}",
		[]string{"running: a pending, gate manual, b created", "+a manual: a success"},
	},
	{
		"always runs although its need is an optional manual job that nobody pressed", "dag_test_manual_allow_failure_true_deploy_always",
		"offer: {stage: one, when: manual, allow_failure: true}\nb: {stage: two, when: always, needs: [offer]}",
		[]string{"pending: offer manual, b pending"},
	},
	{
		"a press revives on_failure; a failure that is allowed skips it again", "dag_test_manual_allow_failure_true_deploy_on_failure",
		"offer: {stage: one, when: manual, allow_failure: true}\nfix: {stage: two, when: on_failure, needs: [offer]}",
		[]string{"skipped: offer manual, fix skipped", "!offer pending: offer pending, fix created", "-offer success: offer failed, fix skipped"},
	},
	{
		"an optional manual job that fails lets what needs it run", "dag_test_manual_allow_failure_true dag_test_manual_allow_failure_true_fails",
		"offer: {stage: one, when: manual, allow_failure: true}\nb: {stage: two, needs: [offer]}",
		[]string{"skipped: offer manual, b skipped", "!offer pending: offer pending, b created", "-offer pending: offer failed, b pending", "+b success: b success"},
	},
	{
		"an optional manual job beside one that runs skips what needs both at once", "dag_test_manual_allow_failure_true_other_test_succeeds_deploy_needs_both",
		"a: {stage: one}\noffer: {stage: one, when: manual, allow_failure: true}\nb: {stage: two, needs: [a, offer]}",
		[]string{"pending: a pending, offer manual, b skipped", "+a success: a success"},
	},
	{
		"an optional manual job that succeeds lets what needs it run", "dag_test_manual_allow_failure_true_succeeds",
		"offer: {stage: one, when: manual, allow_failure: true}\nb: {stage: two, needs: [offer]}",
		[]string{"skipped: offer manual, b skipped", "!offer pending: offer pending, b created", "+offer running: offer success, b pending", "+b success: b success"},
	},
	{
		"a skipped job of an earlier stage holds no later stage up", "dag_test_manual_post_test_needs_deploy_is_stage",
		"a: {stage: one}\noffer: {stage: two, when: manual}\nb: {stage: three, needs: [offer]}\nc: {stage: four}",
		[]string{"pending: a pending, offer created, b created, c created", "+a running: a success, offer manual, b skipped, c pending"},
	},
	{
		"a press revives its own followers, not those of another manual job", "dag_test_manual_same_and_different_stage_needs",
		"offer1: {stage: one, when: manual}\noffer2: {stage: two, when: manual}\nb: {stage: three, needs: [offer2]}\nc: {stage: three, needs: [offer1]}",
		[]string{"skipped: offer1 manual, offer2 manual, b skipped, c skipped", "!offer2 pending: offer2 pending, b created"},
	},
	{
		"a press revives a chain over several stages", "dag_test_manual_same_stage_needs",
		"a: {stage: one}\noffer: {stage: two, when: manual}\nc: {stage: three, needs: [offer]}\nd: {stage: four, needs: [c]}",
		[]string{
			"pending: a pending, offer created, c created, d created", "+a success: a success, offer manual, c skipped, d skipped",
			"!offer running: offer pending, c created, d created",
		},
	},
	{
		"on_failure with needs: [] is skipped at once", "dag_test_on_failure_no_needs",
		"a: {stage: one, needs: []}\nfix: {stage: one, when: on_failure, needs: []}",
		[]string{"pending: a pending, fix skipped", "+a success: a success"},
	},
	{
		"a skipped on_failure job skips what needs it", "dag_test_on_failure_with_success",
		"a: {stage: one}\nfix: {stage: two, when: on_failure}\nc: {stage: three, needs: [fix]}",
		[]string{"pending: a pending, fix created, c created", "+a success: a success, fix skipped, c skipped"},
	},

	// workflow:auto_cancel:on_job_failure.
	{
		"a failure cancels what runs", "workflow_auto_cancel_on_job_failure_all_test",
		"workflow: {auto_cancel: {on_job_failure: all}}\na: {stage: one}\nb: {stage: one}",
		[]string{"pending: a pending, b pending", "-b failed: a canceled, b failed"},
	},
	{
		"a failure that is allowed cancels nothing", "workflow_auto_cancel_on_job_failure_all_allow_failure_test",
		"workflow: {auto_cancel: {on_job_failure: all}}\na: {stage: one}\nb: {stage: one, allow_failure: true}",
		[]string{"pending: a pending, b pending", "-b pending: b failed"},
	},

	// What GitLab's source says beyond its cases (the specification of the service, and the services it calls).
	{
		"a failure cancels what waits, an automatic rollback too, but no job with a button", "",
		"workflow: {auto_cancel: {on_job_failure: all}}\na: {stage: one}\nfix: {stage: two, when: on_failure}\noffer: {stage: two, when: manual, needs: []}",
		[]string{"pending: a pending, fix created, offer manual", "-a failed: a failed, fix canceled"},
	},
	{
		"a delayed job is scheduled, and blocks", "",
		"a: {stage: one}\nlater: {stage: two, when: delayed, start_in: 1 day}\nc: {stage: three}",
		[]string{"pending: a pending, later created, c created", "+a scheduled: a success, later scheduled", ">later running: later pending", "+later running: later success, c pending"},
	},
	{
		"a delayed job can be pressed before its time, and a retry does not delay it again", "",
		"later: {stage: two, when: delayed, start_in: 1 day}\nc: {stage: three}",
		[]string{"scheduled: later scheduled, c created", "!later pending: later pending", "-later failed: later failed, c skipped", "~later running: later pending, c created"},
	},
	{
		"an exit code of allow_failure:exit_codes makes the failure a warning, another one does not", "",
		"a: {stage: one, allow_failure: {exit_codes: [3, 4]}}\nfix: {stage: two, when: on_failure}\nc: {stage: three}",
		[]string{"pending: a pending, fix created, c created", "a=3 pending: a failed, fix skipped, c pending", "~a pending: a pending, fix created", "a=5 running: a failed, fix pending", "~a running: a pending", "a=0 running: a success"},
	},
	{
		"an exit code that is not allowed is a failure", "",
		"a: {stage: one, allow_failure: {exit_codes: 3}}\nfix: {stage: two, when: on_failure}\nc: {stage: three}",
		[]string{"pending: a pending, fix created, c created", "a=1 running: a failed, fix pending"},
	},
	{
		"a retry does not start what failed meanwhile: it waits for its turn", "",
		"a: {stage: one}\nb: {stage: two}\nc: {stage: three}",
		[]string{"pending: a pending, b created, c created", "+a running: a success, b pending", "-b failed: b failed, c skipped", "~a running: a pending, c created", "~b running: b created", "-a failed: a failed, b skipped, c skipped"},
	},
	{
		"a retry revives on_failure jobs for a second failure", "",
		"a: {stage: one}\nfix: {stage: two, when: on_failure, needs: [a]}",
		[]string{"pending: a pending, fix created", "+a success: a success, fix skipped", "~a running: a pending, fix created", "-a running: a failed, fix pending"},
	},
	{
		"a job that waits can be canceled; one that may fail then counts as done", "",
		"gate: {stage: one, when: manual, allow_failure: false}\nb: {stage: two, allow_failure: true}\nc: {stage: three, needs: [b]}",
		[]string{"manual: gate manual, b created, c created", "xb running: b canceled, c pending"},
	},
	{
		"canceling a pipeline leaves what waits for a button", "",
		"gate: {stage: one, when: manual, allow_failure: false}\na: {stage: one}\nb: {stage: two}",
		[]string{"running: gate manual, a pending, b created", "x manual: a canceled, b canceled"},
	},
	{
		"a retry of a canceled pipeline starts it again where it was", "",
		"a: {stage: one}\nb: {stage: two}\nc: {stage: three, when: manual, allow_failure: false}",
		[]string{"pending: a pending, b created, c created", "+a running: a success, b pending", "x canceled: b canceled, c canceled", "~ running: b pending, c created", "+b manual: b success, c manual"},
	},
}

func TestProcessing(t *testing.T) {
	for _, test := range processingCases {
		t.Run(test.rule, func(t *testing.T) {
			text := row + test.file + "\n"
			file, err := Parse([]byte(strings.ReplaceAll(text, "{stage:", "{script: [test -n hello], stage:")))
			if err != nil {
				t.Fatal(err)
			}
			m, err := file.Simulate()
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]string{}
			for i, step := range test.steps {
				before, after, _ := strings.Cut(step, ": ")
				status := before
				if i > 0 {
					var event string
					event, status, _ = strings.Cut(before, " ")
					if err := happen(m, event); err != nil {
						t.Fatalf("%s: %v", event, err)
					}
				}
				for change := range strings.SplitSeq(after, ", ") {
					job, now, _ := strings.Cut(change, " ")
					want[job] = now
				}
				if got := m.Status(); got != status {
					t.Errorf("step %d (%s): the pipeline is %s, want %s", i, before, got, status)
				}
				for _, job := range m.Jobs() {
					if job.Status != want[job.Name] {
						t.Errorf("step %d (%s): %s is %s, want %s", i, before, job.Name, job.Status, want[job.Name])
					}
				}
				if len(m.Jobs()) != len(want) {
					t.Errorf("%d jobs, want %d", len(m.Jobs()), len(want))
				}
			}
		})
	}
}

// happen lets an event of a processingCase happen.
func happen(m *Simulation, event string) error {
	if job, code, ok := strings.Cut(event, "="); ok {
		number, err := strconv.Atoi(code)
		if err != nil {
			return err
		}
		return m.Exit(job, number)
	}
	switch job := event[1:]; {
	case event == "~":
		m.RetryPipeline()
		return nil
	case event == "x":
		m.CancelPipeline()
		return nil
	case event[0] == '+':
		return m.Finish(job, true)
	case event[0] == '-':
		return m.Finish(job, false)
	case event[0] == '!':
		return m.Press(job)
	case event[0] == '~':
		return m.Retry(job)
	case event[0] == 'x':
		return m.Cancel(job)
	case event[0] == '>':
		return m.Start(job)
	}
	return fmt.Errorf("no event %q", event)
}

// TestProcessingCoversGitLabsCases counts: 61 published cases, each named by one of ours.
func TestProcessingCoversGitLabsCases(t *testing.T) {
	var named []string
	for _, test := range processingCases {
		named = append(named, strings.Fields(test.gitlab)...)
	}
	slices.Sort(named)
	if all := len(named); all != 61 || len(slices.Compact(named)) != all {
		t.Errorf("%d cases named, %d of them once", all, len(slices.Compact(named)))
	}
}

// reached are the statuses that a job can have, over all states that explore visits.
func reached(t *testing.T, p *pipeline, job int, mayPress func(int) bool) map[status]bool {
	t.Helper()
	found := map[status]bool{}
	budget := mostStates
	if !p.explore(&budget, mayPress, func(s state, _ func() string) { found[status(s[job])] = true }) {
		t.Fatal("the budget is used up")
	}
	return found
}

// TestExploreSeesPressesRetriesAndCancels: jobs that run only after a press of an optional job, after a retry, or after
// somebody canceled a job that waits.
func TestExploreSeesPressesRetriesAndCancels(t *testing.T) {
	for name, test := range map[string]struct {
		file string
		runs bool // job z, while nobody presses the job gate
	}{
		"an optional job is pressed":           {"gate: {stage: five, when: manual}\noffer: {stage: one, when: manual}\nz: {stage: two, needs: [offer]}", true},
		"the gate is not":                      {"gate: {stage: one, when: manual}\nz: {stage: two, needs: [gate]}", false},
		"a chain behind the gate":              {"gate: {stage: one, when: manual}\nb: {stage: two, needs: [gate]}\nz: {stage: three, needs: [b]}", false},
		"a failure, then a retry that is well": {"gate: {stage: five, when: manual}\na: {stage: one}\nfix: {stage: two, when: on_failure, needs: [a]}\nz: {stage: three, needs: [a, fix]}", true},
		"two failures, two retries":            {"gate: {stage: five, when: manual}\na: {stage: one}\nb: {stage: one, needs: [a]}\nm1: {stage: two, when: on_failure, needs: [a]}\nm2: {stage: two, when: on_failure, needs: [b]}\nz: {stage: three, needs: [a, b, m1, m2]}", true},
		"a job that waits is canceled":         {"gate: {stage: one, when: manual, allow_failure: false}\nb: {stage: two, allow_failure: true}\nz: {stage: three, needs: [b]}", true},
		"the same, but it may not fail":        {"gate: {stage: one, when: manual, allow_failure: false}\nb: {stage: two}\nz: {stage: three, needs: [b]}", false},
		"a delayed job":                        {"gate: {stage: five, when: manual}\na: {stage: one, when: delayed, start_in: 1 hour}\nz: {stage: two}", true},
		"an exit code that is allowed":         {"gate: {stage: five, when: manual}\na: {stage: one, allow_failure: {exit_codes: [3]}}\nm: {stage: two, when: on_failure, needs: []}\nz: {stage: three}", true},
	} {
		file, err := Parse([]byte(row + strings.ReplaceAll(test.file, "{stage:", "{script: [test -n hello], stage:")))
		if err != nil {
			t.Fatal(name, err)
		}
		all, _ := file.pipelines(1)
		whole := all[0]
		part, at := whole.upstream(whole.index("z"))
		gate := part.index("gate")
		if got := reached(t, part, at[0], func(job int) bool { return job != gate }); got[pending] != test.runs {
			t.Errorf("%s: z runs: %t", name, got[pending])
		}
	}
}

// TestUpstreamIsExact: what becomes of a job is the same without the jobs that it does not wait for.
func TestUpstreamIsExact(t *testing.T) {
	file, err := Parse([]byte(Flat(t, "dagger")))
	if err != nil {
		t.Fatal(err)
	}
	all, _ := file.pipelines(1)
	whole := all[0]
	press := func(int) bool { return true }
	for job := range whole.jobs {
		part, at := whole.upstream(job)
		if got, want := reached(t, part, at[0], press), reached(t, &whole, job, press); part.jobs[at[0]].Name != whole.jobs[job].Name || !whole.jobs[job].leaf && !maps.Equal(got, want) {
			t.Errorf("%s: %v alone, %v in the whole", whole.jobs[job].Name, got, want)
		}
	}
}
