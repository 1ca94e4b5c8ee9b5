"""`spotinference spot-watch`: runs on a spot machine of EC2 and tells the waker when EC2 takes it back."""
