{{- /* What helm prints: what was made, and which of the values have no effect here. Argument: the chart's root. */ -}}
{{- define "epplib.notes" -}}
{{- $tree := include "epplib.tree" . | fromYaml -}}
{{ $tree.name }} in {{ $tree.namespace }} picks endpoints among pods with {{ $tree.servers.selector }}, ports {{ include "epplib.portList" $tree.servers.ports }}.
{{- if $tree.pool.create }}
Name InferencePool {{ $tree.release }} in an HTTPRoute's backendRefs.
{{- end }}
{{- if $tree.proxy.enabled }}
Clients connect to Service {{ eq $tree.proxy.mode "service" | ternary $tree.proxyName $tree.name }}.
{{- end }}
{{- if and $tree.epp.elects $tree.epp.several }}
One of {{ $tree.epp.replicas }} pods leads; only that one is ever ready.
{{- end }}
{{- if $tree.epp.prefers }}
Attach the network endpoint group of Service {{ $tree.name }} to the load balancer's backend service of {{ $tree.name }}-backup: docs/gateways/gke.md.
{{- end }}
{{- if ne $tree.prediction.mode "none" }}
Latencies are predicted {{ eq $tree.prediction.mode "process" | ternary "in the EPP's process" "by servers beside the EPP" }}.
{{- end }}
{{- range include "epplib.remarks" (dict "tree" $tree "values" .Values) | fromYamlArray }}
NOTE: {{ . }}
{{- end }}
{{- end -}}

{{- /* Sentences about values that are given and do nothing, or not what somebody may think. Arguments: the .tree, and all .values. */ -}}
{{- define "epplib.remarks" -}}
{{- $values := .values -}}
{{- $said := list -}}
{{- $named := dict -}}
{{- range include "epplib.withoutEffect" .tree | fromYamlArray -}}
  {{- $remark := . -}}
  {{- range .values -}}
    {{- range include "epplib.given" (dict "part" . "values" $values) | fromYamlArray -}}
      {{- if not (hasKey $named .) -}}
        {{- $said = append $said (printf "%s has no effect: %s" . $remark.because) -}}
        {{- $_ := set $named . true -}}
      {{- end -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- with .tree -}}
{{- if regexMatch "gateway-api-inference-extension/epp$|llm-d-router-endpoint-picker|llm-d-inference-scheduler" (printf "%s/%s" .epp.image.registry .epp.image.repository) -}}
  {{- $said = append $said (printf "the image %s is the Go EPP's; take it out of the values to run llm-epp" (include "epplib.image" .epp.image)) -}}
{{- end -}}
{{- if eq .prediction.mode "sidecars" -}}
  {{- $prediction := .prediction -}}
  {{- range $side := list "trainingServer" "predictionServers" -}}
    {{- with (index $prediction $side).image.repository -}}
      {{- $said = append $said (printf "%s.image is set, so %s runs its own command and not epp-predictor" $side .) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- if .tokenizer.enabled -}}
  {{- $said = append $said (printf "the server that tokenizes is used by a token-producer that names http://localhost:%v" .tokenizer.port) -}}
{{- end -}}
{{- end -}}
{{- toYaml $said -}}
{{- end -}}

