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
{{- range include "epplib.remarks" $tree | fromYamlArray }}
NOTE: {{ . }}
{{- end }}
{{- end -}}

{{- /* Sentences about values that are given and do nothing, or not what somebody may think. */ -}}
{{- define "epplib.remarks" -}}
{{- $tree := . -}}
{{- $said := list -}}
{{- range include "epplib.withoutEffect" . | fromYamlArray -}}
  {{- $remark := . -}}
  {{- range .values -}}
    {{- $box := dict -}}
    {{- include "epplib.at" (dict "from" $tree.given "path" . "box" $box) -}}
    {{- if and (hasKey $box "value") (not (has (toString $box.value) (list "" "map[]" "[]" "false"))) -}}
      {{- $said = append $said (printf "%s has no effect: %s" . $remark.because) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- if regexMatch "gateway-api-inference-extension/epp$|llm-d-router-endpoint-picker|llm-d-inference-scheduler" (printf "%s/%s" .epp.image.registry .epp.image.repository) -}}
  {{- $said = append $said (printf "the image %s is the Go EPP's; take it out of the values to run llm-epp" (include "epplib.image" .epp.image)) -}}
{{- end -}}
{{- if eq .prediction.mode "sidecars" -}}
  {{- range $side := list "trainingServer" "predictionServers" -}}
    {{- with (index $tree.prediction $side).image.repository -}}
      {{- $said = append $said (printf "%s.image is set, so %s runs its own command and not epp-predictor" $side .) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- if .tokenizer.enabled -}}
  {{- $said = append $said (printf "the server that tokenizes is used by a token-producer that names http://localhost:%v" .tokenizer.port) -}}
{{- end -}}
{{- toYaml $said -}}
{{- end -}}

{{- /* Values that do nothing here, and why, where they are given: read by NOTES.txt and by docs/charts.md. */ -}}
{{- define "epplib.withoutEffect" -}}
{{- $proxied := and .proxy.enabled (eq .proxy.mode "service") -}}
{{- if eq (.proxy.proxyType | default "") "agentgateway" }}
- because: agentgateway refuses requests that no EPP was asked about
  values: [inferenceExtension.sidecar.failOpen, router.proxy.failOpen]
{{- end }}
{{- if or (ne .provider.name "gke") (not .pool.create) }}
- because: it is for an InferencePool with provider.name gke
  values: [provider.gke.preferredBackends.enabled]
{{- end }}
{{- if .epp.autoscaling.enabled }}
- because: autoscaling has minReplicas and maxReplicas
  values: [inferenceExtension.replicas, router.epp.replicas]
{{- end }}
{{- if .epp.prefers }}
- because: preferredBackends has preferredReplicas and defaultReplicas
  values: [inferenceExtension.replicas, router.epp.replicas]
{{- end }}
- because: the chart gives the servers their ports, and each the address of the other
  values: [inferenceExtension.sidecars.predictionServers.config.port, inferenceExtension.sidecars.predictionServers.config.trainingServerUrl]
{{- if not $proxied }}
- because: it is for a proxy with mode service
  values: [inferenceExtension.sidecar.replicas, router.proxy.replicas, inferenceExtension.sidecar.autoscaling.enabled, router.proxy.autoscaling.enabled]
{{- end }}
{{- if not .proxy.enabled }}
- because: there is no proxy (inferenceExtension.sidecar.enabled, router.proxy.enabled)
  values: [inferenceExtension.sidecar.configMap, router.proxy.presets, router.proxy.configMap]
{{- end }}
{{- if eq .prediction.mode "process" }}
- because: the EPP predicts in its own process; with latencyPredictor.mode sidecars there are servers
  values:
  - inferenceExtension.latencyPredictor.trainingServer
  - inferenceExtension.latencyPredictor.predictionServers
  - inferenceExtension.latencyPredictor.eppEnv
  - router.latencyPredictor.trainingServer
  - router.latencyPredictor.predictionServers
  - router.latencyPredictor.eppEnv
{{- else if eq .prediction.mode "none" }}
- because: latencyPredictor.enabled is false
  values:
  - inferenceExtension.latencyPredictor.trainingServer
  - inferenceExtension.latencyPredictor.predictionServers
  - router.latencyPredictor.trainingServer
  - router.latencyPredictor.predictionServers
{{- end }}
{{- if .pool.create }}
- because: there is an InferencePool, whose labels and ports count
  values: [inferenceExtension.endpointsServer.endpointSelector]
{{- end }}
{{- if and (not .pool.create) (eq .family "gie") }}
- because: there is no InferencePool, so those of endpointsServer count
  values: [inferencePool.targetPorts, inferencePool.modelServerType, inferencePool.modelServers]
{{- end }}
{{- if .epp.existingConfigMap }}
- because: existingConfigMap is used
  values: [inferenceExtension.pluginsCustomConfig, inferenceExtension.pluginsConfig, router.epp.pluginsCustomConfig, router.epp.pluginsConfig]
{{- end }}
{{- if ne .provider.name "istio" }}
- because: provider.name is not istio
  values: [provider.istio.destinationRule.host, provider.istio.destinationRule.trafficPolicy]
{{- end }}
{{- end -}}
