{{/* The replicas, without the pods of Redis. */}}
{{- define "kas.podSelector" -}}
{{ include "kas.selector" . }}
app.kubernetes.io/component: server
{{- end -}}

{{/* Where the Kubernetes API begins: the Gateway's value where one of its routes is there. */}}
{{- define "kas.k8sApiPath" -}}
{{- ternary .Values.gateway.k8sApiPath .Values.ingress.k8sApiPath (or .Values.gateway.enabled .Values.gateway.passthrough.enabled) -}}
{{- end -}}

{{- define "kas.env" -}}
- name: POD_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
{{- if include "kas.hasRedis" . }}
- name: OWN_PRIVATE_API_URL
  value: {{ ternary "grpcs" "grpc" .Values.privateApi.tls.enabled }}://{{ ternary "[$(POD_IP)]" "$(POD_IP)" .Values.privateApi.ipv6 }}:{{ .Values.service.privateApiPort }}
{{- if .Values.privateApi.tls.enabled }}
- name: OWN_PRIVATE_API_HOST
  value: {{ include "kas.fullname" . }}-private.{{ .Release.Namespace }}.svc
{{- end }}
{{- end }}
{{- with .Values.image.registry }}
- {name: AGENTK_IMAGE_REGISTRY, value: {{ trimSuffix "/" . | quote }}}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "kas.volumeMounts" -}}
- {name: config, mountPath: /etc/kas/config, readOnly: true}
{{- range $folder, $secret := include "kas.mounts" . | fromYaml }}
- {name: {{ $folder }}, mountPath: /etc/kas/{{ $folder }}, readOnly: true}
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "kas.volumes" -}}
- name: config
  configMap: {name: {{ include "kas.fullname" . }}}
{{- range $folder, $secret := include "kas.mounts" . | fromYaml }}
- name: {{ $folder }}
  secret: {secretName: {{ $secret }}, defaultMode: 0440}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
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

{{/* The image of the Redis for trials: from where the others come too, unless it names a registry. */}}
{{- define "kas.redisImage" -}}
{{- $image := .Values.redis.image -}}
{{- if and .Values.image.registry (not (include "kas.redisImageHasRegistry" .)) }}{{ trimSuffix "/" .Values.image.registry }}/{{ end }}{{ $image }}
{{- end -}}