{{- /*
Names of the .values that are given for a .part of the tree and are not its default; with `.*` those of everything just below it. A file that
begins with a copy of all defaults asks for nothing by them.
*/ -}}
{{- define "epplib.given" -}}
{{- $values := .values -}}
{{- $part := trimSuffix ".*" .part -}}
{{- $places := list $part -}}
{{- range include "epplib.names" . | fromYamlArray -}}
  {{- range $from, $path := . -}}
    {{- if hasPrefix (printf "%s." $from) (printf "%s." $part) -}}{{- $places = append $places (printf "%s%s" $path (trimPrefix $from $part)) -}}{{- end -}}
  {{- end -}}
{{- end -}}
{{- $default := dict -}}
{{- range $places -}}{{- include "epplib.at" (dict "from" $values.epplib "path" . "box" $default) -}}{{- end -}}
{{- $names := list -}}
{{- $below := hasSuffix ".*" .part -}}
{{- range $place := $places -}}
  {{- $box := dict -}}
  {{- include "epplib.at" (dict "from" $values "path" $place "box" $box) -}}
  {{- if and $below (kindIs "map" $box.value) -}}
    {{- range $key, $value := $box.value -}}
      {{- if include "epplib.differs" (dict "value" $value "default" (get ($default.value | default dict) $key)) -}}
        {{- $names = append $names (printf "%s.%s" $place $key) -}}
      {{- end -}}
    {{- end -}}
  {{- else if include "epplib.differs" (dict "value" $box.value "default" $default.value) -}}
    {{- $names = append $names $place -}}
  {{- end -}}
{{- end -}}
{{- toYaml $names -}}
{{- end -}}

{{- /* "true" where a .value says something else than the .default; null says nothing. */ -}}
{{- define "epplib.differs" -}}
{{- $said := .value -}}
{{- if and (kindIs "map" $said) (kindIs "map" .default) -}}
  {{- $said = deepCopy .default -}}
  {{- include "epplib.merge" (dict "into" $said "from" .value) -}}
{{- end -}}
{{- $none := or (kindIs "invalid" .value) (and (empty .value) (empty .default)) -}}
{{- if not (or $none (eq (toJson $said) (toJson .default))) -}}true{{- end -}}
{{- end -}}

{{- /*
Values that do nothing here, and why, where they are given: read by NOTES.txt and by docs/charts.md. Parts of the tree stand for the values that
they come from in either chart's names; names of values stand for themselves.
*/ -}}
{{- define "epplib.withoutEffect" -}}
{{- $service := and .proxy.enabled (eq .proxy.mode "service") -}}
{{- $guide := .epp.sidecars | default dict -}}
{{- $monitored := .monitoring.prometheus.enabled -}}
{{- $gmp := eq .monitoring.provider.name "gmp" -}}
{{- $backends := .provider.gke.preferredBackends -}}
{{- $ownFile := or .epp.pluginsConfig (hasKey .epp.pluginsCustomConfig "default-plugins.yaml") -}}
{{- $defaultPlugins := and (not .epp.existingConfigMap) (eq .epp.pluginsConfigFile "default-plugins.yaml") (not $ownFile) -}}
{{- $overGrpc := and (eq .servers.type "vllm") (eq .servers.protocol "grpc") -}}
{{- $istio := and (eq .provider.name "istio") .pool.create -}}
{{- if .epp.autoscaling.enabled }}
- because: autoscaling has minReplicas and maxReplicas
  values: [epp.replicas]
{{- else }}
- because: autoscaling.enabled is false
  values: [epp.autoscaling.*]
{{- end }}
{{- if .epp.autoscaling.metrics }}
- because: autoscaling.metrics says what counts
  values: [epp.autoscaling.targetCPUUtilizationPercentage, epp.autoscaling.targetMemoryUtilizationPercentage]
{{- end }}
{{- if .epp.prefers }}
- because: preferredBackends has preferredReplicas and defaultReplicas
  values: [epp.replicas]
{{- end }}
{{- if not .epp.podDisruptionBudget.enabled }}
- because: podDisruptionBudget.enabled is false
  values: [epp.podDisruptionBudget.maxUnavailable]
{{- else if .epp.elects }}
- because: one pod leads, and only that one is ever ready
  values: [epp.podDisruptionBudget.maxUnavailable]
{{- end }}
{{- if not .epp.networkPolicy.enabled }}
- because: networkPolicy.enabled is false
  values: [epp.networkPolicy.*]
{{- end }}
{{- if ne (int .epp.grpcHealthPort) (int .epp.healthPort) }}
- because: flags say grpc-health-port
  values: [epp.grpcHealthPort]
{{- end }}
{{- if not (or $service (include "epplib.modelServers" .) (and $istio (not .provider.istio.destinationRule.host))) }}
- because: nothing here is told a name within the cluster
  values: [epp.clusterDomain]
{{- end }}
{{- if .epp.existingConfigMap }}
- because: existingConfigMap is used
  values: [epp.pluginsCustomConfig, epp.pluginsConfig]
{{- end }}
{{- if not $defaultPlugins }}
- because: it is for the chart's own default-plugins.yaml, and another configuration is used
  values: [epp.metricsDataSource, epp.parsers, epp.parser, servers.type, inferenceExtension.endpointsServer.modelServerType]
{{- end }}
{{- if $overGrpc }}
- because: requests to vLLM over gRPC have a parser of their own
  values: [epp.parsers, epp.parser]
{{- else if and .epp.parser (ne (join "," .epp.parsers) .epp.parser) }}
- because: parsers goes before it
  values: [epp.parser]
{{- end }}
{{- if not .proxy.enabled }}
- because: there is no proxy (inferenceExtension.sidecar.enabled, router.proxy.enabled)
  values: [proxy.*]
{{- else if not $service }}
- because: it is for a proxy with mode service
  values: [proxy.replicas, proxy.autoscaling.*]
{{- else if .proxy.autoscaling.enabled }}
- because: the proxy's autoscaling has minReplicas and maxReplicas
  values: [proxy.replicas]
{{- else }}
- because: the proxy's autoscaling.enabled is false
  values: [proxy.autoscaling.*]
{{- end }}
{{- if and $service .proxy.autoscaling.metrics }}
- because: the proxy's autoscaling.metrics says what counts
  values: [proxy.autoscaling.targetCPUUtilizationPercentage, proxy.autoscaling.targetMemoryUtilizationPercentage]
{{- end }}
{{- if eq (.proxy.proxyType | default "") "agentgateway" }}
- because: agentgateway refuses requests that no EPP was asked about
  values: [proxy.failOpen]
