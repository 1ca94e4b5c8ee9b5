"""Prints what vLLM understands, one a line: its options, environment variables and tool parsers.

Run by the engine's own Python: `vllm_names.py FILE`. Each line of the file is the command line of an engine, which its
own parser has to accept.
"""

import shlex
import sys
from pathlib import Path

from vllm import envs
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.tool_parsers import ToolParserManager
from vllm.utils.argparse_utils import FlexibleArgumentParser


def main(command_lines: Path) -> None:
    parser = make_arg_parser(FlexibleArgumentParser(prog="vllm serve"))
    for line in command_lines.read_text("utf-8").splitlines():
        validate_parsed_serve_args(parser.parse_args(shlex.split(line)))
    options = {name for action in parser._actions for name in action.option_strings if name.startswith("--")}
    parsers = {f"tool-call-parser={name}" for name in ToolParserManager.list_registered()}
    for name in sorted(options | set(envs.environment_variables) | parsers):
        print(name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
