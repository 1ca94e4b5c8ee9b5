"""What the drivers of load generators share: their command is run as a user runs it, with a tokenizer from no hub."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

TOKENIZER = "local/bytes"
"""One token a byte."""
REQUESTS = 4
COMMAND_SECONDS = 380.0
"""Less than a test waits for its driver."""
HUB = Path(os.environ["HOME"]) / "hub"
REVISION = "0" * 40


def make_tokenizer() -> Path:
    """Its folder, which lies where Hugging Face's libraries look for what they have downloaded before."""
    tokenizers: Any = importlib.import_module("tokenizers")  # not among this project's own packages
    model = HUB / f"models--{TOKENIZER.replace('/', '--')}"
    folder = model / "snapshots" / REVISION
    folder.mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(REVISION)
    byte_level = tokenizers.pre_tokenizers.ByteLevel
    vocabulary = {letter: number for number, letter in enumerate(sorted(byte_level.alphabet()))}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = byte_level(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.add_special_tokens(["<eos>"])
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos>", "model_max_length": 100000}'
    )
    return folder


def run(module: str, *options: str, **environment: str) -> str:
    """Run a package's command and return what it printed, which need not be a success."""
    offline = {"HF_HUB_CACHE": str(HUB), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-S", "-P", "-m", module, *options],
        env={**os.environ, **offline, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    print(done.stdout)
    return done.stdout
