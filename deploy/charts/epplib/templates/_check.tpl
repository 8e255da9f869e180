{{- /* What the schema cannot tell: values that need each other. Argument: the tree. */ -}}
{{- define "epplib.check" -}}
{{- $epp := .epp -}}
{{- $llmd := eq .family "llm-d" -}}
{{- if .pool.create -}}
  {{- if not .servers.matchLabels -}}
    {{- fail (printf "%s: the labels of the model servers' pods are needed" ($llmd | ternary "router.modelServers.matchLabels" "inferencePool.modelServers.matchLabels")) -}}
  {{- end -}}
{{- else -}}
  {{- if not .servers.selector -}}
    {{- fail (printf "%s: the labels of the model servers' pods are needed where there is no InferencePool" ($llmd | ternary "router.modelServers.matchLabels" "inferenceExtension.endpointsServer.endpointSelector")) -}}
  {{- end -}}
  {{- if .objectives -}}{{- fail "inferenceObjectives: they belong to an InferencePool, and none is created" -}}{{- end -}}
  {{- if .route.create -}}{{- fail "experimentalHttpRoute: it leads to an InferencePool, and none is created" -}}{{- end -}}
{{- end -}}
{{- if or (lt (len .servers.ports) 1) (gt (len .servers.ports) 8) -}}
  {{- fail (printf "targetPorts: 1 to 8 are possible, not %d" (len .servers.ports)) -}}
{{- end -}}
{{- range .servers.ports -}}
  {{- if or (lt . 1) (gt . 65535) -}}{{- fail (printf "targetPorts: %d is not in 1..65535" .) -}}{{- end -}}
{{- end -}}
{{- if and .tokenizer.enabled (not .tokenizer.modelName) -}}{{- fail "tokenizer.modelName: name the model whose tokenizer is wanted" -}}{{- end -}}
{{- if and .proxy.enabled (eq .proxy.proxyType "agentgateway") .pool.create -}}
  {{- fail "proxyType agentgateway: it routes without an InferencePool; set inferenceExtension.endpointsServer.createInferencePool or router.inferencePool.create to false" -}}
{{- end -}}
{{- if and (include "epplib.modelServers" .) (not (regexMatch "^([A-Za-z0-9._/-]+ *==? *[A-Za-z0-9._-]*,? *)+$" .servers.selector)) -}}
  {{- fail (printf "failOpen: a Service selects by equal labels, and endpointSelector is %q; set failOpen to false" .servers.selector) -}}
{{- end -}}
{{- if and (hasKey $epp.pluginsCustomConfig $epp.pluginsConfigFile) $epp.pluginsConfig -}}
  {{- fail (printf "pluginsConfig and pluginsCustomConfig: both give %s" $epp.pluginsConfigFile) -}}
{{- end -}}
{{- if not $epp.existingConfigMap -}}
  {{- $files := keys (include "epplib.configFiles" . | fromYaml) | sortAlpha -}}
  {{- if not (has $epp.pluginsConfigFile $files) -}}
    {{- fail (printf "pluginsConfigFile: there is no %s, only %s; pluginsCustomConfig gives more files" $epp.pluginsConfigFile (join ", " $files)) -}}
  {{- end -}}
{{- end -}}
{{- range $path, $scaling := dict "autoscaling" $epp.autoscaling "proxy autoscaling" (.proxy.autoscaling | default dict) -}}
  {{- if and $scaling.enabled (lt (int $scaling.maxReplicas) (int $scaling.minReplicas)) -}}
    {{- fail (printf "%s: maxReplicas is %d, less than minReplicas, %d" $path (int $scaling.maxReplicas) (int $scaling.minReplicas)) -}}
  {{- end -}}
{{- end -}}
{{- if or $epp.autoscaling.enabled $epp.prefers -}}
  {{- $what := $epp.autoscaling.enabled | ternary "autoscaling" "preferredBackends" -}}
  {{- if and (has (get $epp.givenFlags "ha-enable-leader-election") (list "true" "1")) (ne (get $epp.givenFlags "replicas-serve") "all") -}}
    {{- fail (printf "%s: every pod has to serve, and those that wait to lead never do; take ha-enable-leader-election out of flags" $what) -}}
  {{- end -}}
  {{- if and $epp.autoscaling.enabled $epp.prefers -}}
    {{- fail "autoscaling: the groups of preferredBackends have sizes of their own" -}}
  {{- end -}}
{{- end -}}
{{- $taken := dict (toString $epp.port) "ext_proc" (toString $epp.healthPort) "health checks" (toString $epp.metricsPort) "the metrics" -}}
{{- if .tokenizer.enabled -}}{{- $_ := set $taken (toString .tokenizer.port) "tokenizer.port" -}}{{- end -}}
{{- if eq .prediction.mode "sidecars" -}}
  {{- $servers := list -}}
  {{- if .prediction.trainingServer.enabled -}}{{- $servers = append $servers .prediction.trainingServer.port -}}{{- end -}}
  {{- range concat $servers .prediction.ports -}}
    {{- if hasKey $taken (toString .) -}}
      {{- fail (printf "latencyPredictor: port %v is that of %s, too; the containers of a pod share their ports" . (get $taken (toString .))) -}}
    {{- end -}}
    {{- $_ := set $taken (toString .) "another server" -}}
  {{- end -}}
{{- end -}}
{{- end -}}
