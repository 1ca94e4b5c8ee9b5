"""Drives the vendor's `hyperstack` package against a pretended Hyperstack. Its models validate every answer."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from tests.clients.driving import Actions, Seen, drive

hyperstack: Any = importlib.import_module("hyperstack")  # not among this project's own packages

Ask = Callable[[Any, dict[str, Any]], Any]

CALLS: Mapping[str, Ask] = {
    "list": lambda client, request: hyperstack.VirtualMachineApi(client).list_vms(**request.get("page", {})),
    "get": lambda client, request: hyperstack.VirtualMachineApi(client).get_vm(request["id"]),
    "hibernate": lambda client, request: hyperstack.VirtualMachineApi(client).hibernate_vm(
        request["id"], retain_ip="true"
    ),
    "restore": lambda client, request: hyperstack.VirtualMachineApi(client).restore_vm_from_hibernation(request["id"]),
    "start": lambda client, request: hyperstack.VirtualMachineApi(client).start_vm(request["id"]),
    "stop": lambda client, request: hyperstack.VirtualMachineApi(client).stop_vm(request["id"]),
    "events": lambda client, request: hyperstack.VirtualMachineEventsApi(client).list_vm_events(request["id"]),
    "stocks": lambda client, _unused: hyperstack.StockApi(client).get_gpu_stock(),
    "bills": lambda client, request: hyperstack.BillingApi(client).get_vm_billing_history(**request.get("page", {})),
    "bill": lambda client, request: hyperstack.BillingApi(client).get_vm_billing_details(request["id"]),
    "billing_events": lambda client, request: hyperstack.BillingApi(client).get_vm_billing_events(request["id"]),
}


def _does(ask: Ask) -> Actions:
    def does(place: dict[str, Any], request: dict[str, Any], seen: Seen) -> None:
        # Without retries: by default it repeats a hibernate whose reply is lost.
        configuration = hyperstack.Configuration(host=place["base_url"], retries=0)
        configuration.api_key["apiKey"] = place["api_key"]
        try:
            answer = ask(hyperstack.ApiClient(configuration), request)
        except hyperstack.ApiException as error:
            seen["refused"] = [error.status, error.body]
        else:
            seen["answer"] = answer.model_dump(mode="json", by_alias=True, exclude_none=True)

    return does


if __name__ == "__main__":
    drive({name: _does(ask) for name, ask in CALLS.items()})
