"""The operator's pages. Viewers see all of them; whoever acts confirms it and says why."""
