"""The table of simulated endpoints: infrahub-api.md sections 3 to 5."""

from service.simulator import catalogue, contract_calls, creation, listing, vm_calls
from service.simulator.routes import Endpoint

VMS = "/core/virtual-machines"
VM = VMS + "/{id}"
CONTRACT = "/pricebook/contracts/{id}"

# The first match wins, so name-availability and contract come before {id}.
ENDPOINTS = (
    Endpoint("POST", VMS, "create", creation.create),
    Endpoint("GET", VMS, "read", listing.list_vms, "list"),
    Endpoint("GET", VMS + "/name-availability/{name}", "read", vm_calls.name_availability),
    Endpoint("GET", VMS + "/contract/{id}/virtual-machines", "read", contract_calls.contract_vms),
    Endpoint("GET", VM, "read", vm_calls.get, "get"),
    Endpoint("DELETE", VM, "change", vm_calls.delete, "delete"),
    Endpoint("GET", VM + "/events", "read", vm_calls.events),
    Endpoint("GET", VM + "/start", "change", vm_calls.operation("start", "start")),
    Endpoint("GET", VM + "/stop", "change", vm_calls.operation("stop", "stop")),
    Endpoint("GET", VM + "/hard-reboot", "change", vm_calls.operation("reboot", "reboot")),
    Endpoint("GET", VM + "/hibernate", "change", vm_calls.hibernate),
    Endpoint("GET", VM + "/hibernate-restore", "change", vm_calls.operation("restore", "restore")),
    Endpoint("POST", VM + "/resize", "change", vm_calls.resize),
    Endpoint("POST", VM + "/attach-floatingip", "change", vm_calls.attach_address),
    Endpoint("POST", VM + "/detach-floatingip", "change", vm_calls.detach_address),
    Endpoint("PUT", VM + "/label", "change", vm_calls.label),
    Endpoint("POST", VM + "/attach-callback", "change", vm_calls.attach_callback),
    Endpoint("PUT", VM + "/update-callback", "change", vm_calls.update_callback),
    Endpoint("DELETE", VM + "/delete-callback", "change", vm_calls.delete_callback),
    Endpoint("POST", VM + "/sg-rules", "change", vm_calls.add_rule),
    Endpoint("DELETE", VM + "/sg-rules/{rule_id}", "change", vm_calls.delete_rule),
    Endpoint("GET", "/core/flavors", "read", catalogue.flavors),
    Endpoint("GET", "/core/images", "read", catalogue.images),
    Endpoint("GET", "/core/environments", "read", catalogue.environments),
    Endpoint("GET", "/core/keypairs", "read", catalogue.keypairs),
    Endpoint("POST", "/core/keypairs", "change", catalogue.post_keypair),
    Endpoint("GET", "/core/regions", "read", catalogue.regions),
    Endpoint("GET", "/core/stocks", "read", catalogue.stocks),
    Endpoint("GET", "/core/sg-rules-protocols", "read", catalogue.protocols),
    Endpoint("GET", "/pricebook", "read", catalogue.pricebook),
    Endpoint("GET", "/pricebook/contracts", "read", contract_calls.list_contracts),
    Endpoint("GET", CONTRACT, "read", contract_calls.get_contract),
    Endpoint("GET", CONTRACT + "/gpu_allocation_graph", "read", contract_calls.allocation_graph),
    # Only in the simulator: the provider has no known call for this.
    Endpoint("PUT", "/_sim/virtual-machines/{id}/contract", "change", contract_calls.reassign),
)
