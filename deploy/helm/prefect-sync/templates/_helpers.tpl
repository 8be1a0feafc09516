{{- define "prefect-sync.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- /* The name of most objects: the release's, which often says what it is already. */ -}}
{{- define "prefect-sync.fullname" -}}
{{- $name := include "prefect-sync.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- /*
The name of objects that belong to no namespace. Limited operators often have the same name in many namespaces; no namespace
has a dot in it, so the first one ends it.
*/ -}}
{{- define "prefect-sync.clusterName" -}}
{{- if .Values.namespaces }}
{{- printf "%s.%s" .Release.Namespace (include "prefect-sync.fullname" .) }}
{{- else }}
{{- include "prefect-sync.fullname" . }}
{{- end }}
{{- end }}

{{- define "prefect-sync.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- .Values.serviceAccount.name | default (include "prefect-sync.fullname" .) }}
{{- else }}
{{- required "serviceAccount.create is false, so serviceAccount.name must name the account that is there: all roles are bound to it" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- /* Fields as YAML, without those that are null: a null in values takes a default away. */ -}}
{{- define "prefect-sync.fields" -}}
{{- $fields := dict }}
{{- range $name, $value := . }}
{{- if not (kindIs "invalid" $value) }}
{{- $_ := set $fields $name $value }}
{{- end }}
{{- end }}
{{- toYaml $fields }}
{{- end }}

{{- define "prefect-sync.selectorLabels" -}}
app.kubernetes.io/name: {{ include "prefect-sync.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "prefect-sync.labels" -}}
{{ include "prefect-sync.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- /* The same with a user's own, which win. Takes a list: the root, and those. */ -}}
{{- define "prefect-sync.labelsWith" -}}
{{- merge (deepCopy (last . | default dict)) (include "prefect-sync.labels" (first .) | fromYaml) | toYaml }}
{{- end }}

{{- /* The subjects of every binding: the operator's account. */ -}}
{{- define "prefect-sync.subjects" -}}
- kind: ServiceAccount
  name: {{ include "prefect-sync.serviceAccountName" . | quote }}
  namespace: {{ .Release.Namespace | quote }}
{{- end }}

{{- /*
A role and its binding: for the whole cluster, or in each of the namespaces. Takes a dict of the root context, a suffix for
the name, the rules as text, and namespaces where they are others than the operator's. The rules' comments stay.
*/ -}}
{{- define "prefect-sync.role" -}}
{{- $root := .root }}
{{- $name := printf "%s-%s" (include "prefect-sync.fullname" $root) .suffix }}
{{- $namespaces := .namespaces | default $root.Values.namespaces }}
{{- $prefix := ternary "" "Cluster" (not (empty $namespaces)) }}
{{- range $namespaces | default (list "") }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $prefix }}Role
metadata:
  name: {{ $name | quote }}
  {{- with . }}
  namespace: {{ . | quote }}
  {{- end }}
  labels:
    {{- include "prefect-sync.labels" $root | nindent 4 }}
rules:
  {{- $.rules | trim | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $prefix }}RoleBinding
metadata:
  name: {{ $name | quote }}
  {{- with . }}
  namespace: {{ . | quote }}
  {{- end }}
  labels:
    {{- include "prefect-sync.labels" $root | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ $prefix }}Role
  name: {{ $name | quote }}
subjects:
  {{- include "prefect-sync.subjects" $root | nindent 2 }}
{{- end }}
{{- end }}

{{- define "prefect-sync.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
{{- end }}
{{- end }}
