{{- /* HorizontalPodAutoscalers, of the EPP and of a proxy that has a Deployment of its own. Argument: the tree. */ -}}
{{- define "epplib.scaling" -}}
{{- if .epp.autoscaling.enabled }}
{{- include "epplib.autoscaler" (dict "tree" . "name" .name "scaling" .epp.autoscaling) }}
{{- end }}
{{- if include "epplib.proxyScales" . }}
{{- include "epplib.autoscaler" (dict "tree" . "name" .proxyName "scaling" .proxy.autoscaling) }}
{{- end }}
{{- end -}}

{{- define "epplib.proxyScales" -}}
{{- if and .proxy.enabled (eq .proxy.mode "service") .proxy.autoscaling.enabled -}}true{{- end -}}
{{- end -}}

{{- define "epplib.autoscaler" }}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {{ .name }}
  namespace: {{ .tree.namespace }}
  labels:
    {{- toYaml .tree.labels | nindent 4 }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: Deployment
    name: {{ .name }}
  minReplicas: {{ int .scaling.minReplicas }}
  maxReplicas: {{ int .scaling.maxReplicas }}
  metrics:
    {{- if .scaling.metrics }}
    {{- toYaml .scaling.metrics | nindent 4 }}
    {{- else }}
    {{- range $resource, $percent := dict "cpu" .scaling.targetCPUUtilizationPercentage "memory" .scaling.targetMemoryUtilizationPercentage }}
    {{- if $percent }}
    - type: Resource
      resource:
        name: {{ $resource }}
        target: {type: Utilization, averageUtilization: {{ int $percent }}}
    {{- end }}
    {{- end }}
    {{- end }}
  {{- with .scaling.behavior }}
  behavior:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
