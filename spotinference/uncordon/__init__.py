"""`spotinference uncordon`: let a machine take requests again."""
