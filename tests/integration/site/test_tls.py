"""The site behind a server that terminates TLS, and providers whose certificate nobody should trust."""

import ssl
from pathlib import Path

import pytest
from yarl import URL

from tests.kit.github import CLIENT_ID, Account, github_config, running_github
from tests.kit.site import Browser, running_site
from tests.kit.tls import https_in_front, make_certificate


async def test_a_session_behind_tls_is_of_https_and_of_the_public_address_alone(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    trusting = ssl.create_default_context(cafile=certificate.certificate)
    plain = URL()
    async with (
        running_github(Account(1, "ann")) as github,
        https_in_front(certificate, lambda: plain.port or 0) as port,
    ):
        public = f"https://127.0.0.1:{port}"
        rules = f'signup = "open"\npublic_url = "{public}"\ntrusted_proxies = ["127.0.0.1/32"]'
        config = f"[site]\nport = 0\n{rules}\n{github_config(github)}"
        async with running_site(tmp_path, config) as url, Browser(public, trusting) as ann, Browser(url) as lost:
            plain = URL(url)
            answer = await ann.sign_in("ann", "sessions")
            assert (answer.status, answer.location) == (303, "/account/sessions")
            assert github.authorized[0]["redirect_uri"] == f"{public}/sign-in/github/callback"
            session = answer.cookies[0].split("; ")
            assert session[0].startswith("__Host-session=")
            assert {"HttpOnly", "Secure", "SameSite=Lax", "Path=/"} <= set(session)
            assert not any(attribute.startswith("Domain") for attribute in session)
            for path, status in (("/", 200), ("/account", 200), ("/nowhere", 404)):
                shown = await ann.get(path)
                assert (shown.status, "Strict-Transport-Security" in shown.headers) == (status, True), path
            ann.origin = url  # by http: the browser keeps the cookie to itself
            assert (await ann.get("/account")).status == 303
            ann.origin = public

            form = (await ann.get("/account")).form("/sign-out")
            for origin in (url, f"http://127.0.0.1:{port}", "https://127.0.0.1"):  # forms of another address
                refused = await ann._send("POST", "/sign-out", {"Origin": origin}, form)
                assert (refused.status, "not sent from this site" in refused.text) == (403, True)
            begun = await lost.get("/sign-in/github")  # at an address that is not the public one
            back = (await lost.get(f"{begun.location}&login=ann")).location
            assert back.startswith(public)
            answer = await lost.get(back.replace(public, url))
            assert (answer.status, f"Begin it again at {public}" in answer.text) == (400, True)
            assert (await ann._send("POST", "/sign-out", {"Origin": public}, form)).status == 303


@pytest.mark.parametrize("provider", ["github", "oidc"])
async def test_a_provider_whose_certificate_is_wrong_is_sent_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    monkeypatch.setenv("OIDC_CLIENT_SECRET", "x")
    async with (
        running_github(Account(1, "ann")) as github,
        https_in_front(make_certificate(tmp_path), lambda: URL(github.url).port or 0) as port,
    ):
        wrong = f"https://127.0.0.1:{port}"
        section = {
            "github": f'client_id = "{CLIENT_ID}"\nweb_url = "{wrong}"\napi_url = "{wrong}/api"\n',
            "oidc": f'client_id = "x"\nissuer = "{wrong}"\n',
        }[provider]
        config = f'[site]\nport = 0\nsignup = "open"\n[site.{provider}]\n{section}'
        async with running_site(tmp_path, config) as url, Browser(url) as browser:
            answer = await browser.get(f"/sign-in/{provider}")
            if provider == "github":  # its page is the browser's matter; the exchange of the code is ours
                back = (await browser.get(answer.location.replace(wrong, github.url) + "&login=ann")).location
                answer = await browser.get(back)
            assert answer.status == 503
            assert "has no certificate that this site trusts" in answer.text
            assert (await browser.get("/")).status == 200
    assert github.exchanged == []
