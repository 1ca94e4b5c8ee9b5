"""Identity providers: GitHub and OpenID Connect."""
