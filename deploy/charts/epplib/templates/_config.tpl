{{- /* ConfigMaps: the EndpointPickerConfigs, and the environments of the latency predictor's servers. Argument: the tree. */ -}}

{{- define "epplib.config" -}}
{{- if not .epp.existingConfigMap }}
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ .name }}
  namespace: {{ .namespace }}
  labels:
    {{- toYaml .labels | nindent 4 }}
data:
  {{- include "epplib.configFiles" . | nindent 2 }}
{{- end }}
{{- if eq .prediction.mode "sidecars" }}
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ .name }}-latency-predictor-training
  namespace: {{ .namespace }}
  labels:
    {{- toYaml .labels | nindent 4 }}
data:
  {{- include "epplib.strings" .prediction.trainingServer.config | nindent 2 }}
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ .name }}-latency-predictor-prediction
  namespace: {{ .namespace }}
  labels:
    {{- toYaml .labels | nindent 4 }}
data:
  {{- include "epplib.strings" .prediction.predictionServers.config | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "epplib.strings" -}}
{{- $strings := dict -}}
{{- range $key, $value := . -}}{{- $_ := set $strings $key (toString $value) -}}{{- end -}}
{{- toYaml $strings -}}
{{- end -}}

{{- /* Files of the ConfigMap, by name. */ -}}
{{- define "epplib.configFiles" -}}
{{- $files := dict -}}
{{- $_ := set $files "default-plugins.yaml" (include "epplib.defaultPlugins" .) -}}
{{- $_ := set $files "payload-agnostic.yaml" (include "epplib.payloadAgnostic" .) -}}
{{- with .epp.pluginsConfig -}}{{- $_ := set $files $.epp.pluginsConfigFile (toYaml .) -}}{{- end -}}
{{- include "epplib.merge" (dict "into" $files "from" .epp.pluginsCustomConfig) -}}
{{- toYaml $files -}}
{{- end -}}

{{- define "epplib.defaultPlugins" -}}
{{- $predicts := ne .prediction.mode "none" -}}
{{- $source := .epp.metricsDataSource -}}
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
{{- if $predicts }}
- type: predicted-latency-producer
- name: strict-affinity-filter
  type: prefix-cache-affinity-filter
  parameters: {affinityThreshold: 0.99, ttftSource: latencyPredictor, maxTTFTPenaltyMs: 5000}
- type: slo-headroom-tier-filter
- name: loose-affinity-filter
  type: prefix-cache-affinity-filter
  parameters: {affinityThreshold: 0.80, ttftSource: latencyPredictor, maxTTFTPenaltyMs: 5000}
- type: latency-scorer
- type: weighted-random-picker
- type: latency-slo-admitter
{{- else }}
- type: queue-scorer
- type: kv-cache-utilization-scorer
- type: prefix-cache-scorer
{{- end }}
- type: metrics-data-source
  parameters: {scheme: {{ $source.scheme }}, path: {{ $source.path | quote }}, insecureSkipVerify: {{ $source.insecureSkipVerify }}}
- type: core-metrics-extractor
{{- if ne .servers.type "vllm" }}
  parameters: {defaultEngine: {{ .servers.type }}}
{{- end }}
{{- range .epp.parsers }}
- type: {{ . }}
{{- end }}
schedulingProfiles:
- name: default
  plugins:
{{- if $predicts }}
  - pluginRef: strict-affinity-filter
  - pluginRef: slo-headroom-tier-filter
  - pluginRef: loose-affinity-filter
  - pluginRef: latency-scorer
  - pluginRef: weighted-random-picker
{{- else }}
  - {pluginRef: queue-scorer, weight: 2}
  - {pluginRef: kv-cache-utilization-scorer, weight: 2}
  - {pluginRef: prefix-cache-scorer, weight: 3}
{{- end }}
{{- with .epp.parsers }}
requestHandler:
  parsers:
  {{- range . }}
  - pluginRef: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{- /* For requests of any form: nothing is read of them, so only load and sessions count. */ -}}
{{- define "epplib.payloadAgnostic" -}}
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: passthrough-parser
- type: active-request-scorer
- type: session-affinity-scorer
requestHandler:
  parsers:
  - pluginRef: passthrough-parser
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: active-request-scorer, weight: 1}
  - {pluginRef: session-affinity-scorer, weight: 1}
{{- end -}}
