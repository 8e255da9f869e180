{{- /* The proxy in front of the EPP, where there is no gateway: in its pod, or with a Deployment and a Service. Argument: the tree. */ -}}

{{- /* The proxy's values: the chart's for the proxyType, below presets, below what is set. */ -}}
{{- define "epplib.settleProxy" -}}
{{- $proxy := .proxy -}}
{{- $port := 8081 -}}
{{- range .epp.extraServicePorts -}}{{- if eq .name "http" -}}{{- $port = int (.targetPort | default .port) -}}{{- end -}}{{- end -}}
{{- $settled := include (printf "epplib.%s" $proxy.proxyType) (dict "tree" . "port" $port) | fromYaml -}}
{{- include "epplib.merge" (dict "into" $settled "from" (get $proxy.presets $proxy.proxyType | default dict)) -}}
{{- range $key, $value := omit $proxy "presets" "configMap" -}}
  {{- if or (not (empty $value)) (not (hasKey $settled $key)) -}}{{- $_ := set $settled $key $value -}}{{- end -}}
{{- end -}}
{{- range $key, $value := $proxy.configMap -}}
  {{- if $value -}}{{- $_ := set $settled.configMap $key $value -}}{{- end -}}
{{- end -}}
{{- $_ := set $settled "port" $port -}}
{{- if kindIs "invalid" $settled.failOpen -}}{{- $_ := set $settled "failOpen" (eq .family "llm-d") -}}{{- end -}}
{{- $_ := set . "proxy" $settled -}}
{{- end -}}

{{- define "epplib.envoy" -}}
name: {{ eq .tree.family "llm-d" | ternary "envoy-proxy" "envoy-sidecar" }}
image: docker.io/envoyproxy/envoy:distroless-v1.36.4
command: envoy
args:
- --service-node
- {{ eq .tree.family "llm-d" | ternary "envoy-proxy" "envoy-sidecar" }}
- --log-level
- warn
- --cpuset-threads
- --drain-strategy
- immediate
- --drain-time-s
- "60"
- -c
- /etc/envoy/envoy.yaml
ports:
- {containerPort: {{ .port }}, name: http-{{ .port }}}
- {containerPort: 19001, name: metrics-19001}
readinessProbe:
  httpGet: {path: /ready, port: 19001, scheme: HTTP}
  periodSeconds: 5
  failureThreshold: 1
volumeMounts:
- {name: config, mountPath: /etc/envoy, readOnly: true}
volumes:
- name: config
  configMap:
    name: {{ .tree.proxy.configMap.name | default "envoy" }}
    items:
    - {key: envoy.yaml, path: envoy.yaml}
configMap: {name: envoy}
{{- end -}}

{{- define "epplib.agentgateway" -}}
name: agentgateway-proxy
image: cr.agentgateway.dev/agentgateway:latest-dev
args: [-f, /config/config.yaml]
ports:
- {containerPort: {{ .port }}, name: http}
- {containerPort: 15020, name: metrics-15020}
- {containerPort: 15021, name: readiness-15021}
readinessProbe:
  httpGet: {path: /healthz/ready, port: 15021, scheme: HTTP}
  periodSeconds: 5
  failureThreshold: 1
startupProbe:
  httpGet: {path: /healthz/ready, port: 15021, scheme: HTTP}
  periodSeconds: 1
  timeoutSeconds: 2
  failureThreshold: 60
volumeMounts:
- {name: agentgateway-config-template, mountPath: /config, readOnly: true}
volumes:
- name: agentgateway-config-template
  configMap:
    name: {{ .tree.proxy.configMap.name | default "agentgateway" }}
    items:
    - {key: config.yaml, path: config.yaml}
configMap: {name: agentgateway}
{{- end -}}

{{- define "epplib.proxyConfig" -}}
{{- if .proxy.enabled }}
{{- $data := deepCopy (.proxy.configMap.data | default dict) }}
{{- if and (eq .proxy.proxyType "envoy") (not (hasKey $data "envoy.yaml")) }}
{{- $_ := set $data "envoy.yaml" (include "epplib.envoyConfig" .) }}
{{- end }}
{{- if and (eq .proxy.proxyType "agentgateway") (not (hasKey $data "config.yaml")) }}
{{- $_ := set $data "config.yaml" (include "epplib.agentgatewayConfig" .) }}
{{- end }}
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ .proxy.configMap.name }}
  namespace: {{ .namespace }}
  labels:
    {{- toYaml .labels | nindent 4 }}
data:
  {{- toYaml $data | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "epplib.proxyContainer" -}}
{{- $proxy := .proxy -}}
- name: {{ $proxy.name }}
  image: {{ $proxy.image }}
  imagePullPolicy: {{ $proxy.imagePullPolicy }}
  {{- with $proxy.command }}
  command:
    {{- toYaml (kindIs "slice" . | ternary . (list .)) | nindent 4 }}
  {{- end }}
  {{- range $key := list "args" "env" "ports" "livenessProbe" "readinessProbe" "startupProbe" "resources" "volumeMounts" }}
  {{- with get $proxy $key }}
  {{ $key }}:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
  {{- with $proxy.securityContext | default .epp.securityContext }}
  securityContext:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{- define "epplib.proxyService" -}}
{{- if and .proxy.enabled (eq .proxy.mode "service") }}
{{- $labels := dict "llm-d-router-proxy" .proxyName }}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ .proxyName }}
  namespace: {{ .namespace }}
  labels:
    {{- toYaml (merge dict .labels $labels) | nindent 4 }}
spec:
  {{- if not (include "epplib.proxyScales" .) }}
  replicas: {{ int .proxy.replicas }}
  {{- end }}
  selector:
    matchLabels:
      {{- toYaml $labels | nindent 6 }}
  template:
    metadata:
      labels:
        {{- toYaml $labels | nindent 8 }}
      annotations:
        # Envoy reads its configuration once.
        checksum/config: {{ include "epplib.proxyConfig" . | sha256sum }}
    spec:
      automountServiceAccountToken: false
      {{- with .epp.imagePullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .epp.podSecurityContext }}
      securityContext:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      terminationGracePeriodSeconds: 70
      containers:
        {{- include "epplib.proxyContainer" . | nindent 8 }}
      {{- with .proxy.volumes }}
      volumes:
        {{- toYaml . | nindent 8 }}
      {{- end }}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ .proxyName }}
  namespace: {{ .namespace }}
  labels:
    {{- toYaml (merge dict .labels $labels) | nindent 4 }}
spec:
  type: ClusterIP
  selector:
    {{- toYaml $labels | nindent 4 }}
  ports:
    {{- toYaml .epp.extraServicePorts | nindent 4 }}
{{- end }}
{{- end -}}

{{- /* All model servers that are ready, by one name: where requests go that no EPP was asked about. */ -}}
{{- define "epplib.modelServersService" -}}
{{- with include "epplib.modelServers" . }}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ . }}
  namespace: {{ $.namespace }}
  labels:
    {{- toYaml $.labels | nindent 4 }}
spec:
  clusterIP: None
  selector:
    {{- range splitList "," $.servers.selector }}
    {{ trim (splitn "=" 2 .)._0 }}: {{ trim (trimPrefix "=" (splitn "=" 2 .)._1) | quote }}
    {{- end }}
  ports:
    {{- range $.servers.ports }}
    - {name: port-{{ . }}, protocol: TCP, port: {{ . }}, targetPort: {{ . }}}
    {{- end }}
{{- end }}
{{- end -}}
