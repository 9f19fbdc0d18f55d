{{- define "agentk.podSelector" -}}
{{ include "agentk.selector" . }}
{{- end -}}

{{- define "agentk.args" -}}
{{- $v := .Values -}}
{{- $name := include "agentk.fullname" . -}}
{{- $pods := include "agentk.hasPrivateApi" . -}}
- --token-file=/etc/agentk/secrets/token
{{- if $v.config.joinToken }}
- --join-token-file=/etc/agentk/join/join-token
- --token-secret={{ include "agentk.secret" . }}
{{- end }}
{{- if $v.receptive.enabled }}
- --api-listen-address=:8082
{{- if $v.receptive.jwtPublicKey }}
- --api-jwt-file=/etc/agentk/receptive/kas.pem
{{- end }}
{{- if $v.receptive.tls.enabled }}
- --api-cert-file=/etc/agentk/receptive-tls/tls.crt
- --api-key-file=/etc/agentk/receptive-tls/tls.key
{{- end }}
{{- if $v.receptive.tls.clientAuth }}
- --api-ca-cert-file=/etc/agentk/receptive-tls/ca.crt
{{- end }}
{{- if $pods }}
- --private-api-listen-address=:8081
- --private-api-jwt-file=/etc/agentk/private-api/{{ $v.receptive.privateApi.key }}
- --private-api-peers={{ $name }}-pods.{{ .Release.Namespace }}.svc:8081
{{- end }}
{{- else }}
- --kas-address={{ $v.config.kasAddress }}
{{- end }}
- --kas-connections={{ $v.config.kasConnections }}
- --observability-listen-address=:{{ $v.observability.port }}
{{- if $v.config.kasCaCert }}
- --ca-cert-file=/etc/agentk/ca/ca.crt
{{- end }}
{{- with $v.config.kasTlsServerName }}
- --kas-tls-server-name={{ . }}
{{- end }}
{{- with $v.config.kasProxy }}
- --kas-proxy={{ . }}
{{- end }}
{{- range $v.config.kasHeaders }}
- {{ printf "--kas-header=%s" . | quote }}
{{- end }}
{{- with $v.features }}
- --features={{ join "," . }}
{{- end }}
{{- with $v.extraArgs }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "agentk.env" -}}
- {name: POD_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
- {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
- {name: SERVICE_ACCOUNT_NAME, valueFrom: {fieldRef: {fieldPath: spec.serviceAccountName}}}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "agentk.volumeMounts" -}}
{{- $v := .Values -}}
{{- $pods := include "agentk.hasPrivateApi" . -}}
- {name: secret, mountPath: /etc/agentk/secrets, readOnly: true}
{{- if $v.config.joinToken }}
- {name: join, mountPath: /etc/agentk/join, readOnly: true}
{{- end }}
{{- if $v.config.kasCaCert }}
- {name: ca, mountPath: /etc/agentk/ca, readOnly: true}
{{- end }}
{{- if and $v.receptive.enabled $v.receptive.jwtPublicKey }}
- {name: receptive, mountPath: /etc/agentk/receptive, readOnly: true}
{{- end }}
{{- if and $v.receptive.enabled $v.receptive.tls.enabled }}
- {name: receptive-tls, mountPath: /etc/agentk/receptive-tls, readOnly: true}
{{- end }}
{{- if $pods }}
- {name: private-api, mountPath: /etc/agentk/private-api, readOnly: true}
{{- end }}
{{- with $v.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "agentk.volumes" -}}
{{- $v := .Values -}}
{{- $name := include "agentk.fullname" . -}}
{{- $pods := include "agentk.hasPrivateApi" . -}}
- name: secret
  secret: {secretName: {{ include "agentk.secret" . }}, defaultMode: 0440}
{{- if $v.config.joinToken }}
- name: join
  secret: {secretName: {{ $name }}-join, defaultMode: 0440}
{{- end }}
{{- if $v.config.kasCaCert }}
- name: ca
  configMap: {name: {{ $name }}-ca}
{{- end }}
{{- if and $v.receptive.enabled $v.receptive.jwtPublicKey }}
- name: receptive
  configMap: {name: {{ $name }}-receptive}
{{- end }}
{{- if and $v.receptive.enabled $v.receptive.tls.enabled }}
- name: receptive-tls
  secret: {secretName: {{ $v.receptive.tls.secretName }}, defaultMode: 0440}
{{- end }}
{{- if $pods }}
- name: private-api
  secret: {secretName: {{ include "agentk.privateSecret" . }}, defaultMode: 0440}
{{- end }}
{{- with $v.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "agentk.secret" -}}
{{- .Values.config.secretName | default (printf "%s-token" (include "agentk.fullname" .)) -}}
{{- end -}}

