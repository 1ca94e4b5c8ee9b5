"""Drives the vendor's `hyperstack` package against a pretended Hyperstack. Its models validate every answer."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from tests.clients.driving import Does, Seen, drive

hyperstack: Any = importlib.import_module("hyperstack")  # not among this project's own packages

Ask = Callable[[Any, dict[str, Any]], Any]

ASKS: Mapping[str, Ask] = {
    "list": lambda client, asked: hyperstack.VirtualMachineApi(client).list_vms(**asked.get("page", {})),
    "get": lambda client, asked: hyperstack.VirtualMachineApi(client).get_vm(asked["id"]),
    "hibernate": lambda client, asked: hyperstack.VirtualMachineApi(client).hibernate_vm(asked["id"], retain_ip="true"),
    "restore": lambda client, asked: hyperstack.VirtualMachineApi(client).restore_vm_from_hibernation(asked["id"]),
    "start": lambda client, asked: hyperstack.VirtualMachineApi(client).start_vm(asked["id"]),
    "stop": lambda client, asked: hyperstack.VirtualMachineApi(client).stop_vm(asked["id"]),
    "events": lambda client, asked: hyperstack.VirtualMachineEventsApi(client).list_vm_events(asked["id"]),
    "stocks": lambda client, _asked: hyperstack.StockApi(client).get_gpu_stock(),
    "bills": lambda client, asked: hyperstack.BillingApi(client).get_vm_billing_history(**asked.get("page", {})),
    "bill": lambda client, asked: hyperstack.BillingApi(client).get_vm_billing_details(asked["id"]),
    "billing_events": lambda client, asked: hyperstack.BillingApi(client).get_vm_billing_events(asked["id"]),
}


def _does(ask: Ask) -> Does:
    def does(place: dict[str, Any], asked: dict[str, Any], seen: Seen) -> None:
        # Without retries: by default it repeats a hibernate whose reply is lost.
        configuration = hyperstack.Configuration(host=place["base_url"], retries=0)
        configuration.api_key["apiKey"] = place["api_key"]
        try:
            answer = ask(hyperstack.ApiClient(configuration), asked)
        except hyperstack.ApiException as error:
            seen["refused"] = [error.status, error.body]
        else:
            seen["answer"] = answer.model_dump(mode="json", by_alias=True, exclude_none=True)

    return does


if __name__ == "__main__":
    drive({name: _does(ask) for name, ask in ASKS.items()})
