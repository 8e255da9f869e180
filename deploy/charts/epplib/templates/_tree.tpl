{{- /*
One tree of values, whichever charts' names a values file is written in. All other templates read this tree and nothing else.

  GIE     inferenceExtension, inferencePool, experimentalHttpRoute, inferenceObjectives
  llm-d   router, httpRoute
  SLO     inferenceExtension.sidecars, image.hub and image.name, flags as a list

provider is the same in all of them. Defaults come from this chart's values.yaml, in GIE's names.
*/ -}}

{{- /* Where each part of the tree comes from, as "part: value". Later lines count more. docs/charts.md is made of them, too. */ -}}
{{- define "epplib.names" -}}
- epp.parser: inferencePool.parser
- epp: inferenceExtension
- epp: router.epp
- epp.extraServicePorts: router.extraServicePorts
- epp.imagePullSecrets: router.imagePullSecrets
- epp.clusterDomain: router.clusterDomain
- pool.create: inferenceExtension.endpointsServer.createInferencePool
- pool.failureMode: inferenceExtension.failureMode
- pool.apiVersion: inferencePool.apiVersion
- pool: router.inferencePool
- servers.type: inferencePool.modelServerType
- servers.protocol: inferencePool.modelServerProtocol
- servers.targetPorts: inferencePool.targetPorts
- servers.targetPortNumber: inferencePool.targetPortNumber
- servers.matchLabels: inferencePool.modelServers.matchLabels
- servers: router.modelServers
- proxy: inferenceExtension.sidecar
- proxy: router.proxy
- tokenizer: inferenceExtension.tokenizer
- tokenizer: router.tokenizer
- monitoring: inferenceExtension.monitoring
- monitoring: router.monitoring
- tracing: inferenceExtension.tracing
- tracing: router.tracing
- prediction: inferenceExtension.latencyPredictor
- prediction: router.latencyPredictor
- objectives: inferenceObjectives
- objectives: router.inferenceObjectives
- route: experimentalHttpRoute
- route.create: experimentalHttpRoute.enabled
- route: httpRoute
- provider: provider
{{- end -}}

{{- /* The tree, as YAML. Argument: the chart's root. */ -}}
{{- define "epplib.tree" -}}
{{- $given := omit (deepCopy .Values) "epplib" "global" -}}
{{- include "epplib.formerNames" $given -}}
{{- $values := omit (deepCopy .Values.epplib) "global" -}}
{{- include "epplib.merge" (dict "into" $values "from" $given) -}}
{{- $tree := dict -}}
{{- range include "epplib.names" . | fromYamlArray -}}
  {{- range $part, $path := . -}}
    {{- $box := dict -}}
    {{- include "epplib.at" (dict "from" $values "path" $path "box" $box) -}}
    {{- if hasKey $box "value" -}}
      {{- include "epplib.put" (dict "into" $tree "path" $part "value" $box.value) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- $_ := set $tree "family" (empty $given.router | ternary "gie" "llm-d") -}}
{{- $_ := set $tree "chart" (dict "name" .Chart.Name "version" (.Chart.AppVersion | default .Chart.Version)) -}}
{{- $_ := set $tree "release" .Release.Name -}}
{{- $_ := set $tree "namespace" .Release.Namespace -}}
{{- include "epplib.settle" (dict "tree" $tree "values" $values) -}}
{{- include "epplib.check" $tree -}}
{{- include "epplib.selector" (dict "tree" $tree) -}}
{{- toYaml $tree -}}
{{- end -}}

