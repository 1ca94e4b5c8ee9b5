"""The operator's command. Each subcommand lives in a module of its own, imported when it is called."""

import importlib
import logging

import click

from shared.runtime import logs

COMMANDS = {
    "up": "spotinference.up.command:up",
    "check": "spotinference.check.command:check",
    "keys": "spotinference.keys.command:keys",
    "fleet": "spotinference.fleet.command:fleet",
    "journal": "spotinference.journal.command:journal",
    "wake": "spotinference.wake.command:wake",
    "hibernate": "spotinference.hibernate.command:hibernate",
    "cordon": "spotinference.cordon.command:cordon",
    "uncordon": "spotinference.uncordon.command:uncordon",
    "budget": "spotinference.budget.command:budget",
    "usage": "spotinference.usage.command:usage",
    "gaps": "spotinference.gaps.command:gaps",
    "meter": "spotinference.meter.command:meter",
    "figures": "spotinference.figures.command:figures",
    "bench": "spotinference.bench.command:bench",
    "plan": "spotinference.plan.command:plan",
    "invoice": "spotinference.invoice.command:invoice",
    "report": "spotinference.report.command:report",
    "statement": "spotinference.statement.command:statement",
    "bands": "spotinference.bands.command:bands",
    "doctor": "spotinference.doctor.command:doctor",
    "provision": "spotinference.provision.command:provision",
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
