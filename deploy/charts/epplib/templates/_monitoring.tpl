{{- /* Who reads the EPP's metrics: Prometheus by its operator, or Google's managed one. Argument: the tree. */ -}}
{{- define "epplib.monitoring" -}}
{{- if .monitoring.prometheus.enabled }}
{{- if eq .monitoring.provider.name "gmp" }}
{{- include "epplib.podMonitoring" . }}
{{- else }}
{{- include "epplib.serviceMonitor" . }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "epplib.serviceMonitor" -}}
{{- $auth := .monitoring.prometheus.auth }}
---
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata:
  name: {{ .name }}-monitor
  namespace: {{ .namespace }}
  labels:
    {{- toYaml (merge dict .monitoring.prometheus.extraLabels .labels) | nindent 4 }}
spec:
  jobLabel: {{ .name }}
  namespaceSelector:
    matchNames: [{{ .namespace }}]
  selector:
    matchLabels:
      {{- toYaml .labels | nindent 6 }}
  endpoints:
    - port: http-metrics
      path: /metrics
      interval: {{ .monitoring.interval }}
      {{- if $auth.enabled }}
      authorization:
        credentials:
          name: {{ $auth.secretName }}
          key: token
      {{- end }}
{{- if $auth.enabled }}
{{- include "epplib.tokenSecret" (dict "tree" . "name" $auth.secretName "account" .name) }}
{{- end }}
{{- end -}}

{{- define "epplib.tokenSecret" }}
---
apiVersion: v1
kind: Secret
type: kubernetes.io/service-account-token
metadata:
  name: {{ .name }}
  namespace: {{ .tree.namespace }}
  labels:
    {{- toYaml .tree.labels | nindent 4 }}
  annotations:
    kubernetes.io/service-account.name: {{ .account }}
{{- end -}}

{{- /* An account of its own may read the metrics, and Google's collector may read that account's token. */ -}}
{{- define "epplib.podMonitoring" -}}
{{- $auth := .monitoring.prometheus.auth.enabled }}
{{- $collector := .monitoring.provider.gmp.autopilot | ternary "gke-gmp-system" "gmp-system" }}
{{- $account := printf "%s-metrics-reader-sa" .release }}
{{- $secret := printf "%s-metrics-reader-secret" .release }}
{{- $clusterRole := printf "%s-%s-metrics-reader" .namespace .release }}
---
apiVersion: monitoring.googleapis.com/v1
kind: PodMonitoring
metadata:
  name: {{ .release }}
  namespace: {{ .namespace }}
  labels:
    {{- toYaml .labels | nindent 4 }}
spec:
  selector:
    {{- include "epplib.everyPicker" . | nindent 4 }}
  endpoints:
    - port: metrics
      scheme: http
      path: /metrics
      interval: {{ .monitoring.interval }}
      {{- if $auth }}
      authorization:
        type: Bearer
        credentials:
          secret: {name: {{ $secret }}, key: token}
      {{- end }}
{{- if $auth }}
---
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ $account }}
  namespace: {{ .namespace }}
  labels:
    {{- toYaml .labels | nindent 4 }}
{{- include "epplib.tokenSecret" (dict "tree" . "name" $secret "account" $account) }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: {{ $clusterRole }}
  labels:
    {{- toYaml .labels | nindent 4 }}
rules:
  - {nonResourceURLs: [/metrics], verbs: [get]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: {{ $clusterRole }}-role-binding
  labels:
    {{- toYaml .labels | nindent 4 }}
subjects:
  - {kind: ServiceAccount, name: {{ $account }}, namespace: {{ .namespace }}}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {{ $clusterRole }}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ $secret }}-read
  namespace: {{ .namespace }}
  labels:
    {{- toYaml .labels | nindent 4 }}
rules:
  - {apiGroups: [""], resources: [secrets], resourceNames: [{{ $secret }}], verbs: [get, list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ printf "%s:collector:%s-%s-metrics-reader-secret-read" $collector .namespace .release | quote }}
  namespace: {{ .namespace }}
  labels:
    {{- toYaml .labels | nindent 4 }}
subjects:
  - {kind: ServiceAccount, name: collector, namespace: {{ $collector }}}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: {{ $secret }}-read}
{{- end }}
{{- end -}}
