"""`spotinference up`: all services on one host; nothing is left running when it ends."""
