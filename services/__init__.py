"""The services, one folder each. They never import one another: the bus is all they share."""
