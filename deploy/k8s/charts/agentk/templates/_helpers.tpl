{{- define "agentk.fullname" -}}
{{- if .Values.fullnameOverride -}}{{ .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains .Chart.Name .Release.Name -}}{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else -}}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{- end -}}
{{- end -}}

{{- define "agentk.selector" -}}
app.kubernetes.io/name: agentk
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "agentk.labels" -}}
{{ include "agentk.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "agentk.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "agentk.fullname" .) "default" .Values.serviceAccount.create) -}}
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
