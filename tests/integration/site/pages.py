"""Every page of the site, for the tests that look at each: whoever adds a page adds a line."""

PUBLIC = ("/", "/economics", "/pricing", "/learn", "/glossary", "/api", "/sign-in", "/nowhere")
USER = (
    "/account",
    "/account/sessions",
    "/account/keys",
    "/account/keys/new",
    "/account/keys/k1",
    "/account/usage",
    "/account/playground",
)
"""Behind the sign-in. `k1` is a key of the person who is signed in."""
OPERATOR: tuple[str, ...] = ()
"""For viewers and operators."""
