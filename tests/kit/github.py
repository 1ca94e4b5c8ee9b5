"""A stand-in for GitHub: its authorization code flow with its quirks, its API, and faults on demand."""

import asyncio
import base64
import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

CLIENT_ID = "Iv1.site"
CLIENT_SECRET = "stand-in-secret"
CODE_SECONDS = 600.0


@dataclass
class Account:
    """A person at GitHub."""

    id: int
    login: str
    name: str | None = None
    organisations: dict[str, str] = field(default_factory=dict)
    """Organisation to `active`, `pending` or `restricted`: one that has not approved the app."""


@dataclass
class Github:
    """What it knows, and what it was asked for."""

    url: str = ""
    accounts: dict[str, Account] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    """Tokens that were revoked."""
    authorized: list[dict[str, str]] = field(default_factory=list)
    """The queries of the authorize page."""
    exchanged: list[dict[str, str]] = field(default_factory=list)
    tokens: dict[str, Account] = field(default_factory=dict)
    user_fault: str | None = None
    """What `/user` does: `500`, `silence`, `html`, `no id`, `revoked`."""
    client_secrets: set[str] = field(default_factory=lambda: {CLIENT_SECRET})
    """Those that are valid: an app may have two."""
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    now: Callable[[], float] = time.time
    _codes: dict[str, tuple[dict[str, str], Account, float]] = field(default_factory=dict)

    def code(self, login: str, query: dict[str, str]) -> str:
        code = secrets.token_hex(10)
        self._codes[code] = query, self.accounts[login], self.now()
        return code

    async def authorize(self, request: web.Request) -> web.Response:
        query = dict(request.query)
        self.authorized.append(query)
        if query.get("client_id") != CLIENT_ID or query.get("code_challenge_method", "S256") != "S256":
            return web.Response(status=404)
        if (login := query.pop("login", None)) is None:  # the page, with a button per user
            buttons = [
                f'<p><a href="?{urlencode({**query, "login": name})}">Continue as {name}</a></p>'
                for name in self.accounts
            ]
            denial = urlencode({"error": "access_denied", "state": query.get("state", "")})
            deny = f'<p><a href="{query.get("redirect_uri", "")}?{denial}">Cancel</a></p>'
            text = f"<!doctype html><html lang=en><title>GitHub</title>{''.join(buttons)}{deny}"
            return web.Response(text=text, content_type="text/html")
        answer = urlencode({"code": self.code(login, query), "state": query.get("state", "")})
        return web.Response(status=302, headers={"Location": f"{query['redirect_uri']}?{answer}"})

    async def exchange(self, request: web.Request) -> web.Response:
        form = {name: str(value) for name, value in (await request.post()).items()}
        self.exchanged.append(form)
        query, account, made_at = self._codes.pop(form.get("code", ""), ({}, None, 0.0))
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        if form.get("client_id") != CLIENT_ID or form.get("client_secret") not in self.client_secrets:
            answer = {"error": "incorrect_client_credentials"}
        elif account is None or self.now() - made_at > CODE_SECONDS:
            answer = {"error": "bad_verification_code", "error_description": "The code passed is incorrect or expired."}
        elif form.get("redirect_uri") != query.get("redirect_uri"):
            answer = {"error": "redirect_uri_mismatch"}
        elif "code_challenge" in query and query["code_challenge"] != challenge.decode().rstrip("="):
            answer = {"error": "bad_verification_code"}
        else:
            token = f"gho_{secrets.token_hex(18)}"
            self.tokens[token] = account
            answer = {"access_token": token, "scope": query.get("scope", ""), "token_type": "bearer"}
        if "json" in request.headers.get("Accept", ""):
            return web.json_response(answer)  # errors too have the status 200
        return web.Response(text=urlencode(answer), content_type="application/x-www-form-urlencoded")

    async def user(self, request: web.Request) -> web.Response:
        account = self._account(request)
        if account is None or self.user_fault == "revoked":
            return web.json_response({"message": "Bad credentials"}, status=401)
        if self.user_fault == "500":
            return web.json_response({"message": "Server Error"}, status=500)
        if self.user_fault == "silence":
            await self.closing.wait()
        if self.user_fault == "html":
            return web.Response(text="<html>Unicorn!</html>", content_type="text/html")
        answer: dict[str, Any] = {"login": account.login, "name": account.name}
        return web.json_response(answer if self.user_fault == "no id" else {**answer, "id": account.id})

    async def membership(self, request: web.Request) -> web.Response:
        account = self._account(request)
        state = None if account is None else account.organisations.get(request.match_info["organisation"])
        if state == "restricted":
            return web.json_response({"message": "OAuth App access restrictions"}, status=403)
        if state is None:
            return web.json_response({"message": "Not Found"}, status=404)
        return web.json_response({"state": state})

    async def delete(self, request: web.Request) -> web.Response:
        expected = {base64.b64encode(f"{CLIENT_ID}:{secret}".encode()).decode() for secret in self.client_secrets}
        if request.headers.get("Authorization", "").removeprefix("Basic ") not in expected:
            return web.json_response({"message": "Not Found"}, status=404)
        token = (await request.json())["access_token"]
        self.deleted.append(token)
        self.tokens.pop(token, None)
        return web.Response(status=204)

    def _account(self, request: web.Request) -> Account | None:
        return self.tokens.get(request.headers.get("Authorization", "").removeprefix("Bearer "))


@asynccontextmanager
async def running_github(*accounts: Account) -> AsyncIterator[Github]:
    """A GitHub with these accounts."""
    github = Github(accounts={account.login: account for account in accounts})
    app = web.Application()
    app.add_routes(
        [
            web.get("/login/oauth/authorize", github.authorize),
            web.post("/login/oauth/access_token", github.exchange),
            web.get("/api/user", github.user),
            web.get("/api/user/memberships/orgs/{organisation}", github.membership),
            web.delete("/api/applications/{client}/token", github.delete),
        ]
    )
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    github.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield github
    finally:
        github.closing.set()
        await runner.cleanup()


def github_config(github: Github) -> str:
    """The section `[site.github]` for it."""
    return f'[site.github]\nclient_id = "{CLIENT_ID}"\nweb_url = "{github.url}"\napi_url = "{github.url}/api"\n'
