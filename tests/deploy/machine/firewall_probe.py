"""Tries who reaches what on a machine with the real firewall: `firewall_probe.py RULES NFT IP`, as root of a namespace.

The machine is this network namespace, the rest of the world is a second one, and a pair of virtual cards joins them.
Prints which ports each source reaches, and the engine's counter before and after it tried.
"""

import json
import re
import shlex
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

MACHINE = "10.0.4.11"
PORTS = (22, 8000, 9000)
"""SSH, the engine, and one that some library opens on all interfaces."""
CONNECT_SECONDS = 1.0
"""A dropped packet has no answer; any other connection needs no time."""


def connect(source: str, port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(CONNECT_SECONDS)
        client.bind((source, 0))
        try:
            client.connect((MACHINE, port))
        except TimeoutError:
            return False
    return True


def run(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def try_as(source: str) -> None:
    """Run in the second namespace: print the ports that are reached."""
    with ThreadPoolExecutor() as pool:
        reached = pool.map(lambda port: connect(source, port), PORTS)
        print(json.dumps([port for port, ok in zip(PORTS, reached, strict=True) if ok]))


def main(rules: str, nft: list[str], ip: list[str], sources: list[str]) -> None:
    world = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo ready; exec sleep 300"], stdout=subprocess.PIPE)
    assert world.stdout is not None
    world.stdout.readline()
    inside = ["nsenter", f"--net=/proc/{world.pid}/ns/net"]
    try:
        run(*ip, "link", "set", "lo", "up")
        run(*ip, "link", "add", "m0", "type", "veth", "peer", "name", "w0", "netns", str(world.pid))
        run(*ip, "addr", "add", f"{MACHINE}/16", "dev", "m0")
        run(*ip, "link", "set", "m0", "up")
        for source in sources:
            run(*inside, *ip, "addr", "add", f"{source}/16", "dev", "w0")
        run(*inside, *ip, "link", "set", "w0", "up")
        run(*nft, "-f", rules)
        listeners = [socket.create_server(("0.0.0.0", port)) for port in PORTS]
        for source in sources:
            before = _count(nft)
            ports = json.loads(run(*inside, sys.executable, __file__, source))
            print(json.dumps({"source": source, "ports": ports, "counted": _count(nft) > before}))
        for listener in listeners:
            listener.close()
    finally:
        world.kill()
        world.wait()


def _count(nft: list[str]) -> int:
    match = re.search(r"packets (\d+)", run(*nft, "list", "counter", "inet", "spotinference", "engine"))
    assert match is not None
    return int(match[1])


if __name__ == "__main__":
    if len(sys.argv) == 2:
        try_as(sys.argv[1])
    else:
        main(sys.argv[1], shlex.split(sys.argv[2]), shlex.split(sys.argv[3]), sys.argv[4:])