{{- /* Names that charts had before, within what was given: image.hub, targetPortNumber, and the SLO guide's sidecars. */ -}}
{{- define "epplib.formerNames" -}}
{{- $given := . -}}
{{- $extension := $given.inferenceExtension | default dict -}}
{{- $sidecars := $extension.sidecars | default dict -}}
{{- $training := $sidecars.trainingServer | default dict -}}
{{- $prediction := $sidecars.predictionServers | default dict -}}
{{- range $path := include "epplib.images" . | fromYamlArray -}}
  {{- $box := dict "value" dict -}}
  {{- include "epplib.at" (dict "from" $given "path" $path "box" $box) -}}
  {{- range $former, $name := dict "hub" "registry" "name" "repository" -}}
    {{- if hasKey $box.value $former -}}{{- $_ := set $box.value $name (index $box.value $former) -}}{{- end -}}
  {{- end -}}
{{- end -}}
{{- range list "inferencePool" "router.modelServers" -}}
  {{- $box := dict -}}
  {{- include "epplib.at" (dict "from" $given "path" . "box" $box) -}}
  {{- if and $box.value $box.value.targetPortNumber (not $box.value.targetPorts) -}}
    {{- $_ := set $box.value "targetPorts" (list (dict "number" $box.value.targetPortNumber)) -}}
  {{- end -}}
{{- end -}}
{{- if or $training.enabled $prediction.enabled -}}
  {{- $servers := dict "enabled" true "mode" "sidecars" -}}
  {{- $_ := set $servers "trainingServer" (omit $training "enabled" "config") -}}
  {{- $_ := set $servers "predictionServers" (omit $prediction "enabled" "replicas" "config") -}}
  {{- $_ := set $servers.trainingServer "enabled" ($training.enabled | default false) -}}
  {{- $_ := set $servers.predictionServers "count" ($prediction.enabled | default false | ternary ($prediction.replicas | default 3) 0) -}}
  {{- range $side, $config := dict "trainingServer" $training.config "predictionServers" $prediction.config -}}
    {{- $variables := dict -}}
    {{- range $key, $name := include "epplib.guideVariables" . | fromYaml -}}
      {{- if hasKey ($config | default dict) $key -}}{{- $_ := set $variables $name (toString (index $config $key)) -}}{{- end -}}
    {{- end -}}
    {{- $_ := set (index $servers $side) "config" $variables -}}
  {{- end -}}
  {{- include "epplib.put" (dict "into" $given "path" "inferenceExtension.latencyPredictor" "value" $servers) -}}
{{- end -}}
{{- end -}}

{{- /* Where a values file may name an image. */ -}}
{{- define "epplib.images" -}}
{{- range $server := list "trainingServer" "predictionServers" }}
- inferenceExtension.sidecars.{{ $server }}.image
- inferenceExtension.latencyPredictor.{{ $server }}.image
- router.latencyPredictor.{{ $server }}.image
{{- end }}
- inferenceExtension.image
- inferenceExtension.tokenizer.image
- router.epp.image
- router.tokenizer.image
{{- end -}}

{{- /* The SLO guide's keys of `config`, and the variables that they stand for. */ -}}
{{- define "epplib.guideVariables" -}}
retrainingIntervalSec: LATENCY_RETRAINING_INTERVAL_SEC
minSamplesForRetrain: LATENCY_MIN_SAMPLES_FOR_RETRAIN
ttftModelPath: LATENCY_TTFT_MODEL_PATH
tpotModelPath: LATENCY_TPOT_MODEL_PATH
ttftScalerPath: LATENCY_TTFT_SCALER_PATH
tpotScalerPath: LATENCY_TPOT_SCALER_PATH
modelType: LATENCY_MODEL_TYPE
modelSyncIntervalSec: MODEL_SYNC_INTERVAL_SEC
host: PREDICT_HOST
localTtftModelPath: LOCAL_TTFT_MODEL_PATH
localTpotModelPath: LOCAL_TPOT_MODEL_PATH
localTtftScalerPath: LOCAL_TTFT_SCALER_PATH
localTpotScalerPath: LOCAL_TPOT_SCALER_PATH
httpTimeout: HTTP_TIMEOUT
{{- end -}}

{{- /* What follows from the values: names, one shape for what may be written in several, one parser list. */ -}}
{{- define "epplib.settle" -}}
{{- $tree := .tree -}}
{{- $epp := omit $tree.epp "sidecar" "tokenizer" "monitoring" "tracing" "latencyPredictor" "endpointsServer" "failureMode" -}}
{{- $_ := set $tree "epp" $epp -}}
{{- $base := lower $tree.release | trunc 40 -}}
{{- $_ := set $tree "base" $base -}}
{{- $_ := set $tree "name" (printf "%s-epp" $base) -}}
{{- $_ := set $tree "clusterName" (printf "%s-%s-epp" $base (lower $tree.namespace | trunc 40) | trunc 84) -}}
{{- $_ := set $tree "proxyName" (printf "%s-proxy" $base) -}}

