"""What customers pay: price bands from past cost, and monthly statements by key."""
