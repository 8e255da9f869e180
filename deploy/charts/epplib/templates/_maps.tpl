{{- /* Helpers over nested maps. Maps are passed by reference: what a helper sets, its caller sees. */ -}}

{{- /* Sets .box.value to what stands at the dotted .path of .from; leaves .box alone where nothing does. */ -}}
{{- define "epplib.at" -}}
{{- $here := .from -}}
{{- $found := true -}}
{{- range splitList "." .path -}}
  {{- if and $found (kindIs "map" $here) (hasKey $here .) -}}
    {{- $here = index $here . -}}
  {{- else -}}
    {{- $found = false -}}
  {{- end -}}
{{- end -}}
{{- if and $found (not (kindIs "invalid" $here)) -}}
  {{- $_ := set .box "value" $here -}}
{{- end -}}
{{- end -}}

{{- /* Puts .value at the dotted .path of .into; a map is merged into one that stands there. */ -}}
{{- define "epplib.put" -}}
{{- $keys := splitList "." .path -}}
{{- $here := .into -}}
{{- range initial $keys -}}
  {{- if not (kindIs "map" (get $here .)) -}}{{- $_ := set $here . dict -}}{{- end -}}
  {{- $here = index $here . -}}
{{- end -}}
{{- if and (kindIs "map" .value) (kindIs "map" (get $here (last $keys))) -}}
  {{- include "epplib.merge" (dict "into" (index $here (last $keys)) "from" .value) -}}
{{- else -}}
  {{- $_ := set $here (last $keys) (deepCopy .value) -}}
{{- end -}}
{{- end -}}

{{- /* Merges .from into .into. Unlike mergeOverwrite it takes false, 0 and "" for values; null is none. */ -}}
{{- define "epplib.merge" -}}
{{- $into := .into -}}
{{- range $key, $value := .from -}}
  {{- if not (kindIs "invalid" $value) -}}
    {{- if and (kindIs "map" $value) (kindIs "map" (get $into $key)) -}}
      {{- include "epplib.merge" (dict "into" (index $into $key) "from" $value) -}}
    {{- else -}}
      {{- $_ := set $into $key (deepCopy $value) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end -}}
