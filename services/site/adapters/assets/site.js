// Every page works without scripts. What makes one nicer begins here.
