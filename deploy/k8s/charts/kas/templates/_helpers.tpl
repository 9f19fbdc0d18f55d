{{- define "kas.fullname" -}}
{{- if .Values.fullnameOverride -}}{{ .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains .Chart.Name .Release.Name -}}{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else -}}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{- end -}}
{{- end -}}

{{- define "kas.selector" -}}
app.kubernetes.io/name: kas
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "kas.labels" -}}
{{ include "kas.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "kas.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "kas.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{- define "kas.privateSecret" -}}
{{- .Values.privateApi.secret | default (printf "%s-private-api" (include "kas.fullname" .)) -}}
{{- end -}}

{{- define "kas.privateTlsSecret" -}}
{{- .Values.privateApi.tls.secretName | default (printf "%s-private-api-tls" (include "kas.fullname" .)) -}}
{{- end -}}

{{/* Whether Redis wants a password, and the Secret that has it. */}}
{{- define "kas.redisHasPassword" -}}
{{- if or .Values.redis.auth.enabled .Values.redis.install }}true{{ end -}}
{{- end -}}

{{- define "kas.redisSecret" -}}
{{- .Values.redis.auth.secret | default (printf "%s-redis" (include "kas.fullname" .)) -}}
{{- end -}}

{{/* Ports where Redis may be, as a list. */}}
{{- define "kas.redisPorts" -}}
{{- $r := .Values.redis -}}
{{- $ports := list -}}
{{- if $r.cluster.addresses -}}
{{- range $r.cluster.addresses }}{{ $ports = append $ports (regexFind "[0-9]+$" .) }}{{ end -}}
{{- else if $r.sentinels -}}
{{- $ports = append $ports ($r.port | toString) -}}
{{- range $r.sentinels }}{{ $ports = append $ports (.port | default 26379 | toString) }}{{ end -}}
{{- else if include "kas.hasRedis" . -}}
{{- $ports = append $ports (ternary 6379 $r.port $r.install | toString) -}}
{{- end -}}
{{- toJson (compact $ports | uniq) -}}
{{- end -}}

{{/* Whether a store is there for several replicas. */}}
{{- define "kas.hasRedis" -}}
{{- with .Values.redis }}{{ if or .install .host .cluster.addresses }}true{{ end }}{{ end -}}
{{- end -}}

{{/* Seconds that a replica may need to leave, with some to spare for the last connections to close. */}}
{{- define "kas.drainSeconds" -}}
{{- $config := include "kas.config" . | fromYaml -}}
{{- $agents := trimSuffix "s" (dig "agent" "listen" "listen_grace_period" "5s" $config) | float64 -}}
{{- $users := trimSuffix "s" (dig "agent" "kubernetes_api" "listen" "listen_grace_period" "5s" $config) | float64 -}}
{{- $requests := trimSuffix "s" (dig "agent" "kubernetes_api" "listen" "shutdown_grace_period" "3600s" $config) | float64 -}}
{{- addf (maxf $agents $users) $requests 30 | ceil | int64 -}}
{{- end -}}

{{- define "kas.gracePeriod" -}}
{{- $needed := include "kas.drainSeconds" . | int64 -}}
{{- $given := .Values.deployment.terminationGracePeriodSeconds | int64 -}}
{{- if and $given (lt $given $needed) -}}
{{- fail (printf "deployment.terminationGracePeriodSeconds is %d, but a replica may need %d s to leave (listen grace + shutdown grace + 30 s): requests would be cut. Raise it, leave it 0, or lower drain.*" $given $needed) -}}
{{- end -}}
{{- $given | default $needed -}}
{{- end -}}

{{/* What cannot be right, said at once. */}}
{{- define "kas.check" -}}
{{- $v := .Values -}}
{{- if and $v.standalone.secretName $v.gitlab.address }}{{ fail "standalone.secretName and gitlab.address are both set: only one control plane can be used" }}{{ end -}}
{{- if not (or $v.standalone.secretName $v.gitlab.address) }}{{ fail "set standalone.secretName (a Secret with agents.yaml) or gitlab.address: there is no control plane" }}{{ end -}}
{{- if $v.gitlab.address }}{{- if not (and $v.gitlab.authSecret.secret $v.api.secret) }}{{ fail "gitlab.address needs gitlab.authSecret.secret and api.secret" }}{{ end }}{{ end -}}
{{- $most := ternary $v.maxReplicas $v.minReplicas $v.hpa.enabled | int -}}
{{- if and (gt $most 1) (not (include "kas.hasRedis" .)) }}{{ fail "several replicas need Redis: set redis.host, redis.sentinels, redis.cluster.addresses or redis.install, or minReplicas: 1 and hpa.enabled: false" }}{{ end -}}
{{- if lt ($v.maxReplicas | int) ($v.minReplicas | int) }}{{ fail "maxReplicas is below minReplicas" }}{{ end -}}
{{- if gt (len (compact (list (ternary "x" "" $v.redis.install) $v.redis.host (ternary "x" "" (not (empty $v.redis.cluster.addresses)))))) 1 }}{{ fail "redis: only one of install, host and cluster.addresses can be used" }}{{ end -}}
{{- if and $v.redis.sentinels (not $v.redis.host) }}{{ fail "redis.sentinels needs the master's name in redis.host" }}{{ end -}}
{{- if and $v.redis.auth.enabled (not $v.redis.auth.secret) (not $v.redis.install) }}{{ fail "redis.auth.enabled needs redis.auth.secret" }}{{ end -}}
{{- if and $v.tls.enabled (not $v.tls.secretName) }}{{ fail "tls.enabled needs tls.secretName" }}{{ end -}}
{{- if and $v.admin.tls.enabled (not $v.admin.tls.secretName) }}{{ fail "admin.tls.enabled needs admin.tls.secretName" }}{{ end -}}
{{- if and $v.admin.enabled $v.admin.tls.enabled (not (or $v.admin.tokens.secret $v.admin.tls.clientAuth)) }}{{ fail "admin.tls.enabled needs admin.tokens.secret or admin.tls.clientAuth: other pods reach the port" }}{{ end -}}
{{- if and $v.api.tls.enabled (not $v.api.tls.secretName) }}{{ fail "api.tls.enabled needs api.tls.secretName" }}{{ end -}}
{{- if and (not $v.events.enabled) (or $v.events.log $v.events.webhooks) }}{{ fail "events.log and events.webhooks need events.enabled" }}{{ end -}}
{{- if and $v.hpa.enabled (not (or $v.hpa.targetAverageUtilization $v.hpa.connectedAgents $v.hpa.requestsInFlight)) }}{{ fail "hpa.enabled needs something to scale on: targetAverageUtilization, connectedAgents or requestsInFlight" }}{{ end -}}
{{- end -}}
