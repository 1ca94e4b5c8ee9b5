"""The C programs of the benchmark, compiled into `build/bench/` when their text or the compiler has changed."""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).parent
BUILT = SOURCES.parent / "build" / "bench"
FLAGS = ("-O2", "-Wall", "-Wextra")


class NoCompiler(Exception):
    """There is none, or it refuses the program; its text says which."""


def compile_program(name: str) -> Path:
    """The executable of `bench/NAME.c`."""
    compiler = find_compiler()
    texts = [
        " ".join(compiler).encode(),
        *(part.read_bytes() for part in (SOURCES / f"{name}.c", SOURCES / "clock.h")),
    ]
    program = BUILT / f"{name}-{hashlib.sha256(b''.join(texts)).hexdigest()[:16]}"
    if not program.exists():
        BUILT.mkdir(parents=True, exist_ok=True)
        partial = program.with_suffix(f".{os.getpid()}")  # two runs may build at once
        words = (*compiler, *FLAGS, "-o", str(partial), str(SOURCES / f"{name}.c"))
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise NoCompiler(f"{' '.join(compiler)} cannot compile bench/{name}.c:\n{done.stderr[-2000:]}")
        partial.replace(program)
    return program


def find_compiler() -> tuple[str, ...]:
    """The command: `CC` if it is set, else `cc`, `gcc` or `clang`, else the one in the wheel `ziglang`."""
    named = os.environ.get("CC")
    for compiler in [named] if named else ["cc", "gcc", "clang"]:
        if path := shutil.which(compiler):
            return (path,)
    if named:
        raise NoCompiler(f"no C compiler: CC names {named}, which is not there")
    if importlib.util.find_spec("ziglang"):
        return sys.executable, "-m", "ziglang", "cc"
    raise NoCompiler(
        "no C compiler: neither cc, gcc, clang nor the wheel `ziglang` is there. The benchmark's engine and load are C "
        "programs: install gcc or clang, or `pip install ziglang`"
    )
