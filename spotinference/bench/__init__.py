"""`spotinference bench`: a stated load through the gateway and against the engine, by turns."""
