"""Signing in with a provider of OpenID Connect: by discovery, the code flow with PKCE, and `userinfo`."""

import base64
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from aiohttp import web

from tests.kit.site import Answer, Browser, running_site


class Provider:
    """One user, and what the site did."""

    def __init__(self) -> None:
        self.url = ""
        self.issuer: str | None = None
        self.profile: dict[str, Any] = {"sub": "u-1", "preferred_username": "ann", "groups": ["staff"]}
        self.query: dict[str, str] = {}
        self.revoked: list[str] = []

    async def discovery(self, _request: web.Request) -> web.Response:
        ends = {
            f"{name}_endpoint": f"{self.url}/{name}" for name in ("authorization", "token", "userinfo", "revocation")
        }
        return web.json_response({"issuer": self.issuer or self.url, **ends})

    async def authorization(self, request: web.Request) -> web.Response:
        self.query = dict(request.query)
        back = urlencode({"code": "c", "state": self.query["state"], "iss": self.url})
        return web.Response(status=302, headers={"Location": f"{self.query['redirect_uri']}?{back}"})

    async def token(self, request: web.Request) -> web.Response:
        form = await request.post()
        verifier = str(form["code_verifier"]).encode()
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier).digest()).decode().rstrip("=")
        if (form["code"], form["client_secret"], challenge) != ("c", "oidc-secret", self.query["code_challenge"]):
            return web.json_response({"error": "invalid_grant"}, status=400)
        return web.json_response({"access_token": "t", "token_type": "Bearer", "scope": "openid", "id_token": "x.y.z"})

    async def userinfo(self, request: web.Request) -> web.Response:
        if request.headers["Authorization"] != "Bearer t":
            return web.Response(status=401)
        return web.Response(text=json.dumps(self.profile), content_type="application/json")

    async def revocation(self, request: web.Request) -> web.Response:
        self.revoked.append(str((await request.post())["token"]))
        return web.Response()


@pytest.fixture
async def provider(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Provider]:
    monkeypatch.setenv("OIDC_CLIENT_SECRET", "oidc-secret")
    provider, app = Provider(), web.Application()
    app.router.add_get("/.well-known/openid-configuration", provider.discovery)
    app.router.add_get("/authorization", provider.authorization)
    app.router.add_post("/token", provider.token)
    app.router.add_get("/userinfo", provider.userinfo)
    app.router.add_post("/revocation", provider.revocation)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    provider.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield provider
    await runner.cleanup()


def config(provider: Provider, rule: str) -> str:
    section = f'[site.oidc]\nissuer = "{provider.url}"\nclient_id = "site"\ngroups_claim = "groups"\n'
    return f"[site]\nport = 0\n{rule}\n{section}"


async def sign_in(browser: Browser) -> Answer:
    begun = await browser.get("/sign-in/oidc")
    return await browser.get((await browser.get(begun.location)).location) if begun.status == 303 else begun


@pytest.mark.parametrize(
    ("rule", "status"),
    [
        ('signup = "open"', 303),
        ("", 403),
        ('viewers = ["oidc:u-1"]', 303),
        ('signup = "list"\norganisations = ["staff"]', 303),
        ('signup = "list"\norganisations = ["others"]', 403),
    ],
)
async def test_the_subject_is_the_identity(provider: Provider, tmp_path: Path, rule: str, status: int) -> None:
    async with running_site(tmp_path, config(provider, rule)) as url, Browser(url) as browser:
        assert (await sign_in(browser)).status == status
        assert ("oidc:u-1" in (await browser.get("/account")).text) is (status == 303)
    assert (provider.query["scope"], provider.query["code_challenge_method"]) == ("openid profile", "S256")
    assert provider.revoked == ["t"]


@pytest.mark.parametrize("profile", [{}, {"sub": ""}, {"sub": 7}, {"sub": "a b"}, {"sub": "x" * 300}, []])
async def test_a_profile_without_a_subject_signs_nobody_in(provider: Provider, tmp_path: Path, profile: Any) -> None:
    provider.profile = profile
    async with running_site(tmp_path, config(provider, 'signup = "open"')) as url, Browser(url) as browser:
        assert (await sign_in(browser)).status == 503


async def test_another_issuer_than_the_configured_one_is_refused(provider: Provider, tmp_path: Path) -> None:
    provider.issuer = "https://evil.example"
    async with running_site(tmp_path, config(provider, 'signup = "open"')) as url, Browser(url) as browser:
        answer = await sign_in(browser)
        assert answer.status == 503
        assert "another issuer" in answer.text
