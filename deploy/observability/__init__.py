"""What Prometheus and Grafana need: alerts, dashboards, and both as Kubernetes objects."""
