{{- /* The EPP's Deployment, and what runs in its pods. Argument: the tree. */ -}}

{{- define "epplib.deployments" -}}
{{- range .tiers }}
{{- include "epplib.deployment" (set $ "tier" .) }}
{{- end }}
{{- end -}}

{{- /* That of .tier. */ -}}
{{- define "epplib.deployment" }}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ .tier.name }}
  namespace: {{ .namespace }}
  labels:
    {{- toYaml (merge dict .labels .modeLabels) | nindent 4 }}
spec:
  {{- if not .epp.autoscaling.enabled }}
  replicas: {{ int .tier.replicas }}
  {{- end }}
  strategy:
    {{- include "epplib.strategy" . | nindent 4 }}
  selector:
    matchLabels:
      {{- toYaml .tier.selectorLabels | nindent 6 }}
  template:
    metadata:
      labels:
        {{- toYaml (merge dict .tier.selectorLabels .modeLabels .epp.podLabels) | nindent 8 }}
      {{- with include "epplib.annotations" . | fromYaml }}
      annotations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      serviceAccountName: {{ .name }}
      {{- with .epp.imagePullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .epp.podSecurityContext }}
      securityContext:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      terminationGracePeriodSeconds: {{ int .epp.terminationGracePeriodSeconds }}
      {{- with concat .epp.initContainers (.tokenizer.enabled | ternary .tokenizer.initContainers list) }}
      initContainers:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      containers:
        {{- if and .proxy.enabled (eq .proxy.mode "sidecar") }}
        {{- include "epplib.proxyContainer" . | nindent 8 }}
        {{- end }}
        {{- include "epplib.eppContainer" . | nindent 8 }}
        {{- if .tokenizer.enabled }}
        {{- include "epplib.tokenizerContainer" . | nindent 8 }}
        {{- end }}
        {{- if eq .prediction.mode "sidecars" }}
        {{- include "epplib.predictionContainers" . | trim | nindent 8 }}
        {{- end }}
        {{- with .epp.extraContainers }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      volumes:
        {{- include "epplib.volumes" . | nindent 8 }}
      {{- with .epp.affinity }}
      affinity:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .epp.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .epp.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .epp.priorityClassName }}
      priorityClassName: {{ . }}
      {{- end }}
      {{- if or .epp.topologySpreadConstraints .epp.several }}
      topologySpreadConstraints:
        {{- if .epp.topologySpreadConstraints }}
        {{- toYaml .epp.topologySpreadConstraints | nindent 8 }}
        {{- else }}
        - topologyKey: kubernetes.io/hostname
          maxSkew: 1
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels:
              {{- toYaml .tier.selectorLabels | nindent 14 }}
        {{- end }}
      {{- end }}
{{- end -}}

{{- /* The EPP follows its configuration; what the servers beside it are told is read once, so that changes need new pods. */ -}}
{{- define "epplib.annotations" -}}
{{- $annotations := dict -}}
{{- if and .proxy.enabled (eq .proxy.mode "sidecar") -}}
  {{- $_ := set $annotations "checksum/proxy" (include "epplib.proxyConfig" . | sha256sum) -}}
{{- end -}}
{{- if eq .prediction.mode "sidecars" -}}
  {{- $_ := set $annotations "checksum/latency-predictor" (toYaml .prediction | sha256sum) -}}
{{- end -}}
{{- toYaml (merge dict .epp.podAnnotations $annotations) -}}
{{- end -}}

{{- /* Pods that wait for the lease are not ready while the leader stays, so waiting for them would be waiting for ever. */ -}}
{{- define "epplib.strategy" -}}
{{- if .epp.deploymentStrategy -}}
{{- toYaml .epp.deploymentStrategy -}}
{{- else if .epp.elects -}}
type: RollingUpdate
rollingUpdate: {maxSurge: 100%, maxUnavailable: 100%}
{{- else -}}
type: RollingUpdate
rollingUpdate: {maxSurge: 1, maxUnavailable: 0}
{{- end -}}
{{- end -}}

