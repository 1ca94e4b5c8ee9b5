"""`spotinference setup`: create the streams, consumers and buckets on the bus."""
