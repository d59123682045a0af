{{- define "tonnage.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: tonnage
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "tonnage.selector" -}}
app.kubernetes.io/name: tonnage
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* (root, image): the reference of an image, with the mirror in place of its registry. */}}
{{- define "tonnage.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- $registry := $root.Values.global.imageRegistry | default $image.registry -}}
{{- $name := $image.repository -}}
{{- if $registry -}}{{- $name = printf "%s/%s" (trimSuffix "/" $registry) $name -}}{{- end -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $name $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name ($image.tag | default $root.Chart.AppVersion) -}}
{{- end -}}
{{- end }}

{{- define "tonnage.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* What node and controller have in common. */}}
{{- define "tonnage.env" -}}
- name: TONNAGE_KUBERNETES
  value: "true"
- name: TONNAGE_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: RUST_LOG
  value: {{ .Values.logLevel | quote }}
{{- if .Values.caBundle.configMap }}
- name: SSL_CERT_FILE
  value: /etc/tonnage/ca/{{ .Values.caBundle.key }}
{{- end }}
{{- end }}

{{- define "tonnage.caMount" -}}
{{- if .Values.caBundle.configMap }}
- name: ca
  mountPath: /etc/tonnage/ca
  readOnly: true
{{- end }}
{{- end }}

{{- define "tonnage.caVolume" -}}
{{- if .Values.caBundle.configMap }}
- name: ca
  configMap:
    name: {{ .Values.caBundle.configMap | quote }}
    items:
      - key: {{ .Values.caBundle.key | quote }}
        path: {{ .Values.caBundle.key | quote }}
{{- end }}
{{- end }}

{{/* What a container needs in a namespace with the restricted Pod Security level. */}}
{{- define "tonnage.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* Whether the namespace selector of that name has the namespace of a request, as an expression (CEL). */}}
{{- define "tonnage.selects" -}}
(!has({{ . }}.names) || size({{ . }}.names) == 0 || namespaceObject.metadata.name in {{ . }}.names) &&
(!has({{ . }}.matchLabels) || {{ . }}.matchLabels.all(key, has(namespaceObject.metadata.labels) &&
key in namespaceObject.metadata.labels && namespaceObject.metadata.labels[key] == {{ . }}.matchLabels[key]))
{{- end }}