{{- define "epplib.eppContainer" -}}
- name: epp
  image: {{ include "epplib.image" .epp.image }}
  imagePullPolicy: {{ .epp.image.pullPolicy }}
  args:
    {{- include "epplib.args" . | trim | nindent 4 }}
  env:
    {{- include "epplib.env" . | trim | nindent 4 }}
  ports:
    - {name: grpc, containerPort: {{ int .epp.port }}}
    - {name: grpc-health, containerPort: {{ int .epp.healthPort }}}
    - {name: metrics, containerPort: {{ int .epp.metricsPort }}}
    {{- with .epp.extraContainerPorts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  livenessProbe:
    grpc: {port: {{ int .epp.healthPort }}, service: liveness}
    initialDelaySeconds: 5
    periodSeconds: 10
  readinessProbe:
    grpc: {port: {{ int .epp.healthPort }}, service: {{ .epp.several | ternary "readiness" "inference-extension" }}}
    periodSeconds: 2
  {{- if .epp.elects }}
    # A leader that was told to go serves on, and is sent requests while it counts as ready: longer than the next one takes to be.
    failureThreshold: 5
  lifecycle:
    preStop:
      # In a roll-out the leader goes on while those that follow it start and learn the endpoints.
      exec: {command: [sleep, "{{ int .epp.handOverSeconds }}"]}
  {{- end }}
  {{- with .epp.resources }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .epp.securityContext }}
  securityContext:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  volumeMounts:
    - {name: plugins-config-volume, mountPath: /config, readOnly: true}
    - {name: tmp, mountPath: /tmp}
    {{- with .epp.volumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{- define "epplib.image" -}}
{{ with .registry }}{{ . }}/{{ end }}{{ .repository }}{{ with .tag }}:{{ . }}{{ end }}
{{- end -}}

{{- /* Arguments of `epp run`, which is the image's entry point. What the chart would pass is left out where flags say it. */ -}}
{{- define "epplib.args" -}}
{{- $given := .epp.givenFlags -}}
{{- if .pool.create }}
- --pool-name
- {{ .release | quote }}
- --pool-namespace
- {{ .namespace | quote }}
- --pool-group
- inference.networking.k8s.io
{{- else }}
- --endpoint-selector
- {{ .servers.selector | quote }}
- --endpoint-target-ports
- {{ include "epplib.portList" .servers.ports | quote }}
{{- end }}
{{- if not (hasKey $given "zap-encoder") }}
- --zap-encoder
- json
{{- end }}
- --config-file
- {{ printf "/config/%s" .epp.pluginsConfigFile | quote }}
{{- if not (hasKey $given "drain-timeout") }}
- --drain-timeout={{ int .epp.drainSeconds }}s
{{- end }}
{{- /* session-affinity-scorer is experimental. */}}
{{- if and (eq .epp.pluginsConfigFile "payload-agnostic.yaml") (not (hasKey $given "allow-experimental-plugins")) }}
- --allow-experimental-plugins
{{- end }}
{{- if and .epp.elects (not (hasKey $given "ha-enable-leader-election")) }}
- --ha-enable-leader-election
{{- end }}
{{- if and (ne .prediction.mode "none") (not (hasKey $given "enable-latency-predictor")) }}
- --enable-latency-predictor
{{- end }}
{{- if and .proxy.enabled (eq .proxy.proxyType "agentgateway") (not (hasKey $given "secure-serving")) }}
- --secure-serving=false
{{- end }}
{{- range .epp.flags }}
- {{ hasKey . "value" | ternary (printf "--%s=%v" .name .value) (printf "--%s" .name) | quote }}
{{- end }}
{{- if not (hasKey $given "tracing") }}
- --tracing={{ .tracing.enabled }}
{{- end }}
{{- if and (not .monitoring.prometheus.auth.enabled) (not (hasKey $given "metrics-endpoint-auth")) }}
- --metrics-endpoint-auth=false
{{- end }}
{{- end -}}

{{- define "epplib.portList" -}}
{{- $ports := list -}}
{{- range . -}}{{- $ports = append $ports (toString .) -}}{{- end -}}
{{- join "," $ports -}}
{{- end -}}

{{- /* The EPP's environment. A variable of `env` replaces the chart's of the same name. */ -}}
{{- define "epplib.env" -}}
{{- $given := dict -}}
{{- range .epp.env -}}{{- $_ := set $given .name true -}}{{- end -}}
{{- range concat (include "epplib.ownEnv" . | fromYamlArray) .epp.env }}
{{- if or (not (get $given .name)) (not (hasKey . "own")) }}
{{ list (omit . "own") | toYaml }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "epplib.ownEnv" -}}
- {own: true, name: NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
- {own: true, name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
{{- if ne .prediction.mode "none" }}
{{- if eq .prediction.mode "sidecars" }}
{{- $urls := list -}}
{{- range .prediction.ports -}}{{- $urls = append $urls (printf "http://localhost:%v" .) -}}{{- end }}
- {own: true, name: PREDICTION_SERVER_URL, value: {{ join "," $urls | quote }}}
- {own: true, name: TRAINING_SERVER_URL, value: "http://localhost:{{ .prediction.trainingServer.port }}"}
{{- range $name, $value := .prediction.eppEnv }}
- {own: true, name: {{ $name }}, value: {{ toString $value | quote }}}
{{- end }}
{{- end }}
{{- end }}
{{- if .tracing.enabled }}
- {own: true, name: OTEL_SERVICE_NAME, value: {{ eq .family "llm-d" | ternary "llm-d-router/epp" "gateway-api-inference-extension/epp" }}}
- {own: true, name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ .tracing.otelExporterEndpoint | quote }}}
- {own: true, name: OTEL_TRACES_EXPORTER, value: otlp}
- {own: true, name: OTEL_RESOURCE_ATTRIBUTES_NODE_NAME, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
- {own: true, name: OTEL_RESOURCE_ATTRIBUTES_POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
- {own: true, name: OTEL_RESOURCE_ATTRIBUTES, value: "k8s.namespace.name=$(NAMESPACE),k8s.node.name=$(OTEL_RESOURCE_ATTRIBUTES_NODE_NAME),k8s.pod.name=$(OTEL_RESOURCE_ATTRIBUTES_POD_NAME)"}
- {own: true, name: OTEL_TRACES_SAMPLER, value: {{ .tracing.sampling.sampler | quote }}}
- {own: true, name: OTEL_TRACES_SAMPLER_ARG, value: {{ toString .tracing.sampling.samplerArg | quote }}}
{{- end }}
{{- end -}}

{{- define "epplib.volumes" -}}
- name: plugins-config-volume
  configMap:
    name: {{ .epp.existingConfigMap | default .name }}
- name: tmp
  emptyDir: {}
{{- with .epp.volumes }}
{{ toYaml . }}
{{- end }}
{{- if .tokenizer.enabled }}
- name: model-cache
  emptyDir: {}
{{- with .tokenizer.volumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- if and .proxy.enabled (eq .proxy.mode "sidecar") }}
{{- with .proxy.volumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- if eq .prediction.mode "sidecars" }}
{{- include "epplib.predictionVolumes" . }}
{{- end }}
{{- end -}}

{{- /* Home and cache lie on a volume, because the pod does not run as root and images have theirs below /root. */ -}}
{{- define "epplib.tokenizerContainer" -}}
{{- $tokenizer := .tokenizer -}}
{{- $command := eq $tokenizer.flavor "rust" | ternary (list "vllm-rs" "render") (list "vllm" "launch" "render") -}}
- name: vllm-render
  image: {{ include "epplib.image" $tokenizer.image }}
  imagePullPolicy: {{ $tokenizer.image.pullPolicy }}
  command:
    {{- toYaml ($tokenizer.command | default $command) | nindent 4 }}
  args:
    {{- $args := $tokenizer.args | default (list $tokenizer.modelName (printf "--port=%v" $tokenizer.port)) }}
    {{- toYaml (concat $args $tokenizer.extraArgs) | nindent 4 }}
  env:
    - {name: HOME, value: /model-cache}
    - {name: USER, value: vllm}
    {{- with include "epplib.variables" $tokenizer.env | fromYamlArray }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  ports:
    - {name: render-http, containerPort: {{ $tokenizer.port }}}
  {{- with $tokenizer.readinessProbe }}
  readinessProbe:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $tokenizer.resources }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with omit .epp.securityContext "readOnlyRootFilesystem" }}
  securityContext:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  volumeMounts:
    - {name: model-cache, mountPath: /model-cache}
    {{- with $tokenizer.volumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}
