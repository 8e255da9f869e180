{{- /* The latency predictor's servers, beside the EPP. Argument: the tree. */ -}}

{{- define "epplib.predictionContainers" -}}
{{- $tree := . -}}
{{- $training := .prediction.trainingServer -}}
{{- $prediction := .prediction.predictionServers -}}
{{- if $training.enabled }}
- name: training-server
  {{- include "epplib.predictionImage" (dict "tree" . "server" $training "command" (list "epp-predictor" "train" "--port" (toString $training.port))) | nindent 2 }}
  ports:
    - {name: training-port, containerPort: {{ $training.port }}}
  envFrom:
    - configMapRef:
        name: {{ .name }}-latency-predictor-training
  env:
    - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: SERVER_TYPE, value: training}
  {{- include "epplib.predictionProbes" (dict "server" $training "port" $training.port) | nindent 2 }}
  volumeMounts:
    - {name: training-server-storage, mountPath: /models}
    - {name: tmp, mountPath: /tmp}
{{- end }}
{{- range $i, $port := .prediction.ports }}
- name: prediction-server-{{ add $i 1 }}
  {{- include "epplib.predictionImage" (dict "tree" $tree "server" $prediction "command" (list "epp-predictor" "serve")) | nindent 2 }}
  ports:
    - {name: predict-port-{{ add $i 1 }}, containerPort: {{ $port }}}
  envFrom:
    - configMapRef:
        name: {{ $tree.name }}-latency-predictor-prediction
  env:
    - {name: PREDICT_PORT, value: "{{ $port }}"}
    - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: SERVER_TYPE, value: prediction-{{ add $i 1 }}}
    - {name: TRAINING_SERVER_URL, value: "http://localhost:{{ $training.port }}"}
  {{- include "epplib.predictionProbes" (dict "server" $prediction "port" $port) | nindent 2 }}
  volumeMounts:
    - {name: prediction-server-{{ add $i 1 }}-storage, mountPath: /server_models}
    - {name: tmp, mountPath: /tmp}
{{- end }}
{{- end -}}

{{- /* An image of one's own runs its own command; without one it is the EPP's, which has both servers. */ -}}
{{- define "epplib.predictionImage" -}}
{{- $own := not (empty .server.image.repository) -}}
image: {{ include "epplib.image" ($own | ternary .server.image .tree.epp.image) }}
imagePullPolicy: {{ .server.image.pullPolicy | default .tree.epp.image.pullPolicy }}
{{- with .server.command | default ($own | ternary list .command) }}
command:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .server.args }}
args:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .server.securityContext | default .tree.epp.securityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .server.resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* Probes of a server's own port, whatever port they were written with. */ -}}
{{- define "epplib.predictionProbes" -}}
{{- $port := .port -}}
{{- range $kind := list "livenessProbe" "readinessProbe" }}
{{- with get $.server $kind }}
{{ $kind }}:
  {{- $probe := deepCopy . }}
  {{- if $probe.httpGet }}{{- $_ := set $probe.httpGet "port" $port }}{{- end }}
  {{- toYaml $probe | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "epplib.predictionVolumes" -}}
{{- $prediction := .prediction.predictionServers -}}
{{- $training := .prediction.trainingServer -}}
{{- if $training.enabled }}
- name: training-server-storage
  {{- if $training.persistence.enabled }}
  persistentVolumeClaim:
    claimName: {{ $training.persistence.claimName }}
  {{- else }}
  emptyDir:
    sizeLimit: {{ $training.volumeSize }}
  {{- end }}
{{- end }}
{{- range $i, $port := .prediction.ports }}
- name: prediction-server-{{ add $i 1 }}-storage
  emptyDir:
    sizeLimit: {{ $prediction.volumeSize }}
{{- end }}
{{- end -}}