{{- $_ := set $epp.image "tag" ($epp.image.tag | default $tree.chart.version) -}}
{{- $_ := set $epp "flags" (include "epplib.flags" $epp.flags | fromYamlArray) -}}
{{- $_ := set $epp "givenFlags" (dict) -}}
{{- range $epp.flags -}}{{- $_ := set $epp.givenFlags .name (.value | default "true") -}}{{- end -}}
{{- $_ := set $epp "env" (include "epplib.variables" $epp.env | fromYamlArray) -}}
{{- $_ := set $epp "replicas" (int $epp.replicas) -}}
{{- $prefers := and $tree.provider.gke.preferredBackends.enabled (eq $tree.provider.name "gke") $tree.pool.create -}}
{{- $_ := set $epp "prefers" $prefers -}}
{{- $_ := set $epp "several" (or (gt (int $epp.replicas) 1) $epp.autoscaling.enabled $prefers) -}}
{{- $election := get $epp.givenFlags "ha-enable-leader-election" | default ($epp.several | ternary "true" "false") -}}
{{- $_ := set $epp "elects" (and (ne $election "false") (not $epp.autoscaling.enabled) (not $prefers) (ne (get $epp.givenFlags "replicas-serve") "all")) -}}
{{- /* The grace period's last 10 s are for what is under way then and for saving: a pod that slept through them would be killed. */ -}}
{{- $servingSeconds := max 0 (sub (int $epp.terminationGracePeriodSeconds) 10) -}}
{{- $_ := set $epp "handOverSeconds" ($epp.elects | ternary (min 15 $servingSeconds) 0) -}}
{{- $_ := set $epp "drainSeconds" (sub $servingSeconds $epp.handOverSeconds) -}}
{{- $_ := set $epp "port" (int (get $epp.givenFlags "grpc-port" | default 9002)) -}}
{{- $_ := set $epp "metricsPort" (int (get $epp.givenFlags "metrics-port" | default 9090)) -}}
{{- $_ := set $epp "healthPort" (int (get $epp.givenFlags "grpc-health-port" | default $epp.grpcHealthPort)) -}}
{{- if ne $epp.healthPort 9003 -}}
  {{- if not (hasKey $epp.givenFlags "grpc-health-port") -}}
    {{- $_ := set $epp "flags" (append $epp.flags (dict "name" "grpc-health-port" "value" (toString $epp.healthPort))) -}}
  {{- end -}}
{{- end -}}

{{- $endpoints := .values.inferenceExtension.endpointsServer -}}
{{- $servers := $tree.servers -}}
{{- $ports := list -}}
{{- range $servers.targetPorts -}}{{- $ports = append $ports (int .number) -}}{{- end -}}
{{- if and (not $tree.pool.create) (eq $tree.family "gie") -}}
  {{- $_ := set $servers "selector" $endpoints.endpointSelector -}}
  {{- $_ := set $servers "type" $endpoints.modelServerType -}}
  {{- $ports = list -}}
  {{- $listed := kindIs "slice" $endpoints.targetPorts | ternary $endpoints.targetPorts (splitList "," (toString $endpoints.targetPorts)) -}}
  {{- range $listed -}}{{- $ports = append $ports (int (trim (toString .))) -}}{{- end -}}
{{- else -}}
  {{- $pairs := list -}}
  {{- range $key, $value := $servers.matchLabels -}}{{- $pairs = append $pairs (printf "%s=%s" $key $value) -}}{{- end -}}
  {{- $_ := set $servers "selector" (join "," $pairs) -}}
{{- end -}}
{{- $_ := set $servers "ports" $ports -}}

{{- $parsers := $epp.parsers -}}
{{- if and (not $parsers) $epp.parser -}}{{- $parsers = list $epp.parser -}}{{- end -}}
{{- if and (eq $servers.type "vllm") (eq $servers.protocol "grpc") -}}{{- $parsers = list "vllmgrpc-parser" -}}{{- end -}}
{{- if and (not $parsers) (eq $servers.type "triton") -}}{{- $parsers = list "passthrough-parser" -}}{{- end -}}
{{- $_ := set $epp "parsers" $parsers -}}

{{- $prediction := $tree.prediction -}}
{{- $mode := $prediction.enabled | ternary $prediction.mode "none" -}}
{{- $_ := set $prediction "mode" $mode -}}
{{- if not (hasKey $prediction.trainingServer "enabled") -}}{{- $_ := set $prediction.trainingServer "enabled" true -}}{{- end -}}
{{- $serverPorts := list -}}
{{- if eq $mode "sidecars" -}}
  {{- range $i := until (int $prediction.predictionServers.count) -}}
    {{- $serverPorts = append $serverPorts (add (int $prediction.predictionServers.startPort) $i) -}}
  {{- end -}}
{{- end -}}
{{- $_ := set $prediction "ports" $serverPorts -}}