{{- define "kas.redisImageHasRegistry" -}}
{{- if regexMatch "^([^/]*[.:][^/]*|localhost)/" .Values.redis.image }}true{{ end -}}
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
{{- include "kas.commonCheck" . -}}
{{- if and $v.standalone.secretName $v.gitlab.address }}{{ fail "standalone.secretName and gitlab.address are both set: only one control plane can be used" }}{{ end -}}
{{- if not (or $v.standalone.secretName $v.gitlab.address) }}{{ fail "set standalone.secretName (a Secret with agents.yaml) or gitlab.address: there is no control plane" }}{{ end -}}
{{- if $v.gitlab.address }}{{- if not (and $v.gitlab.authSecret.secret $v.api.secret) }}{{ fail "gitlab.address needs gitlab.authSecret.secret and api.secret" }}{{ end }}{{ end -}}
{{- $most := ternary $v.maxReplicas $v.minReplicas $v.hpa.enabled | int -}}
{{- if and (gt $most 1) (not (include "kas.hasRedis" .)) }}{{ fail "several replicas need Redis: set redis.host, redis.sentinels, redis.cluster.addresses or redis.install, or minReplicas: 1 and hpa.enabled: false" }}{{ end -}}
{{- if lt ($v.maxReplicas | int) ($v.minReplicas | int) }}{{ fail "maxReplicas is below minReplicas" }}{{ end -}}
{{- if gt (len (compact (list (ternary "x" "" $v.redis.install) $v.redis.host (ternary "x" "" (not (empty $v.redis.cluster.addresses)))))) 1 }}{{ fail "redis: only one of install, host and cluster.addresses can be used" }}{{ end -}}
{{- if and $v.redis.install (not (or $v.image.registry (include "kas.redisImageHasRegistry" .) (eq $v.image.pullPolicy "Never"))) }}{{ fail (printf "redis.image: %s names no registry, and image.registry is not set: name one, such as docker.io/library/%s" $v.redis.image $v.redis.image) }}{{ end -}}
{{- if and $v.redis.sentinels (not $v.redis.host) }}{{ fail "redis.sentinels needs the master's name in redis.host" }}{{ end -}}
{{- if and $v.redis.auth.enabled (not $v.redis.auth.secret) (not $v.redis.install) }}{{ fail "redis.auth.enabled needs redis.auth.secret" }}{{ end -}}
{{- if and $v.tls.enabled (not $v.tls.secretName) }}{{ fail "tls.enabled needs tls.secretName" }}{{ end -}}
{{- if and $v.admin.tls.enabled (not $v.admin.tls.secretName) }}{{ fail "admin.tls.enabled needs admin.tls.secretName" }}{{ end -}}
{{- if and $v.admin.enabled $v.admin.tls.enabled (not (or $v.admin.tokens.secret $v.admin.tls.clientAuth)) }}{{ fail "admin.tls.enabled needs admin.tokens.secret or admin.tls.clientAuth: other pods reach the port" }}{{ end -}}
{{- if and $v.api.tls.enabled (not $v.api.tls.secretName) }}{{ fail "api.tls.enabled needs api.tls.secretName" }}{{ end -}}
{{- if and (not $v.events.enabled) (or $v.events.log $v.events.webhooks) }}{{ fail "events.log and events.webhooks need events.enabled" }}{{ end -}}
{{- if and $v.hpa.enabled (not (or $v.hpa.targetAverageUtilization $v.hpa.connectedAgents $v.hpa.requestsInFlight)) }}{{ fail "hpa.enabled needs something to scale on: targetAverageUtilization, connectedAgents or requestsInFlight" }}{{ end -}}
{{- $g := $v.gateway -}}
{{- if and (or $g.enabled $g.passthrough.enabled) $v.ingress.enabled (ne $g.k8sApiPath $v.ingress.k8sApiPath) }}{{ fail "gateway.k8sApiPath and ingress.k8sApiPath differ: kas serves one of them" }}{{ end -}}
{{- if and $g.grpc.enabled (not $g.grpc.hostnames) }}{{ fail "gateway.grpc.enabled needs gateway.grpc.hostnames" }}{{ end -}}
{{- if and $g.enabled $g.grpc.enabled }}
{{- range $g.grpc.hostnames }}{{ if or (not $g.hostnames) (has . $g.hostnames) }}{{ fail (printf "gateway.grpc.hostnames: an HTTPRoute has %s already (gateway.hostnames), and a Gateway takes one kind of route for a name" .) }}{{ end }}{{ end -}}
{{- end -}}
{{- if $g.passthrough.enabled }}
{{- if not (and $g.passthrough.agentHostnames $g.passthrough.userHostnames) }}{{ fail "gateway.passthrough.enabled needs gateway.passthrough.agentHostnames and userHostnames" }}{{ end -}}
{{- if not $v.tls.enabled }}{{ fail "gateway.passthrough.enabled needs tls.enabled: TLS ends in the pods" }}{{ end -}}
{{- range $g.passthrough.agentHostnames }}{{ if has . $g.passthrough.userHostnames }}{{ fail (printf "gateway.passthrough: %s is for agents and for users" .) }}{{ end }}{{ end -}}
{{- end -}}
{{- if and $g.backendTls.caConfigMap (not $v.tls.enabled) }}{{ fail "gateway.backendTls needs tls.enabled: without it pods have no TLS" }}{{ end -}}
{{- if and (or $g.enabled $g.grpc.enabled $g.passthrough.enabled) (not $g.parentRefs) }}{{ fail "gateway needs gateway.parentRefs, the Gateway that the routes are for" }}{{ end -}}
{{- end -}}
