{{- define "everstep.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "everstep.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "everstep.labels" -}}
{{ include "everstep.selector" . }}
app.kubernetes.io/part-of: everstep
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "everstep.serviceAccount" -}}
{{- default (ternary (include "everstep.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "everstep.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}

{{- /* The namespaces a namespaced operator watches, as a JSON list. */ -}}
{{- define "everstep.namespaces" -}}
{{- default (list .Release.Namespace) .Values.watchNamespaces | uniq | toJson -}}
{{- end -}}

{{- define "everstep.environment" -}}
- name: EVERSTEP_OPERATOR_WATCH_NAMESPACES
  value: {{ ternary "" (join "," (include "everstep.namespaces" . | fromJsonArray)) .Values.clusterWide | quote }}
- name: EVERSTEP_OPERATOR_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: EVERSTEP_OPERATOR_IDENTITY
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: EVERSTEP_OPERATOR_LEADER_ELECTION
  value: {{ .Values.leaderElection.enabled | quote }}
- name: EVERSTEP_OPERATOR_RESYNC_SECONDS
  value: {{ .Values.resyncSeconds | quote }}
- name: EVERSTEP_OPERATOR_LOG_LEVEL
  value: {{ .Values.logging.level | quote }}
- name: EVERSTEP_OPERATOR_LOG_FORMAT
  value: {{ .Values.logging.format | quote }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* What the operator may do where DurableApps live. Secrets: by name, never a list. */ -}}
{{- define "everstep.rules" -}}
- apiGroups: [everstep.dev]
  resources: [durableapps]
  verbs: [get, list, watch]
- apiGroups: [everstep.dev]
  resources: [durableapps/status]
  verbs: [patch]
- apiGroups: [everstep.dev]
  resources: [durableapps/finalizers]
  verbs: [update]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [controllerrevisions]
  verbs: [list, create, delete]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [list, watch, create, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [secrets]
  verbs: [get]
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
