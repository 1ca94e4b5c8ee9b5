"""Every page of the site, for the tests that look at each: whoever adds a page adds a line."""

PUBLIC = (
    "/",
    "/economics",
    "/pricing",
    "/performance",
    "/reliability",
    "/status",
    "/learn",
    "/learn/cost",
    "/glossary",
    "/api",
    "/sign-in",
    "/nowhere",
)
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
OPERATOR = (
    "/operator",
    "/operator/keys",
    "/operator/people",
    "/operator/journal",
    "/operator/gates",
    "/operator/audit",
)
"""For viewers and operators."""
