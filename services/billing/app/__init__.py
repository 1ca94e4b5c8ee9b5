"""What billing does when something happens: expressed over ports and the bus."""
