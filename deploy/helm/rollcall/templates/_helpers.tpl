{{- define "rollcall.name" -}}
{{- printf "%s-rollcall" .Release.Name | trunc 50 | trimSuffix "-" | replace "rollcall-rollcall" "rollcall" -}}
{{- end -}}

{{/* Labels that select the pods of a part: list of the context and the part. */}}
{{- define "rollcall.selector" -}}
app.kubernetes.io/name: rollcall
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "rollcall.labels" -}}
{{ include "rollcall.selector" . }}
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
helm.sh/chart: {{ printf "%s-%s" (index . 0).Chart.Name (index . 0).Chart.Version }}
{{- end -}}

{{/* The pod of a part: list of the context, the part, and whether it has the callback listener. */}}
{{- define "rollcall.pod" -}}
{{- $root := index . 0 -}}
{{- $part := index . 1 -}}
{{- $receives := eq $part "receiver" -}}
metadata:
  labels:
    {{- include "rollcall.labels" (list $root $part) | nindent 4 }}
  {{- with $root.Values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  automountServiceAccountToken: false
  # Longer than ROLLCALL_STOP_SECONDS (25) and the pause before it.
  terminationGracePeriodSeconds: 60
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    runAsGroup: 10001
    fsGroup: 10001
    seccompProfile: {type: RuntimeDefault}
  {{- with $root.Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $root.Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if $receives }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "rollcall.selector" (list $root $part) | nindent 10 }}
  {{- end }}
  containers:
    - name: rollcall
      image: "{{ $root.Values.image.repository }}:{{ $root.Values.image.tag | default $root.Chart.AppVersion }}"
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      args: [serve, --only, {{ $part }}]
      env:
        - {name: ROLLCALL_PUBLIC_URL, value: {{ $root.Values.publicUrl | quote }}}
        - {name: ROLLCALL_DATABASE_URL_FILE, value: /run/secrets/rollcall/database-url}
        - {name: ROLLCALL_CALLBACK_SECRETS_FILE, value: /run/secrets/rollcall/callback-secrets}
        - {name: ROLLCALL_API_TOKENS_FILE, value: /run/secrets/rollcall/api-tokens}
        {{- if not $receives }}
        - {name: ROLLCALL_INFRAHUB_API_KEY_FILE, value: /run/secrets/rollcall/infrahub-api-key}
        {{- end }}
        {{- if and $receives $root.Values.receiver.spool.nats }}
        - {name: ROLLCALL_SPOOL_URL_FILE, value: /run/secrets/rollcall/spool-url}
        {{- end }}
        {{- range $name, $value := $root.Values.settings }}
        - {name: {{ $name }}, value: {{ $value | quote }}}
        {{- end }}
      ports:
        {{- if $receives }}
        - {name: callbacks, containerPort: 8080}
        {{- end }}
        - {name: operator, containerPort: 8081}
      startupProbe:
        httpGet: {path: /livez, port: operator}
        periodSeconds: 2
        # A migration of a large database may take minutes.
        failureThreshold: 300
      livenessProbe:
        httpGet: {path: /livez, port: operator}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        # A receiver takes callbacks while Postgres is away, so it is ready as long as its listener answers.
        httpGet: {{ if $receives }}{path: /livez, port: callbacks}{{ else }}{path: /readyz, port: operator}{{ end }}
        periodSeconds: 5
        timeoutSeconds: 5
      lifecycle:
        preStop:
          # Until the proxy has noticed that this pod ends.
          exec: {command: [python, -c, "import time; time.sleep(5)"]}
      resources:
        {{- toYaml (index $root.Values $part).resources | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
      volumeMounts:
        - {name: data, mountPath: /data}
        - {name: tmp, mountPath: /tmp}
        - {name: secrets, mountPath: /run/secrets/rollcall, readOnly: true}
  volumes:
    - name: tmp
      emptyDir: {}
    {{- if not $receives }}
    - name: data
      emptyDir: {}
    {{- end }}
    - name: secrets
      secret:
        secretName: {{ $root.Values.secretName }}
        defaultMode: 0440
        items:
          - {key: database-url, path: database-url}
          - {key: callback-secrets, path: callback-secrets}
          - {key: api-tokens, path: api-tokens}
          {{- if and $receives $root.Values.receiver.spool.nats }}
          - {key: spool-url, path: spool-url}
          {{- end }}
          {{- if not $receives }}
          - {key: infrahub-api-key, path: infrahub-api-key}
          {{- end }}
{{- end -}}
