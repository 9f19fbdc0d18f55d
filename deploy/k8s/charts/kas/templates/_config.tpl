{{/* The kas file. */}}
{{- define "kas.config" -}}
{{- $custom := deepCopy .Values.customConfig -}}
{{- mergeOverwrite (include "kas.ownConfig" . | fromYaml) $custom | toYaml -}}
{{- end -}}

{{- define "kas.ownConfig" -}}
{{- $v := .Values -}}
{{- if $v.standalone.secretName }}
standalone: {file: /etc/kas/control-plane/{{ $v.standalone.key }}}
{{- else }}
gitlab:
  address: {{ $v.gitlab.address | quote }}
  {{- with $v.gitlab.externalUrl }}
  external_url: {{ . | quote }}
  {{- end }}
  authentication_secret_file: /etc/kas/gitlab/{{ $v.gitlab.authSecret.key }}
  {{- if $v.gitlab.caSecretName }}
  ca_certificate_file: /etc/kas/gitlab-ca/ca.crt
  {{- end }}
api:
  listen:
    address: ":{{ $v.service.apiInternalPort }}"
    authentication_secret_file: /etc/kas/api/{{ $v.api.key }}
    {{- include "kas.pair" (dict "tls" $v.api.tls "folder" "api-tls") | nindent 4 }}
{{- end }}
agent:
  listen:
    address: ":{{ $v.service.internalPort }}"
    websocket: true
    listen_grace_period: {{ $v.drain.listenGracePeriodSeconds }}s
    drain_connections_per_second: {{ $v.drain.connectionsPerSecond }}
    proxy_protocol: {{ $v.proxyProtocol }}
    {{- include "kas.pair" (dict "tls" $v.tls "folder" "tls") | nindent 4 }}
  kubernetes_api:
    url_path_prefix: {{ include "kas.k8sApiPath" . | quote }}
    listen:
      address: ":{{ $v.service.kubernetesApiPort }}"
      listen_grace_period: {{ $v.drain.listenGracePeriodSeconds }}s
      shutdown_grace_period: {{ $v.drain.shutdownGracePeriodSeconds }}s
      {{- include "kas.pair" (dict "tls" $v.tls "folder" "tls") | nindent 6 }}
  {{- if $v.events.enabled }}
  events:
    log: {{ $v.events.log }}
    presence: {{ $v.events.presence }}
    webhooks:
    {{- range $number, $webhook := $v.events.webhooks }}
    - {url: {{ $webhook.url | quote }}, secret_file: /etc/kas/webhook-{{ $number }}/{{ $webhook.key | default "webhook" }}}
    {{- else }} []
    {{- end }}
  {{- end }}
observability:
  listen: {address: ":{{ $v.observability.port }}"}
  liveness_probe: {url_path: {{ $v.observability.livenessProbe.path | quote }}}
  readiness_probe: {url_path: {{ $v.observability.readinessProbe.path | quote }}}
  prometheus: {url_path: {{ $v.metrics.path | quote }}}
  logging: {level: {{ $v.logging.level }}}
admin:
  enabled: {{ $v.admin.enabled }}
  listen:
    {{- if $v.admin.tls.enabled }}
    address: ":{{ $v.admin.port }}"
    {{- include "kas.pair" (dict "tls" $v.admin.tls "folder" "admin-tls") | nindent 4 }}
    {{- if $v.admin.tls.clientAuth }}
    client_ca_certificate_file: /etc/kas/admin-tls/ca.crt
    {{- end }}
    {{- else }}
    address: "127.0.0.1:{{ $v.admin.port }}"
    {{- end }}
    {{- if $v.admin.tokens.secret }}
    tokens_file: /etc/kas/admin-tokens/{{ $v.admin.tokens.key }}
    {{- end }}
{{- if include "kas.hasRedis" . }}
private_api:
  listen:
    address: ":{{ $v.service.privateApiPort }}"
    authentication_secret_file: /etc/kas/private-api/{{ $v.privateApi.key }}
    {{- include "kas.pair" (dict "tls" $v.privateApi.tls "folder" "private-api-tls") | nindent 4 }}
    {{- if $v.privateApi.tls.enabled }}
    ca_certificate_file: /etc/kas/private-api-tls/ca.crt
    {{- if $v.privateApi.tls.clientAuth }}
    client_ca_certificate_file: /etc/kas/private-api-tls/ca.crt
    {{- end }}
    {{- end }}
