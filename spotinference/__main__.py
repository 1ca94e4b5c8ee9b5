"""The command line. Each command is a package of its own, imported only when it runs."""

import importlib
import logging

import click

from shared.late_certificates import late_certificates
from shared.runtime import logs
from shared.without_collection import without_collection

COMMANDS = {
    "up": "Run all services on this host.",
    "demo": "Show the whole system once, step by step.",
    "check": "Validate the configuration and try what it connects to.",
    "setup": "Prepare the bus and the databases for this version.",
    "provision": "Create the streams, consumers and buckets on the bus.",
    "nats-config": "Print the bus's users and permissions for its server.",
    "backup": "Save the databases and what only the bus has.",
    "restore": "Restore a backup into an empty bus.",
    "outbox": "Send the usage that a gateway left behind.",
    "reap": "Stop machines that nobody speaks for.",
    "spot-watch": "Report the spot notice of the machine that this runs on.",
    "doctor": "Verify a day's counts, from the engines to the report.",
    "keys": "Create, list, revoke and copy API keys.",
    "fleet": "Show the machines.",
    "wake": "Wake a machine for a model.",
    "hibernate": "Drain a machine and put it to sleep.",
    "cordon": "Stop sending requests to a machine.",
    "uncordon": "Let a machine take requests again.",
    "journal": "Show the history of the machines and the budget gates.",
    "usage": "Show token counts.",
    "responses": "Show how requests were answered.",
    "figures": "Show latency and throughput.",
    "gaps": "List missing usage events, or declare them lost.",
    "meter": "Maintain the ledger.",
    "report": "Show the cost of a million tokens.",
    "invoice": "Import provider invoices and reconcile them.",
    "bands": "Show each model's price band.",
    "statement": "Show what a key used in a month, and what it costs.",
    "budget": "Show the budget gates, or override them.",
    "plan": "Compare idle policies on recorded traffic.",
    "bench": "Measure throughput through the gateway and directly.",
}
"""What `--help` says of each command, in its order. The command `a-b` is `a_b` in `spotinference.a_b.command`."""


class CommandGroup(click.Group):
    """A group that imports a command only to run it or to show its own help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        package = cmd_name.replace("-", "_")
        with late_certificates(), without_collection():
            command = getattr(importlib.import_module(f"spotinference.{package}.command"), package)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them: together they take seconds."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="spotinference")
def main() -> None:
    """Serve open-weights models through OpenAI's API, on GPUs that sleep when idle."""
    logs.configure("spotinference", level=logging.WARNING)


if __name__ == "__main__":
    main()
