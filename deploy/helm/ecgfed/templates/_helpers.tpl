{{- define "ecgfed.name" -}}
{{- printf "%s-%s" .root.Release.Name .role | trunc 52 | trimSuffix "-" -}}
{{- end }}

{{- define "ecgfed.labels" -}}
app.kubernetes.io/name: ecgfed
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .role }}
{{- end }}

{{- define "ecgfed.image" -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag }}{{ end }}
{{- end }}

{{- define "ecgfed.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .Values.runAsUser }}
runAsGroup: {{ .Values.runAsUser }}
fsGroup: {{ .Values.runAsUser }}
# Once, on a new volume: done at every start it would open owner-only keys to the group, and they would be refused.
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "ecgfed.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* The health service listens on the pod's loopback, where the kubelet's own grpc probe cannot reach it: it is asked
     inside the pod, by the same protocol. A daemon that lives but cannot work now is not ready, and not restarted. */}}
{{- define "ecgfed.probes" -}}
startupProbe:
  exec:
    command: [python, -m, ecgshared.health, --alive, {{ .healthPort | quote }}]
  periodSeconds: 5
  timeoutSeconds: 10
  failureThreshold: 60
livenessProbe:
  exec:
    command: [python, -m, ecgshared.health, --alive, {{ .healthPort | quote }}]
  periodSeconds: 30
  timeoutSeconds: 10
  failureThreshold: 4
readinessProbe:
  exec:
    command: [python, -m, ecgshared.health, {{ .healthPort | quote }}]
  periodSeconds: 15
  timeoutSeconds: 10
{{- end }}

{{- define "ecgfed.placement" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