redis:
  {{- include "kas.redis" . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "kas.pair" -}}
{{- if .tls.enabled -}}
certificate_file: /etc/kas/{{ .folder }}/tls.crt
key_file: /etc/kas/{{ .folder }}/tls.key
{{- end -}}
{{- end -}}

{{- define "kas.redis" -}}
{{- $r := .Values.redis -}}
{{- if $r.install }}
server: {address: "{{ include "kas.fullname" . }}-redis:6379"}
{{- else if $r.cluster.addresses }}
cluster: {addresses: {{ toJson $r.cluster.addresses }}}
{{- else if $r.sentinels }}
sentinel:
  master_name: {{ $r.host | quote }}
  addresses:
  {{- range $r.sentinels }}
  - "{{ .host }}:{{ .port | default 26379 }}"
  {{- end }}
  {{- if $r.sentinelAuth.enabled }}
  sentinel_password_file: /etc/kas/sentinel/{{ $r.sentinelAuth.key }}
  {{- end }}
{{- else }}
server: {address: "{{ $r.host }}:{{ $r.port }}"}
{{- end }}
key_prefix: {{ $r.keyPrefix | quote }}
database_index: {{ $r.database }}
{{- with $r.user }}
username: {{ . | quote }}
{{- end }}
{{- if include "kas.redisHasPassword" . }}
password_file: /etc/kas/redis/{{ $r.auth.key }}
{{- end }}
{{- if $r.tls.enabled }}
tls:
  enabled: true
  {{- if $r.tls.secretName }}
  ca_certificate_file: /etc/kas/redis-tls/ca.crt
  {{- end }}
  {{- if $r.tls.clientCertificate }}
  certificate_file: /etc/kas/redis-tls/tls.crt
  key_file: /etc/kas/redis-tls/tls.key
  {{- end }}
{{- end }}
{{- end -}}

{{/* Folder and Secret of everything that is mounted. */}}
{{- define "kas.mounts" -}}
{{- $v := .Values -}}
{{- if $v.standalone.secretName }}
control-plane: {{ $v.standalone.secretName }}
{{- else }}
gitlab: {{ $v.gitlab.authSecret.secret }}
api: {{ $v.api.secret }}
{{- with $v.gitlab.caSecretName }}
gitlab-ca: {{ . }}
{{- end }}
{{- if $v.api.tls.enabled }}
api-tls: {{ $v.api.tls.secretName }}
{{- end }}
{{- end }}
{{- if $v.tls.enabled }}
tls: {{ $v.tls.secretName }}
{{- end }}
{{- with $v.admin.tokens.secret }}
admin-tokens: {{ . }}
{{- end }}
{{- if $v.admin.tls.enabled }}
admin-tls: {{ $v.admin.tls.secretName }}
{{- end }}
{{- if $v.events.enabled }}
{{- range $number, $webhook := $v.events.webhooks }}
webhook-{{ $number }}: {{ $webhook.secret }}
{{- end }}
{{- end }}
{{- if include "kas.hasRedis" . }}
private-api: {{ include "kas.privateSecret" . }}
{{- if $v.privateApi.tls.enabled }}
private-api-tls: {{ include "kas.privateTlsSecret" . }}
{{- end }}
{{- if include "kas.redisHasPassword" . }}
redis: {{ include "kas.redisSecret" . }}
{{- end }}
{{- if $v.redis.sentinelAuth.enabled }}
sentinel: {{ $v.redis.sentinelAuth.secret }}
{{- end }}
{{- if and $v.redis.tls.enabled $v.redis.tls.secretName }}
redis-tls: {{ $v.redis.tls.secretName }}
{{- end }}
{{- end }}
{{- end -}}
