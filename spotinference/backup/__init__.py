"""`spotinference backup`: save the databases and what only the bus has."""
