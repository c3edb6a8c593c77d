{{- define "eventpulse.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* At most 50 characters, so that every name that is made of it is one. */}}
{{- define "eventpulse.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- default $full .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "eventpulse.selectorLabels" -}}
app.kubernetes.io/name: {{ include "eventpulse.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "eventpulse.labels" -}}
{{ include "eventpulse.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "eventpulse.serviceAccountName" -}}
{{- default (include "eventpulse.fullname" .) .Values.serviceAccount.name }}
{{- end }}

{{- define "eventpulse.tokenSecret" -}}
{{- default (printf "%s-token" (include "eventpulse.fullname" .)) .Values.auth.existingSecret.name }}
{{- end }}

{{- define "eventpulse.logConfigMap" -}}
{{- default (printf "%s-log" (include "eventpulse.fullname" .)) .Values.log.filterConfigMap.name }}
{{- end }}

{{- define "eventpulse.image" -}}
{{- $image := .Values.image }}
{{- $repository := required "image.repository: no image is published yet; build one with `make image`, push it to a registry of your own, and give its name, like --set image.repository=registry.example.com/eventpulse" $image.repository }}
{{- if $image.digest }}{{ $repository }}@{{ $image.digest }}{{ else }}{{ $repository }}:{{ default .Chart.AppVersion $image.tag }}{{ end }}
{{- end }}

{{/* What no schema can say: values that contradict each other. */}}
{{- define "eventpulse.validate" -}}
{{- if not .Values.kafka.brokers }}
{{- if .Values.split.enabled }}{{ fail "split.enabled: services run apart only with Kafka; give kafka.brokers" }}{{ end }}
{{- if gt (int .Values.replicas) 1 }}{{ fail "replicas: the embedded log belongs to one process; give kafka.brokers, or replicas: 1" }}{{ end }}
{{- if .Values.kafka.topicPrefix }}{{ fail "kafka.topicPrefix: it is given, but no kafka.brokers" }}{{ end }}
{{- if .Values.kafka.config }}{{ fail "kafka.config: it is given, but no kafka.brokers" }}{{ end }}
{{- if .Values.kafka.existingSecret.name }}{{ fail "kafka.existingSecret.name: it is given, but no kafka.brokers" }}{{ end }}
{{- end }}
{{- if and .Values.auth.allowUnauthenticated .Values.auth.existingSecret.name }}{{ fail "auth.allowUnauthenticated: auth.existingSecret.name is given too; choose one" }}{{ end }}
{{- if not (or .Values.serviceAccount.create .Values.serviceAccount.name) }}{{ fail "serviceAccount.name: serviceAccount.create is false; name the account that EventPulse runs as" }}{{ end }}
{{- range .Values.extraArgs }}
{{- if hasPrefix "--log-filter-file" . }}{{ fail "extraArgs: --log-filter-file is given already; name its ConfigMap by log.filterConfigMap" }}{{ end }}
{{- end }}
{{- end }}

{{/* The workloads, as JSON: what each runs, and how often. One that receives alerts keeps what it accepted on a disk of its own. */}}
{{- define "eventpulse.workloads" -}}
{{- $all := list }}
{{- if .Values.split.enabled }}
{{- range $service := list "ingest" "rules" "actions" "incidents" "notify" "config" }}
{{- $one := index $.Values.split $service }}
{{- $resources := default $.Values.resources $one.resources }}
{{- $all = append $all (dict "component" $service "services" (list $service) "replicas" $one.replicas "resources" $resources "ingest" (eq $service "ingest")) }}
{{- end }}
{{- else }}
{{- $all = append $all (dict "component" "eventpulse" "services" (list) "replicas" .Values.replicas "resources" .Values.resources "ingest" true) }}
{{- end }}
{{- dict "all" $all | toJson }}
{{- end }}

{{- define "eventpulse.workloadName" -}}
{{- $full := include "eventpulse.fullname" .root }}
{{- if eq .workload.component "eventpulse" }}{{ $full }}{{ else }}{{ $full }}-{{ .workload.component }}{{ end }}
{{- end }}

{{- define "eventpulse.workloadSelector" -}}
{{ include "eventpulse.selectorLabels" .root }}
app.kubernetes.io/component: {{ .workload.component }}
{{- end }}

{{- define "eventpulse.args" -}}
{{- $values := .root.Values }}
- run
{{- with .workload.services }}
- --services={{ join "," . }}
{{- end }}
{{- with $values.kafka.brokers }}
- --kafka-brokers={{ join "," . }}
{{- end }}
{{- with $values.kafka.topicPrefix }}
- --topic-prefix={{ . }}
{{- end }}
- --data-dir=/var/lib/eventpulse
- --admin-listen=0.0.0.0:8081
{{- if .workload.ingest }}
- --listen=0.0.0.0:8080
{{- if $values.auth.allowUnauthenticated }}
- --allow-unauthenticated
{{- else }}
- --auth-token-file=/etc/eventpulse/token/{{ $values.auth.existingSecret.key }}
{{- end }}
{{- end }}
{{- $flags := dict "source" "source" "partitions" "partitions" "outbox-max-alerts" "outboxMaxAlerts" "ends-at-grace" "endsAtGrace" "topic-retention" "topicRetention" "action-ttl" "actionTTL" "incident-ttl" "incidentTTL" "group-ttl" "groupTTL" "action-count" "actionCount" "notification-count" "notificationCount" "incident-count" "incidentCount" "group-count" "groupCount" "log-format" "logFormat" }}
{{- range $flag, $key := $flags }}
{{- with index $values.config $key }}
- {{ printf "--%s=%s" $flag (ternary . (. | int64 | toString) (kindIs "string" .)) | quote }}
{{- end }}
{{- end }}
- --log-filter-file=/etc/eventpulse/log/filter
{{- range $values.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end }}

{{/* Kubernetes puts the Secret's text where $(…) stands; in what people wrote a $( is kept as it is. */}}
{{- define "eventpulse.env" -}}
{{- $kafka := .root.Values.kafka }}
- name: EVENTPULSE_TERMINATION_GRACE_PERIOD
  value: {{ printf "%ds" (int .root.Values.terminationGracePeriodSeconds) | quote }}
{{- if $kafka.existingSecret.name }}
- name: EVENTPULSE_KAFKA_SECRET_CONFIG
  valueFrom: {secretKeyRef: {name: {{ $kafka.existingSecret.name }}, key: {{ $kafka.existingSecret.key }}}}
{{- end }}
{{- $lines := list }}
{{- range $name, $value := $kafka.config }}
{{- $lines = append $lines (printf "%s=%s" $name (toString $value) | replace "$(" "$$(") }}
{{- end }}
{{- if $kafka.existingSecret.name }}
{{- $lines = append $lines "$(EVENTPULSE_KAFKA_SECRET_CONFIG)" }}
{{- end }}
{{- with $lines }}
- name: EVENTPULSE_KAFKA_CONFIG
  value: {{ join "\n" . | quote }}
{{- end }}
{{- with .root.Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "eventpulse.pod" -}}
{{- $root := .root }}
{{- $values := .root.Values }}
metadata:
  labels:
    {{- include "eventpulse.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .workload.component }}
    {{- with $values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $values.podAnnotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "eventpulse.serviceAccountName" $root }}
  automountServiceAccountToken: true
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ $values.terminationGracePeriodSeconds }}
  {{- with $values.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- with $values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  securityContext: {{- toYaml $values.podSecurityContext | nindent 4 }}
  containers:
  - name: eventpulse
    image: {{ include "eventpulse.image" $root | quote }}
    imagePullPolicy: {{ $values.image.pullPolicy }}
    args: {{- include "eventpulse.args" . | nindent 4 }}
    {{- with include "eventpulse.env" . | trim }}
    env: {{- . | nindent 4 }}
    {{- end }}
    {{- with $values.extraEnvFrom }}
    envFrom: {{- toYaml . | nindent 4 }}
    {{- end }}
    ports:
    {{- if .workload.ingest }}
    - {name: alerts, containerPort: 8080}
    {{- end }}
    - {name: admin, containerPort: 8081}
    livenessProbe:
      httpGet: {path: /livez, port: admin}
      {{- toYaml $values.livenessProbe | nindent 6 }}
    readinessProbe:
      # What takes alerts goes on taking them while the log or the API server is away.
      httpGet: {path: {{ ternary "/readyz/ingest" "/readyz" .workload.ingest }}, port: admin}
      {{- toYaml $values.readinessProbe | nindent 6 }}
    resources: {{- toYaml .workload.resources | nindent 6 }}
    securityContext: {{- toYaml $values.securityContext | nindent 6 }}
    volumeMounts:
    - {name: data, mountPath: /var/lib/eventpulse}
    {{- if and .workload.ingest (not $values.auth.allowUnauthenticated) }}
    - {name: token, mountPath: /etc/eventpulse/token, readOnly: true}
    {{- end }}
    # The directory: a single file (subPath) would stay as it was when the pod started.
    - {name: log-filter, mountPath: /etc/eventpulse/log, readOnly: true}
    {{- with $values.extraVolumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  volumes:
  {{- if not (and .workload.ingest $values.persistence.enabled) }}
  - {name: data, emptyDir: {}}
  {{- end }}
  {{- if and .workload.ingest (not $values.auth.allowUnauthenticated) }}
  - name: token
    secret:
      secretName: {{ include "eventpulse.tokenSecret" $root }}
      items: [{key: {{ $values.auth.existingSecret.key }}, path: {{ $values.auth.existingSecret.key }}}]
  {{- end }}
  - name: log-filter
    configMap:
      name: {{ include "eventpulse.logConfigMap" $root | quote }}
      optional: true
      items: [{key: {{ $values.log.filterConfigMap.key | quote }}, path: filter}]
  {{- with $values.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- with $values.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.tolerations }}
  tolerations: {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- with $values.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if $values.topologySpreadConstraints }}
  topologySpreadConstraints: {{- toYaml $values.topologySpreadConstraints | nindent 2 }}
  {{- else if gt (int .workload.replicas) 1 }}
  topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "eventpulse.workloadSelector" . | nindent 8 }}
  {{- end }}
{{- end }}
