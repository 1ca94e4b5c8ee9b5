"""`spotinference outbox`: deal with the usage on a gateway's volume that no gateway uses any more."""
