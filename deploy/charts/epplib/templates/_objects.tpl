{{- /* Every object of a release. Argument: the chart's root. */ -}}
{{- define "epplib.objects" -}}
{{- $tree := include "epplib.tree" . | fromYaml -}}
{{- include "epplib.config" $tree }}
{{- include "epplib.proxyConfig" $tree }}
{{- include "epplib.rbac" $tree }}
{{- include "epplib.services" $tree }}
{{- include "epplib.deployments" $tree }}
{{- include "epplib.proxyService" $tree }}
{{- include "epplib.modelServersService" $tree }}
{{- include "epplib.scaling" $tree }}
{{- include "epplib.availability" $tree }}
{{- include "epplib.pool" $tree }}
{{- include "epplib.provider" $tree }}
{{- include "epplib.monitoring" $tree }}
{{- end -}}