{{/* Whether pods are to reach kas through each other. */}}
{{- define "agentk.hasPrivateApi" -}}
{{- $v := .Values -}}
{{- if and $v.receptive.enabled $v.receptive.privateApi.enabled (gt (int $v.replicas) 1) }}true{{ end -}}
{{- end -}}

{{- define "agentk.privateSecret" -}}
{{- .Values.receptive.privateApi.secret | default (printf "%s-private-api" (include "agentk.fullname" .)) -}}
{{- end -}}

{{- define "agentk.check" -}}
{{- include "agentk.commonCheck" . -}}
{{- $c := .Values.config -}}
{{- $r := .Values.receptive -}}
{{- if $r.enabled }}
{{- if $c.kasAddress }}{{ fail "receptive.enabled and config.kasAddress are both set: either kas dials the agent, or the agent kas" }}{{ end -}}
{{- if not (or $r.jwtPublicKey $r.tls.clientAuth) }}{{ fail "receptive.enabled needs receptive.jwtPublicKey or receptive.tls.clientAuth: else anybody could pass for kas" }}{{ end -}}
{{- if and $r.tls.clientAuth (not $r.tls.enabled) }}{{ fail "receptive.tls.clientAuth needs receptive.tls.enabled" }}{{ end -}}
{{- if and $r.tls.enabled (not $r.tls.secretName) }}{{ fail "receptive.tls.enabled needs receptive.tls.secretName" }}{{ end -}}
{{- else if not (regexMatch "^(wss|ws|grpcs|grpc)://" $c.kasAddress) }}{{ fail "config.kasAddress must be wss://, ws://, grpcs:// or grpc://" }}{{ end -}}
{{- if $c.joinToken }}
{{- if $r.enabled }}{{ fail "config.joinToken and receptive.enabled are both set: an agent that kas dials needs its token" }}{{ end -}}
{{- if $c.token }}{{ fail "config.token and config.joinToken are both set: set only one" }}{{ end -}}
{{- else if not (or $c.token $c.secretName) }}{{ fail "set config.joinToken, config.secretName (a Secret with `token`) or config.token" }}{{ end -}}
{{- if and $c.token $c.secretName }}{{ fail "config.token and config.secretName are both set: set only one" }}{{ end -}}
{{- if and (eq .Values.rbac.accessLevel "namespaced") (not .Values.rbac.namespaces) (not .Values.rbac.useExistingRole) }}{{ fail "rbac.accessLevel namespaced needs rbac.namespaces" }}{{ end -}}
{{- if eq .Values.rbac.accessLevel "constrained" }}
{{- $b := .Values.rbac.constrained -}}
{{- if not (or $b.groups .Values.rbac.useExistingRole) }}{{ fail "rbac.accessLevel constrained needs rbac.constrained.groups: without names, each group could be acted as" }}{{ end -}}
{{- range concat $b.groups $b.users }}
{{- if or (hasPrefix "system:" .) (contains "*" .) }}{{ fail (printf "rbac.constrained: %q is a pattern, or one of Kubernetes' own users and groups, which are not for callers" .) }}{{ end -}}
{{- end }}
{{- end -}}
{{- end -}}
