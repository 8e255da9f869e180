{{- /* Configurations of the proxies. Envoy's is what `epp envoy-config --response-bodies all --probes 0.0.0.0:19001` writes, and
with failOpen, what it writes for `--failure-mode open --upstream override_host --endpoint-dns` and the Service of the servers. */ -}}

{{- define "epplib.eppHost" -}}
{{- eq .proxy.mode "service" | ternary (printf "%s.%s.svc.%s" .name .namespace .epp.clusterDomain) "127.0.0.1" -}}
{{- end -}}

{{- /* The Service by whose name Envoy finds every model server. Empty where it needs none. */ -}}
{{- define "epplib.modelServers" -}}
{{- if and .proxy.enabled (eq .proxy.proxyType "envoy") .proxy.failOpen -}}{{ .base }}-model-servers{{- end -}}
{{- end -}}

{{- define "epplib.envoyConfig" -}}
{{- $host := include "epplib.eppHost" . -}}
{{- $port := eq .proxy.mode "service" | ternary (int .epp.extProcPort) (int .epp.port) -}}
{{- $tls := ne (get .epp.givenFlags "secure-serving") "false" -}}
{{- $type := "type.googleapis.com/envoy.extensions" -}}
{{- $servers := include "epplib.modelServers" . -}}
admin:
  address:
    socket_address: {address: 127.0.0.1, port_value: 19000}
layered_runtime:
  layers:
  - name: admin
    admin_layer: {}
