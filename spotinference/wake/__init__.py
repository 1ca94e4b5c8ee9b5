"""`spotinference wake`: wake a machine of a model."""
