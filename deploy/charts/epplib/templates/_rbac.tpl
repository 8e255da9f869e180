{{- /* Who the EPP is, and what it may. Rights of the namespace only, but for asking who may read its metrics. Argument: the tree. */ -}}
{{- define "epplib.rbac" }}
---
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ .name }}
  namespace: {{ .namespace }}
  labels:
    {{- toYaml .labels | nindent 4 }}
  {{- with .epp.serviceAccountAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- include "epplib.role" (dict "tree" . "name" (printf "%s-sa" .name) "rules" (include "epplib.podRules" . | fromYamlArray)) }}
{{- if .pool.create }}
{{- include "epplib.role" (dict "tree" . "name" (printf "%s-non-sa" .name) "rules" (include "epplib.poolRules" . | fromYamlArray)) }}
{{- end }}
{{- if .epp.elects }}
{{- include "epplib.role" (dict "tree" . "name" (printf "%s-leader-election" .name) "binding" (printf "%s-leader-election-binding" .name) "rules" (include "epplib.leaseRules" . | fromYamlArray)) }}
{{- end }}
{{- if ne (get .epp.givenFlags "metrics-endpoint-auth" | default (toString .monitoring.prometheus.auth.enabled)) "false" }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: {{ .clusterName }}
  labels:
    {{- toYaml .labels | nindent 4 }}
rules:
  - {apiGroups: [authentication.k8s.io], resources: [tokenreviews], verbs: [create]}
  - {apiGroups: [authorization.k8s.io], resources: [subjectaccessreviews], verbs: [create]}
  {{- if .monitoring.prometheus.enabled }}
  # Prometheus reads the metrics with the token of the EPP's own account.
  - {nonResourceURLs: [/metrics], verbs: [get]}
  {{- end }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: {{ .clusterName }}
  labels:
    {{- toYaml .labels | nindent 4 }}
subjects:
  - {kind: ServiceAccount, name: {{ .name }}, namespace: {{ .namespace }}}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {{ .clusterName }}}
{{- end }}
{{- end -}}

{{- define "epplib.podRules" -}}
- {apiGroups: [""], resources: [pods], verbs: [list, watch]}
{{- end -}}

{{- define "epplib.poolRules" -}}
- {apiGroups: [inference.networking.k8s.io], resources: [inferencepools], verbs: [list, watch]}
- {apiGroups: [inference.networking.x-k8s.io, llm-d.ai], resources: [inferenceobjectives, inferencemodelrewrites], verbs: [list, watch]}
{{- end -}}

{{- define "epplib.leaseRules" -}}
- {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [get, create, update]}
{{- end -}}

{{- /* A Role and its binding to the EPP. */ -}}
{{- define "epplib.role" }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ .name }}
  namespace: {{ .tree.namespace }}
  labels:
    {{- toYaml .tree.labels | nindent 4 }}
rules:
  {{- toYaml .rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ .binding | default .name }}
  namespace: {{ .tree.namespace }}
  labels:
    {{- toYaml .tree.labels | nindent 4 }}
subjects:
  - {kind: ServiceAccount, name: {{ .tree.name }}, namespace: {{ .tree.namespace }}}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: {{ .name }}}
{{- end -}}