static_resources:
  listeners:
  - name: probes
    address:
      socket_address: {address: 0.0.0.0, port_value: 19001}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          '@type': {{ $type }}.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: probes
          route_config:
            name: probes
            virtual_hosts:
            - name: probes
              domains: ['*']
              routes:
              - match: {path: /ready}
                route: {cluster: admin}
              - match: {path: /stats/prometheus}
                route: {cluster: admin}
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              '@type': {{ $type }}.filters.http.router.v3.Router
  - name: traffic
    address:
      socket_address: {address: 0.0.0.0, port_value: {{ int .proxy.port }}}
    per_connection_buffer_limit_bytes: 8388608
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          '@type': {{ $type }}.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: traffic
          codec_type: AUTO
          use_remote_address: true
          preserve_external_request_id: true
          request_id_extension:
            typed_config:
              '@type': {{ $type }}.request_id.uuid.v3.UuidRequestIdConfig
              pack_trace_reason: false
          normalize_path: true
          merge_slashes: true
          server_header_transformation: PASS_THROUGH
          http_protocol_options: {enable_trailers: true}
          stream_idle_timeout: 0s
          request_timeout: 0s
          route_config:
            name: all
            virtual_hosts:
            - name: all
              domains: ['*']
              routes:
              - match: {prefix: /}
                route: {cluster: model_servers, timeout: 86400s, idle_timeout: 86400s}
          http_filters:
          - name: envoy.filters.http.ext_proc
            typed_config:
              '@type': {{ $type }}.filters.http.ext_proc.v3.ExternalProcessor
              grpc_service:
                envoy_grpc: {cluster_name: epp, authority: '{{ $host }}:{{ $port }}'}
              processing_mode:
                request_header_mode: SEND
                request_body_mode: {{ empty $servers | not | ternary "BUFFERED" "FULL_DUPLEX_STREAMED" }}
                request_trailer_mode: SEND
                response_header_mode: SEND
                response_body_mode: {{ empty $servers | not | ternary "STREAMED" "FULL_DUPLEX_STREAMED" }}
                response_trailer_mode: SEND
              message_timeout: 1000s
              failure_mode_allow: {{ not (empty $servers) }}
              allow_mode_override: false
              metadata_options:
                forwarding_namespaces:
                  untyped: [envoy.lb, envoy.lb.subset_hint]
                receiving_namespaces:
                  untyped: [envoy.lb]
          - name: envoy.filters.http.router
            typed_config:
              '@type': {{ $type }}.filters.http.router.v3.Router
  clusters:
  - name: admin
    type: STATIC
    connect_timeout: 1s
    load_assignment:
      cluster_name: admin
      endpoints:
      - lb_endpoints:
        - endpoint:
            address:
              socket_address: {address: 127.0.0.1, port_value: 19000}
  - name: epp
    type: {{ eq .proxy.mode "service" | ternary "STRICT_DNS" "STATIC" }}
    lb_policy: LEAST_REQUEST
    connect_timeout: 5s
    per_connection_buffer_limit_bytes: 8388608
    {{- include "epplib.breakers" . | nindent 4 }}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        '@type': {{ $type }}.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config:
          http2_protocol_options:
            max_concurrent_streams: 4096
            connection_keepalive: {interval: 10s, timeout: 10s}
    load_assignment:
      cluster_name: epp
      endpoints:
      - lb_endpoints:
        - endpoint:
            address:
              socket_address: {address: {{ $host }}, port_value: {{ $port }}}
    {{- if $tls }}
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        '@type': {{ $type }}.transport_sockets.tls.v3.UpstreamTlsContext
        common_tls_context:
          alpn_protocols: [h2]
          validation_context: {}
    {{- end }}
  - name: model_servers
    connect_timeout: 5s
    per_connection_buffer_limit_bytes: 8388608
    {{- include "epplib.breakers" . | nindent 4 }}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        '@type': {{ $type }}.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config:
          {{- if eq .servers.protocol "grpc" }}
          http2_protocol_options: {}
          {{- else }}
          http_protocol_options: {enable_trailers: true}
          {{- end }}
    {{- if $servers }}
    type: STRICT_DNS
    dns_lookup_family: V4_PREFERRED
    load_assignment:
      cluster_name: model_servers
      endpoints:
      - lb_endpoints:
        {{- range .servers.ports }}
        - endpoint:
            address:
              socket_address: {address: {{ printf "%s.%s.svc.%s" $servers $.namespace $.epp.clusterDomain }}, port_value: {{ . }}}
        {{- end }}
    load_balancing_policy:
      policies:
      - typed_extension_config:
          name: envoy.load_balancing_policies.override_host
          typed_config:
            '@type': {{ $type }}.load_balancing_policies.override_host.v3.OverrideHost
            override_host_sources:
            - header: x-gateway-destination-endpoint
            - metadata: {key: envoy.lb, path: [{key: x-gateway-destination-endpoint}]}
            selected_host_key: {key: envoy.lb, path: [{key: x-gateway-destination-endpoint-served}]}
            fallback_policy:
              policies:
              - typed_extension_config:
                  name: envoy.load_balancing_policies.round_robin
                  typed_config:
                    '@type': {{ $type }}.load_balancing_policies.round_robin.v3.RoundRobin
    {{- else }}
    type: ORIGINAL_DST
    lb_policy: CLUSTER_PROVIDED
    original_dst_lb_config: {use_http_header: true, http_header_name: x-gateway-destination-endpoint}
    {{- end }}
{{- end -}}

{{- define "epplib.breakers" -}}
circuit_breakers:
  thresholds:
  - {max_connections: 40000, max_pending_requests: 40000, max_requests: 40000, max_retries: 40000}
{{- end -}}

{{- define "epplib.agentgatewayConfig" -}}
{{- $backend := get (.servers.matchLabels | default dict) "app" | default .release -}}
config:
  statsAddr: 0.0.0.0:15020
  readinessAddr: 0.0.0.0:15021
binds:
- port: {{ int .proxy.port }}
  listeners:
  - name: default
    protocol: HTTP
    routes:
    - name: all
      matches:
      - path: {pathPrefix: /}
      backends:
      - service:
          name: {{ .namespace }}/{{ $backend }}
          port: {{ first .servers.ports }}
        policies:
          inferenceRouting:
            endpointPicker:
              host: {{ include "epplib.eppHost" . }}:{{ eq .proxy.mode "service" | ternary (int .epp.extProcPort) (int .epp.port) }}
            destinationMode: passthrough
services:
- name: {{ $backend }}
  namespace: {{ .namespace }}
  hostname: {{ $backend }}
  vips: []
  ports:
    {{- range .servers.ports }}
    {{ . }}: {{ . }}
    {{- end }}
{{- end -}}
