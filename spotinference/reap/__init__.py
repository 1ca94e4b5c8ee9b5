"""`spotinference reap`: a second line, outside the cluster, against machines that run for nobody."""
