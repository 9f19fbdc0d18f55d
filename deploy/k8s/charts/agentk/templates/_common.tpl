{{/* What both charts have. The file is the same in both, but for the first word of each name; test-charts looks. */}}
{{- define "agentk.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "agentk.fullname" -}}
{{- $name := include "agentk.name" . -}}
{{- if .Values.fullnameOverride -}}{{ .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains $name .Release.Name -}}{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else -}}{{ printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" }}{{- end -}}
{{- end -}}

{{- define "agentk.selector" -}}
app.kubernetes.io/name: {{ include "agentk.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* The pods of `helm test`, which no Service and no Deployment may take for its own. */}}
{{- define "agentk.testSelector" -}}
app.kubernetes.io/name: {{ include "agentk.name" . }}-test
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* Labels that are not for selectors: the chart's, then `more`, which wins over commonLabels. */}}
{{- define "agentk.otherLabels" -}}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- with merge (deepCopy .more) .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "agentk.labelsWith" -}}
{{ include "agentk.selector" .root }}
{{ include "agentk.otherLabels" . }}
{{- end -}}

{{- define "agentk.labels" -}}
{{ include "agentk.labelsWith" (dict "root" . "more" dict) }}
{{- end -}}

{{- define "agentk.podLabels" -}}
{{ include "agentk.labelsWith" (dict "root" . "more" .Values.podLabels) }}
{{- end -}}

{{- define "agentk.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "agentk.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{- define "agentk.image" -}}
{{- with .Values.image.registry }}{{ trimSuffix "/" . }}/{{ end }}{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{/* What cannot be right in values that both charts have. */}}
{{- define "agentk.commonCheck" -}}
{{- $image := .Values.image -}}
{{- if not (or $image.registry (contains "/" $image.repository) (eq $image.pullPolicy "Never")) }}
{{- fail (printf "image.registry is not set, and no public registry has the image %s: set image.registry to where you keep it, such as registry.example.com/team, or image.pullPolicy=Never if the image is loaded into the nodes" $image.repository) }}
{{- end -}}
{{- if and $image.registry (regexMatch "^([^/]*[.:][^/]*|localhost)/" $image.repository) }}
{{- fail (printf "image.repository names a registry, %s, and image.registry another: put all before the image's name into image.registry" $image.repository) }}
{{- end -}}
{{- range $label, $_ := merge (deepCopy .Values.podLabels) .Values.commonLabels }}
{{- if has $label (list "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/component" "app.kubernetes.io/version" "app.kubernetes.io/managed-by" "helm.sh/chart") }}
{{- fail (printf "%s is a label of the chart itself: leave it out of commonLabels and podLabels" $label) }}
{{- end }}
{{- end -}}
{{- range $key, $_ := .Values.securityContext }}
{{- if has $key (list "fsGroup" "fsGroupChangePolicy" "supplementalGroups" "supplementalGroupsPolicy" "sysctls") }}
{{- fail (printf "securityContext.%s: securityContext is that of containers; that of pods is podSecurityContext" $key) }}
{{- end }}
{{- end -}}
{{- end -}}

{{/* What of a pod's spec comes before its containers. */}}
{{- define "agentk.pod" -}}
{{- $v := .Values -}}
serviceAccountName: {{ include "agentk.serviceAccount" . }}
{{- if $v.hostNetwork }}
hostNetwork: true
dnsPolicy: ClusterFirstWithHostNet
{{- end }}
{{- with $v.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $v.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
securityContext: {{- toYaml $v.podSecurityContext | nindent 2 }}
{{- end -}}

{{/* Where a pod may run. */}}
{{- define "agentk.scheduling" -}}
{{- range $key := list "nodeSelector" "tolerations" "affinity" }}
{{- with get $.Values $key }}
{{ $key }}: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "agentk.spread" -}}
topologySpreadConstraints:
{{- if .Values.topologySpreadConstraints }}
  {{- toYaml .Values.topologySpreadConstraints | nindent 2 }}
{{- else }}
{{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "agentk.podSelector" $ | nindent 8 }}
{{- end }}
{{- end }}
{{- end -}}
