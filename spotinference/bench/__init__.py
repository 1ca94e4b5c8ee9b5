"""`spotinference bench`: a fixed load through the gateway and directly against the engine, in turn."""
