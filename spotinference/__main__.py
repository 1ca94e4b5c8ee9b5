"""The operator's command. Each subcommand lives in a module of its own, imported when it is called."""

import importlib
import logging

import click

from shared.runtime import logs

COMMANDS = {
    "up": "spotinference.up.command:up",
    "check": "spotinference.check:check",
    "keys": "spotinference.keys:keys",
    "fleet": "spotinference.fleet:fleet",
    "journal": "spotinference.journal:journal",
    "wake": "spotinference.orders:wake",
    "hibernate": "spotinference.orders:hibernate",
    "cordon": "spotinference.orders:cordon",
    "uncordon": "spotinference.orders:uncordon",
    "budget": "spotinference.budget:budget",
    "usage": "spotinference.usage:usage",
    "gaps": "spotinference.gaps:gaps",
    "meter": "spotinference.meter:meter",
    "figures": "spotinference.figures:figures",
    "bench": "spotinference.bench.command:bench",
    "plan": "spotinference.plan:plan",
    "invoice": "spotinference.invoice:invoice",
    "report": "spotinference.report:report",
    "statement": "spotinference.statement:statement",
    "bands": "spotinference.bands:bands",
    "doctor": "spotinference.doctor:doctor",
    "provision": "spotinference.provision:provision",
    "demo": "spotinference.demo.command:demo",
}


class Commands(click.Group):
    """A group that imports a subcommand only to run it or to describe it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="spotinference")
def main() -> None:
    """Tokens from open-weights models behind OpenAI's API, on GPUs that sleep when nobody uses them."""
    logs.configure("spotinference", level=logging.WARNING)


if __name__ == "__main__":
    main()
