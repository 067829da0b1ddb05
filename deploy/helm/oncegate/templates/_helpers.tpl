{{- define "oncegate.name" -}}
{{- if eq .Release.Name .Chart.Name }}{{ .Chart.Name }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "oncegate.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "oncegate.labels" -}}
{{ include "oncegate.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: {{ .Values.mode }}
{{- end }}

{{- define "oncegate.image" -}}
{{- if .Values.image.digest }}{{ .Values.image.repository }}@{{ .Values.image.digest }}{{ else }}{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{- /* What no schema can see: how values fit to one another. */ -}}
{{- define "oncegate.check" -}}
{{- $config := .Values.config }}
{{- range list "[[listeners]]" "[admin]" }}
{{- if regexMatch (printf "(?m)^\\s*%s" (regexQuoteMeta .)) $config }}{{ fail (printf "config: %s is the chart's, by the value `listen`" .) }}{{ end }}
{{- end }}
{{- range list "drain_timeout" "drain_delay" }}
{{- if regexMatch (printf "(?m)^\\s*%s\\s*=" .) $config }}{{ fail (printf "config: %s is the chart's, by the value `drain`" .) }}{{ end }}
{{- end }}
{{- $isShared := regexMatch "(?m)^\\s*url\\s*=\\s*\"redis" $config }}
{{- if and (gt (int .Values.replicaCount) 1) (not $isShared) }}{{ fail "replicaCount: several gateways need a store that they share (store.url = \"redis…\"); with one of their own each would send what another one has sent" }}{{ end }}
{{- if and (not $isShared) (not .Values.persistence.enabled) (not (contains "\"memory:" $config)) }}{{ fail "persistence.enabled: without a volume an embedded store is forgotten with its pod, and retries are sent again" }}{{ end }}
{{- if and .Values.adminTokenEntry (not .Values.secretName) }}{{ fail "adminTokenEntry: an entry of the Secret that secretName names" }}{{ end }}
{{- if ge (int .Values.drain.delaySeconds) (int .Values.drain.timeoutSeconds) }}{{ fail "drain.delaySeconds is a part of drain.timeoutSeconds, and has to be less" }}{{ end }}
{{- if and (eq .Values.mode "sidecar") (not .Values.sidecar.containers) }}{{ fail "sidecar.containers: the service that the gateway is to stand beside" }}{{ end }}
{{- end }}

{{- /* The settings at the top of a TOML file stand before its first table, and tables may come in any order. */ -}}
{{- define "oncegate.config" -}}
drain_timeout = "{{ .Values.drain.timeoutSeconds }}s"
drain_delay = "{{ .Values.drain.delaySeconds }}s"
{{ .Values.config | trim }}

[[listeners]]
address = "{{ .Values.listen }}:{{ .Values.ports.http }}"

[admin]
address = "{{ .Values.listen }}:{{ .Values.ports.admin }}"
{{- with .Values.adminTokenEntry }}
token = { file = "/run/secrets/{{ . }}" }
{{- end }}
{{- end }}

{{- define "oncegate.container" -}}
name: oncegate
image: {{ include "oncegate.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- if eq .Values.mode "sidecar" }}
# A native sidecar: it is there before the service begins, and until it has ended.
restartPolicy: Always
{{- end }}
args: ["serve", "--config", "/etc/oncegate/oncegate.toml"]
{{- if or .Values.logFilter .Values.env }}
env:
  {{- with .Values.logFilter }}
  - name: ONCEGATE_LOG
    value: {{ . | quote }}
  {{- end }}
  {{- with .Values.env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
ports:
  - name: http
    containerPort: {{ .Values.ports.http }}
  - name: admin
    containerPort: {{ .Values.ports.admin }}
# That it lives, and not that its store does: a store that is away is no reason to restart, and pass routes go on.
startupProbe:
  httpGet:
    path: /healthz
    port: admin
  periodSeconds: 1
  failureThreshold: 60
livenessProbe:
  httpGet:
    path: /healthz
    port: admin
  periodSeconds: 10
  timeoutSeconds: 5
readinessProbe:
  httpGet:
    path: /readyz
    port: admin
  periodSeconds: 5
  timeoutSeconds: 3
resources:
  {{- toYaml .Values.resources | nindent 2 }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  readOnlyRootFilesystem: true
  allowPrivilegeEscalation: false
  capabilities:
    drop: ["ALL"]
  seccompProfile:
    type: RuntimeDefault
volumeMounts:
  - name: oncegate-config
    mountPath: /etc/oncegate
    readOnly: true
  {{- if .Values.secretName }}
  - name: oncegate-secrets
    mountPath: /run/secrets
    readOnly: true
  {{- end }}
  {{- if .Values.persistence.enabled }}
  - name: oncegate-records
    mountPath: /var/lib/oncegate
  {{- end }}
{{- end }}

{{- define "oncegate.volumes" -}}
- name: oncegate-config
  configMap:
    name: {{ include "oncegate.name" . }}
{{- if .Values.secretName }}
- name: oncegate-secrets
  secret:
    secretName: {{ .Values.secretName }}
    defaultMode: 0440
{{- end }}
{{- if .Values.persistence.enabled }}
- name: oncegate-records
  persistentVolumeClaim:
    claimName: {{ include "oncegate.name" . }}
{{- end }}
{{- end }}
