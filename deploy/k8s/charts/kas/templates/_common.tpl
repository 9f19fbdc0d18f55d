{{/* What both charts have. The file is the same in both, but for the first word of each name; test-charts looks. */}}
{{- define "kas.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "kas.fullname" -}}
{{- $name := include "kas.name" . -}}
{{- if .Values.fullnameOverride -}}{{ .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains $name .Release.Name -}}{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else -}}{{ printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" }}{{- end -}}
{{- end -}}

{{- define "kas.selector" -}}
app.kubernetes.io/name: {{ include "kas.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* The pods of `helm test`, which no Service and no Deployment may take for its own. */}}
{{- define "kas.testSelector" -}}
app.kubernetes.io/name: {{ include "kas.name" . }}-test
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* Labels that are not for selectors: the chart's, then `more`, which wins over commonLabels. */}}
{{- define "kas.otherLabels" -}}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- with merge (deepCopy .more) .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "kas.labelsWith" -}}
{{ include "kas.selector" .root }}
{{ include "kas.otherLabels" . }}
{{- end -}}

{{- define "kas.labels" -}}
{{ include "kas.labelsWith" (dict "root" . "more" dict) }}
{{- end -}}

{{- define "kas.podLabels" -}}
{{ include "kas.labelsWith" (dict "root" . "more" .Values.podLabels) }}
{{- end -}}

{{- define "kas.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "kas.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{- define "kas.image" -}}
{{- with .Values.image.registry }}{{ trimSuffix "/" . }}/{{ end }}{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{/* What cannot be right in values that both charts have. */}}
{{- define "kas.commonCheck" -}}
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
{{- define "kas.pod" -}}
{{- $v := .Values -}}
serviceAccountName: {{ include "kas.serviceAccount" . }}
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
{{- define "kas.scheduling" -}}
{{- range $key := list "nodeSelector" "tolerations" "affinity" }}
{{- with get $.Values $key }}
{{ $key }}: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "kas.spread" -}}
topologySpreadConstraints:
{{- if .Values.topologySpreadConstraints }}
  {{- toYaml .Values.topologySpreadConstraints | nindent 2 }}
{{- else }}
{{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "kas.podSelector" $ | nindent 8 }}
{{- end }}
{{- end }}
{{- end -}}
