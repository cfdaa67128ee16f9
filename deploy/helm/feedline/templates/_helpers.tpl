{{- /* The fleet's name, which is the name of everything and what trainers connect to. */}}
{{- define "feedline.name" -}}
{{- default .Release.Name .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- end }}

{{- define "feedline.selector" -}}
app.kubernetes.io/name: feedline
app.kubernetes.io/instance: {{ include "feedline.name" . }}
app.kubernetes.io/component: loader
{{- end }}

{{- define "feedline.labels" -}}
{{ include "feedline.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "feedline.isExternal" -}}
{{- if and (eq .Values.autoscaling.kind "keda") (eq .Values.autoscaling.keda.trigger "external") -}}true{{- end -}}
{{- end }}

{{- define "feedline.autoscalerSelector" -}}
app.kubernetes.io/name: feedline
app.kubernetes.io/instance: {{ include "feedline.name" . }}
app.kubernetes.io/component: autoscaler
{{- end }}

{{- define "feedline.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end }}

{{- define "feedline.serviceAccount" -}}
{{- default (ternary (include "feedline.name" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name -}}
{{- end }}

{{- /* Workers of a loader as a number; 0 where the CPU that is asked for is none that can be counted here. */}}
{{- define "feedline.workers" -}}
{{- if .Values.workers -}}
{{ .Values.workers }}
{{- else -}}
{{- $cpu := toString .Values.resources.requests.cpu -}}
{{- if hasSuffix "m" $cpu -}}
{{ divf (trimSuffix "m" $cpu | float64) 1000.0 | ceil }}
{{- else -}}
{{ float64 $cpu | ceil }}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "feedline.demandPerReplica" -}}
{{- if .Values.autoscaling.demandPerReplica -}}
{{ .Values.autoscaling.demandPerReplica }}
{{- else -}}
{{ mulf (include "feedline.workers" . | float64) .Values.autoscaling.target }}
{{- end -}}
{{- end }}

{{- /* What a schema cannot say: values that contradict each other. */}}
{{- define "feedline.problems" -}}
{{- with .Values -}}
{{- if and (not .insecure) (not .tls.secret) -}}
{{- fail "insecure: is false, and tls.secret names no Secret: nothing that loaders send would be encrypted. Set tls.secret (docs/kubernetes.md says how to make it), or, on a network where you trust everybody, insecure=true" -}}
{{- end -}}
{{- if and .insecure .tls.secret -}}
{{- fail "insecure: is true, and tls.secret is set: leave one of them out" -}}
{{- end -}}
{{- if and .tls.clientCa (not .tls.secret) -}}
{{- fail "tls.clientCa: is true without tls.secret: trainers show certificates only to a loader that shows one itself" -}}
{{- end -}}
{{- if and .config .data.path -}}
{{- fail "data.path: is not used where config is set: write path = \"/data/…\" in config, and leave data.path out" -}}
{{- end -}}
{{- if and (eq .data.kind "demo") .data.path -}}
{{- fail "data.path: the demo's digits are in the image; set data.kind to pvc, hostPath, csi or image" -}}
{{- end -}}
{{- $ports := list (int .ports.grpc) (int .ports.lane) (int .ports.health) (int .ports.metrics) -}}
{{- if ne (len ($ports | uniq)) 4 -}}
{{- fail (printf "ports: found %v; wanted four that differ" $ports) -}}
{{- end -}}
{{- if ne .autoscaling.kind "none" -}}
{{- if gt (int .autoscaling.min) (int .autoscaling.max) -}}
{{- fail (printf "autoscaling.min: is %d, more than autoscaling.max, which is %d" (int .autoscaling.min) (int .autoscaling.max)) -}}
{{- end -}}
{{- end -}}
{{- if and (eq (int .autoscaling.min) 0) (ne (include "feedline.isExternal" $) "true") (ne .autoscaling.kind "none") -}}
{{- fail "autoscaling.min: is 0, and only the autoscaler notices trainers of a fleet that has no loader: set autoscaling.kind=keda and autoscaling.keda.trigger=external" -}}
{{- end -}}
{{- if eq .autoscaling.kind "keda" -}}
{{- if and (eq .autoscaling.keda.trigger "prometheus") (not .autoscaling.keda.prometheus) -}}
{{- fail "autoscaling.keda.prometheus: wanted the address of the Prometheus that scrapes the loaders, such as http://prometheus.monitoring:9090" -}}
{{- end -}}
{{- if and (eq .autoscaling.keda.trigger "metrics-api") .tls.secret -}}
{{- fail "autoscaling.keda.trigger: metrics-api asks pods by their addresses, which no certificate is for; with tls.secret choose external or prometheus" -}}
{{- end -}}
{{- if and (eq .autoscaling.keda.trigger "external") .tls.secret (not (and .tls.clientCa .autoscaling.keda.authentication)) -}}
{{- fail "autoscaling.keda.authentication: with tls.secret the autoscaler speaks TLS and tells KEDA by its certificate: set tls.clientCa=true, and name a TriggerAuthentication with caCert, tlsClientCert and tlsClientKey; or choose autoscaling.keda.trigger=prometheus" -}}
{{- end -}}
{{- if and (eq .autoscaling.keda.trigger "external") .tokens.secret (not .autoscaling.autoscaler.tokenSecret) -}}
{{- fail "autoscaling.autoscaler.tokenSecret: with tokens.secret the autoscaler needs a token: name a Secret that has one under the key token" -}}
{{- end -}}
{{- if and (eq .autoscaling.keda.trigger "metrics-api") .tokens.secret (not .autoscaling.keda.authentication) -}}
{{- fail "autoscaling.keda.authentication: with tokens.secret KEDA needs a token: name a TriggerAuthentication, and set autoscaling.keda.authMode=bearer" -}}
{{- end -}}
{{- if and (ne .autoscaling.keda.trigger "external") .autoscaling.keda.authentication (not .autoscaling.keda.authMode) -}}
{{- fail "autoscaling.keda.authMode: wanted the kind of autoscaling.keda.authentication, such as bearer" -}}
{{- end -}}
{{- end -}}
{{- if and .podMonitor.enabled .tokens.secret (not .podMonitor.tokenSecret) -}}
{{- fail "podMonitor.tokenSecret: with tokens.secret Prometheus needs a token: name a Secret that has one under the key token" -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "feedline.scaleDown" -}}
scaleDown:
  stabilizationWindowSeconds: {{ .Values.autoscaling.scaleDownWindowSeconds }}
  policies:
    - {type: Pods, value: 1, periodSeconds: 60}
scaleUp:
  stabilizationWindowSeconds: 0
  policies:
    - {type: Percent, value: 100, periodSeconds: 60}
    - {type: Pods, value: 4, periodSeconds: 60}
  selectPolicy: Max
{{- end }}