- because: proxyType is agentgateway
  values: [proxy.presets.envoy]
{{- else }}
- because: proxyType is envoy
  values: [proxy.presets.agentgateway]
{{- end }}
{{- if not .tokenizer.enabled }}
- because: tokenizer.enabled is false
  values: [tokenizer.*]
{{- else if .tokenizer.command }}
- because: tokenizer.command says what is run
  values: [tokenizer.flavor]
{{- end }}
{{- if not $monitored }}
- because: monitoring.prometheus.enabled is false
  values:
  - monitoring.interval
  - monitoring.provider.*
  - monitoring.prometheus.extraLabels
  - monitoring.prometheus.auth.secretName
  - provider.gke.autopilot
{{- else if $gmp }}
- because: there is a PodMonitoring and no ServiceMonitor
  values: [monitoring.prometheus.extraLabels, monitoring.prometheus.auth.secretName]
{{- else }}
- because: there is a ServiceMonitor and no PodMonitoring
  values: [monitoring.provider.gmp.autopilot, provider.gke.autopilot]
{{- end }}
{{- if not .monitoring.prometheus.auth.enabled }}
- because: monitoring.prometheus.auth.enabled is false
  values: [monitoring.prometheus.auth.secretName, monitoring.provider.gmp.autopilot, provider.gke.autopilot]
{{- end }}
{{- if and (not $monitored) (hasKey .epp.givenFlags "metrics-endpoint-auth") }}
- because: flags say metrics-endpoint-auth
  values: [monitoring.prometheus.auth.enabled]
{{- end }}
{{- if not .tracing.enabled }}
- because: tracing.enabled is false
  values: [tracing.*]
{{- else if eq (get .epp.givenFlags "tracing") "false" }}
- because: flags turn tracing off
  values: [tracing.*]
{{- end }}
- because: the chart gives the servers their ports, and each the address of the other
  values: [inferenceExtension.sidecars.predictionServers.config.port, inferenceExtension.sidecars.predictionServers.config.trainingServerUrl]
{{- if not ($guide.trainingServer | default dict).enabled }}
- because: sidecars.trainingServer.enabled is false
  values: [inferenceExtension.sidecars.trainingServer.*]
{{- end }}
{{- if not ($guide.predictionServers | default dict).enabled }}
- because: sidecars.predictionServers.enabled is false
  values: [inferenceExtension.sidecars.predictionServers.*]
{{- end }}
{{- if eq .prediction.mode "process" }}
- because: the EPP predicts in its own process; with latencyPredictor.mode sidecars there are servers
  values: [prediction.trainingServer, prediction.predictionServers, prediction.eppEnv]
{{- else if eq .prediction.mode "none" }}
- because: latencyPredictor.enabled is false
  values: [prediction.*]
{{- else if .prediction.trainingServer.persistence.enabled }}
- because: models are kept in the PersistentVolumeClaim
  values: [prediction.trainingServer.volumeSize]
{{- else }}
- because: trainingServer.persistence.enabled is false
  values: [prediction.trainingServer.persistence.claimName, inferenceExtension.sidecars.trainingServer.persistence.claimName]
{{- end }}
{{- if .pool.create }}
- because: there is an InferencePool, whose labels and ports count
  values:
  - inferenceExtension.endpointsServer.endpointSelector
  - inferenceExtension.endpointsServer.targetPorts
  - inferenceExtension.endpointsServer.modelServerType
{{- else if eq .family "llm-d" }}
- because: router.modelServers says which pods are model servers
  values:
  - inferenceExtension.endpointsServer.endpointSelector
  - inferenceExtension.endpointsServer.targetPorts
  - inferenceExtension.endpointsServer.modelServerType
{{- else }}
- because: there is no InferencePool, so those of endpointsServer count
  values: [inferencePool.targetPorts, inferencePool.targetPortNumber, inferencePool.modelServerType, inferencePool.modelServers.matchLabels]
{{- end }}
{{- if not .pool.create }}
- because: there is no InferencePool
  values: [pool.failureMode, provider.istio.destinationRule.*]
{{- if or (ne .provider.name "gke") (not $monitored) }}
- because: without an InferencePool nothing is made for a gateway
  values: [provider.name]
{{- end }}
{{- if not (or .proxy.enabled (and (eq .servers.type "vllm") $defaultPlugins)) }}
- because: it is for an InferencePool, a proxy, and requests to vLLM
  values: [servers.protocol]
{{- end }}
{{- end }}
{{- if and .servers.targetPortNumber (ne (toString .servers.targetPortNumber) (include "epplib.portList" .servers.ports)) }}
- because: targetPorts goes before it
  values: [servers.targetPortNumber]
{{- end }}
{{- if ne .provider.name "istio" }}
- because: provider.name is not istio
  values: [provider.istio.destinationRule.*]
{{- end }}
{{- if or (ne .provider.name "gke") (not .pool.create) }}
- because: it is for an InferencePool with provider.name gke
  values: [provider.gke.preferredBackends.*]
{{- else if not $backends.enabled }}
- because: preferredBackends.enabled is false
  values: [provider.gke.preferredBackends.*]
{{- else if ne $backends.balancingMode "RATE" }}
- because: balancingMode is not RATE
  values: [provider.gke.preferredBackends.maxRatePerEndpoint]
{{- end }}
{{- if not .route.create }}
- because: there is no HTTPRoute (experimentalHttpRoute.enabled, httpRoute.create)
  values: [route.inferenceGatewayName, route.inferenceGatewayNamespace, route.requestTimeout]
{{- else if eq .provider.name "gke" }}
- because: with provider gke a policy has it
  values: [route.requestTimeout]
{{- end }}
{{- end -}}
