{{- /* The InferencePool, its objectives, a route to it, and what a gateway wants beside it. Argument: the tree. */ -}}

{{- define "epplib.pool" -}}
{{- if .pool.create }}
---
apiVersion: {{ .pool.apiVersion }}
kind: InferencePool
metadata:
  name: {{ .release }}
  namespace: {{ .namespace }}
  labels:
    {{- toYaml .labels | nindent 4 }}
spec:
  targetPorts:
    {{- range .servers.ports }}
    - number: {{ . }}
    {{- end }}
  appProtocol: {{ eq .servers.protocol "grpc" | ternary "kubernetes.io/h2c" "http" }}
  selector:
    matchLabels:
      {{- range $key, $value := .servers.matchLabels }}
      {{ $key }}: {{ toString $value | quote }}
      {{- end }}
  endpointPickerRef:
    # Of several groups of EPPs the last, which GKE attaches by itself; the preferred one stays attached when it does so again.
    name: {{ (last .tiers).name }}
    port:
      number: {{ int .epp.extProcPort }}
    failureMode: {{ eq .pool.failureMode "FailClosed" | ternary "FailClose" .pool.failureMode }}
{{- end }}
{{- range .objectives }}
---
apiVersion: {{ $.objectivesVersion }}
kind: InferenceObjective
metadata:
  name: {{ .name }}
  namespace: {{ $.namespace }}
  labels:
    {{- toYaml $.labels | nindent 4 }}
spec:
  priority: {{ int .priority }}
  poolRef:
    group: inference.networking.k8s.io
    name: {{ $.release }}
{{- end }}
{{- if .route.create }}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: {{ .release }}
  namespace: {{ .namespace }}
  labels:
    {{- toYaml .labels | nindent 4 }}
spec:
  parentRefs:
    - group: gateway.networking.k8s.io
      kind: Gateway
      name: {{ .route.inferenceGatewayName }}
      {{- with .route.inferenceGatewayNamespace }}
      namespace: {{ . }}
      {{- end }}
  rules:
    - matches:
        - path: {type: PathPrefix, value: /}
      backendRefs:
        - group: inference.networking.k8s.io
          kind: InferencePool
          name: {{ .release }}
      {{- if ne .provider.name "gke" }}
      timeouts:
        request: {{ .route.requestTimeout }}
      {{- end }}
{{- end }}
{{- end -}}

{{- define "epplib.provider" -}}
{{- if and (eq .provider.name "istio") .pool.create }}
{{- $rule := .provider.istio.destinationRule }}
{{- $policy := dict "tls" (dict "mode" "SIMPLE" "insecureSkipVerify" true) }}
{{- include "epplib.merge" (dict "into" $policy "from" $rule.trafficPolicy) }}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata:
  name: {{ .name }}
  namespace: {{ .namespace }}
  labels:
    {{- toYaml .labels | nindent 4 }}
spec:
  host: {{ $rule.host | default (printf "%s.%s.svc.%s" .name .namespace .epp.clusterDomain) }}
  trafficPolicy:
    {{- toYaml $policy | nindent 4 }}
{{- end }}
{{- if and (eq .provider.name "gke") .pool.create }}
---
apiVersion: networking.gke.io/v1
kind: HealthCheckPolicy
metadata:
  name: {{ .release }}
  namespace: {{ .namespace }}
  labels:
    {{- toYaml .labels | nindent 4 }}
spec:
  targetRef:
    group: inference.networking.k8s.io
    kind: InferencePool
    name: {{ .release }}
  default:
    checkIntervalSec: 2
    timeoutSec: 2
    config:
      type: HTTP
      httpHealthCheck:
        requestPath: /health
        port: {{ first .servers.ports }}
---
apiVersion: networking.gke.io/v1
kind: GCPBackendPolicy
metadata:
  name: {{ .release }}
  namespace: {{ .namespace }}
  labels:
    {{- toYaml .labels | nindent 4 }}
spec:
  targetRef:
    group: inference.networking.k8s.io
    kind: InferencePool
    name: {{ .release }}
  default:
    timeoutSec: 300
    logging:
      enabled: true
{{- range .tiers }}
{{- if .preference }}
---
apiVersion: networking.gke.io/v1
kind: GCPBackendPolicy
metadata:
  name: {{ .name }}
  namespace: {{ $.namespace }}
  labels:
    {{- toYaml $.labels | nindent 4 }}
spec:
  targetRef:
    group: ""
    kind: Service
    name: {{ .name }}
  default:
    backendPreference: {{ .preference }}
    {{- with $.provider.gke.preferredBackends }}
    balancingMode: {{ .balancingMode }}
    {{- if eq .balancingMode "RATE" }}
    maxRatePerEndpoint: {{ int .maxRatePerEndpoint }}
    {{- end }}
    capacityScalerPercent: {{ int .capacityScalerPercent }}
    {{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}
