{{- /* The EPP's Service and ServiceAccount, what may be gone at once, and who may reach it. Argument: the tree. */ -}}

{{- define "epplib.services" -}}
{{- range .tiers }}
{{- include "epplib.service" (set $ "tier" .) }}
{{- end }}
{{- end -}}

{{- /* That of .tier. */ -}}
{{- define "epplib.service" }}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ .tier.name }}
  namespace: {{ .namespace }}
  labels:
    {{- toYaml .labels | nindent 4 }}
  {{- if eq .tier.preference "PREFERRED" }}
  annotations:
    # The network endpoint group that is attached to the load balancer by hand.
    cloud.google.com/neg: {{ printf "{\"exposed_ports\":{\"%v\":{}}}" .epp.extProcPort | squote }}
  {{- end }}
spec:
  type: ClusterIP
  selector:
    {{- toYaml .tier.selectorLabels | nindent 4 }}
  ports:
    - {name: grpc-ext-proc, protocol: TCP, port: {{ int .epp.extProcPort }}, targetPort: grpc}
    - {name: http-metrics, protocol: TCP, port: 9090, targetPort: metrics}
    {{- if eq .prediction.mode "sidecars" }}
    {{- if .prediction.trainingServer.enabled }}
    - {name: latency-training, protocol: TCP, port: {{ .prediction.trainingServer.port }}, targetPort: training-port}
    {{- end }}
    {{- range $i, $port := .prediction.ports }}
    - {name: latency-predict-{{ add $i 1 }}, protocol: TCP, port: {{ $port }}, targetPort: predict-port-{{ add $i 1 }}}
    {{- end }}
    {{- end }}
    {{- if not (and .proxy.enabled (eq .proxy.mode "service")) }}
    {{- with .epp.extraServicePorts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- end }}
{{- end -}}

{{- define "epplib.availability" -}}
{{- if .epp.podDisruptionBudget.enabled }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ .name }}
  namespace: {{ .namespace }}
  labels:
    {{- toYaml .labels | nindent 4 }}
spec:
  {{- if .epp.elects }}
  # Only the leader is ready, so any number above 0 would forbid to move it for ever. 0 forbids to evict a pod while none is ready.
  minAvailable: 0
  {{- else }}
  maxUnavailable: {{ .epp.podDisruptionBudget.maxUnavailable }}
  {{- end }}
  selector:
    {{- include "epplib.everyPicker" . | nindent 4 }}
{{- end }}
{{- if .epp.networkPolicy.enabled }}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ .name }}
  namespace: {{ .namespace }}
  labels:
    {{- toYaml .labels | nindent 4 }}
spec:
  podSelector:
    {{- include "epplib.everyPicker" . | nindent 4 }}
  policyTypes: [Ingress]
  ingress:
    - ports:
        - {port: grpc, protocol: TCP}
        - {port: grpc-health, protocol: TCP}
        {{- range .epp.extraServicePorts }}
        - {port: {{ .targetPort | default .port }}, protocol: {{ .protocol | default "TCP" }}}
        {{- end }}
      {{- with .epp.networkPolicy.from }}
      from:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    - ports:
        - {port: metrics, protocol: TCP}
      {{- with .epp.networkPolicy.metricsFrom }}
      from:
        {{- toYaml . | nindent 8 }}
      {{- end }}
{{- end }}
{{- end -}}

{{- /* A label selector of the pods of all tiers. */ -}}
{{- define "epplib.everyPicker" -}}
{{- if eq (len .tiers) 1 -}}
matchLabels:
  {{- toYaml .selectorLabels | nindent 2 }}
{{- else -}}
matchExpressions:
{{- range $key, $name := .selectorLabels }}
- {key: {{ $key }}, operator: In, values: [{{ $name }}, {{ $name }}-backup]}
{{- end }}
{{- end -}}
{{- end -}}