{{- $monitoring := $tree.monitoring -}}
{{- if not $monitoring.provider.name -}}
  {{- $_ := set $monitoring.provider "name" (eq $tree.provider.name "gke" | ternary "gmp" "prometheusoperator") -}}
{{- end -}}
{{- $_ := set $monitoring.provider.gmp "autopilot" (or $monitoring.provider.gmp.autopilot $tree.provider.gke.autopilot) -}}
{{- $_ := set $tree "objectivesVersion" (eq $tree.family "llm-d" | ternary "llm-d.ai/v1alpha2" "inference.networking.x-k8s.io/v1alpha2") -}}
{{- if $tree.proxy.enabled -}}{{- include "epplib.settleProxy" $tree -}}{{- end -}}
{{- end -}}

{{- /* Flags, written as a map or a list, as a list of name and value; a flag of a list without a value has none. */ -}}
{{- define "epplib.flags" -}}
{{- $flags := list -}}
{{- if kindIs "map" . -}}
  {{- range $name, $value := . -}}
    {{- $flags = append $flags (dict "name" $name "value" (toString $value)) -}}
  {{- end -}}
{{- else -}}
  {{- range . -}}
    {{- if kindIs "map" . -}}
      {{- $flags = append $flags (hasKey . "value" | ternary (dict "name" .name "value" (toString .value)) (dict "name" .name)) -}}
    {{- else -}}
      {{- $halves := splitn "=" 2 (trimPrefix "-" (trimPrefix "-" .)) -}}
      {{- $flags = append $flags (contains "=" . | ternary (dict "name" $halves._0 "value" $halves._1) (dict "name" $halves._0)) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- toYaml $flags -}}
{{- end -}}

{{- /* Environment variables, written as a list or as a map from names to values, as the list that Kubernetes wants. */ -}}
{{- define "epplib.variables" -}}
{{- $variables := list -}}
{{- if kindIs "map" . -}}
  {{- range $name, $value := . -}}
    {{- $variables = append $variables (kindIs "map" $value | ternary (merge (dict "name" $name) (kindIs "map" $value | ternary $value dict)) (dict "name" $name "value" (toString $value))) -}}
  {{- end -}}
{{- else -}}
  {{- range . -}}
    {{- $variable := . -}}
    {{- if hasKey . "value" -}}{{- $variable = merge (dict "value" (toString .value)) . -}}{{- end -}}
    {{- $variables = append $variables $variable -}}
  {{- end -}}
{{- end -}}
{{- toYaml $variables -}}
{{- end -}}

{{- /* Labels that select the EPP's pods. A Deployment's cannot be changed, so one that is there keeps its own. */ -}}
{{- define "epplib.selector" -}}
{{- $tree := .tree -}}
{{- $key := "inferencepool" -}}
{{- if eq $tree.family "llm-d" -}}
  {{- $key = $tree.pool.create | ternary "llm-d-router-gateway" "llm-d-router-standalone" -}}
{{- else if not $tree.pool.create -}}
  {{- $key = "epp" -}}
{{- end -}}
{{- $labels := dict $key $tree.name -}}
{{- $there := lookup "apps/v1" "Deployment" $tree.namespace $tree.name -}}
{{- with dig "spec" "selector" "matchLabels" dict ($there | default dict) -}}
  {{- $labels = . -}}
{{- end -}}
{{- $_ := set $tree "selectorLabels" $labels -}}
{{- $first := dict "name" $tree.name "replicas" $tree.epp.replicas "selectorLabels" $labels "preference" "" -}}
{{- $_ := set $tree "tiers" (list $first) -}}
{{- if $tree.epp.prefers -}}
  {{- $backends := $tree.provider.gke.preferredBackends -}}
  {{- $backup := dict -}}
  {{- range $key, $name := $labels -}}{{- $_ := set $backup $key (printf "%s-backup" $name) -}}{{- end -}}
  {{- $second := dict "name" (printf "%s-backup" $tree.name) "selectorLabels" $backup "preference" "DEFAULT" "replicas" $backends.defaultReplicas -}}
  {{- $_ := set $tree "tiers" (list (merge (dict "preference" "PREFERRED" "replicas" $backends.preferredReplicas) $first) $second) -}}
{{- end -}}
{{- $mode := eq $tree.family "llm-d" | ternary "llm-d.ai/igw-mode" "inference.networking.k8s.io/igw-mode" -}}
{{- $value := $tree.pool.create | ternary "inferencepool" "standalone" -}}
{{- if eq $tree.family "llm-d" -}}{{- $value = printf "llm-d-router-%s" ($tree.pool.create | ternary "gateway" "standalone") -}}{{- end -}}
{{- $_ := set $tree "modeLabels" (dict $mode $value) -}}
{{- $_ := set $tree "labels" (dict "app.kubernetes.io/name" $tree.name "app.kubernetes.io/version" $tree.chart.version) -}}
{{- end -}}
