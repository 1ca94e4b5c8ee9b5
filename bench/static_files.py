"""nginx with the site's pages as files: what readers cost if the site does nothing at all."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from bench.processes import child, free_port
from bench.targets import nginx_program, wait_for_nginx

CONFIG = """
user root;
daemon off;
worker_processes 1;
pid nginx.pid;
error_log nginx.log warn;
events {{ worker_connections 512; }}
http {{
  access_log off;
  default_type text/html;
  server {{
    listen 127.0.0.1:{port};
    root pages;
    keepalive_requests 1000000000;
    add_header Content-Encoding gzip;
    location / {{ try_files $uri/index.html =404; }}
    location = / {{ try_files /index.html =404; }}
  }}
}}
"""


@asynccontextmanager
async def static_files(folder: Path, pages: Mapping[str, bytes]) -> AsyncIterator[str]:
    """Serve compressed pages by their paths; yields the origin."""
    for path, compressed in pages.items():
        file = folder / "pages" / path.strip("/") / "index.html"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(compressed)
    config = folder / "nginx.conf"
    port = free_port()
    config.write_text(CONFIG.format(port=port), "utf-8")
    log = folder / "start.log"
    words = (nginx_program(), "-p", str(folder), "-e", "nginx.log", "-c", str(config))
    async with child(*words, log=log) as process:
        await wait_for_nginx(port, process, log)
        yield f"http://127.0.0.1:{port}"
