"""The endpoints of the provider that are simulated, as a table: infrahub-api.md sections 3 to 5. No behaviour."""

from service.simulator import catalogue, contract_calls, creation, listing, vm_calls
from service.simulator.routes import Route

VMS = "/core/virtual-machines"
VM = VMS + "/{id}"
CONTRACT = "/pricebook/contracts/{id}"

# The first that matches answers: name-availability and contract come before what could be an id.
ROUTES = (
    Route("POST", VMS, "create", creation.create),
    Route("GET", VMS, "read", listing.list_vms),
    Route("GET", VMS + "/name-availability/{name}", "read", vm_calls.name_availability),
    Route("GET", VMS + "/contract/{id}/virtual-machines", "read", contract_calls.contract_vms),
    Route("GET", VM, "read", vm_calls.get),
    Route("DELETE", VM, "change", vm_calls.delete),
    Route("GET", VM + "/events", "read", vm_calls.events),
    Route("GET", VM + "/start", "change", vm_calls.operation("start", "start")),
    Route("GET", VM + "/stop", "change", vm_calls.operation("stop", "stop")),
    Route("GET", VM + "/hard-reboot", "change", vm_calls.operation("reboot", "reboot")),
    Route("GET", VM + "/hibernate", "change", vm_calls.hibernate),
    Route("GET", VM + "/hibernate-restore", "change", vm_calls.operation("restore", "restore")),
    Route("POST", VM + "/resize", "change", vm_calls.resize),
    Route("POST", VM + "/attach-floatingip", "change", vm_calls.attach_address),
    Route("POST", VM + "/detach-floatingip", "change", vm_calls.detach_address),
    Route("PUT", VM + "/label", "change", vm_calls.label),
    Route("POST", VM + "/attach-callback", "change", vm_calls.attach_callback),
    Route("PUT", VM + "/update-callback", "change", vm_calls.update_callback),
    Route("DELETE", VM + "/delete-callback", "change", vm_calls.delete_callback),
    Route("POST", VM + "/sg-rules", "change", vm_calls.add_rule),
    Route("DELETE", VM + "/sg-rules/{rule_id}", "change", vm_calls.delete_rule),
    Route("GET", "/core/flavors", "read", catalogue.flavors),
    Route("GET", "/core/images", "read", catalogue.images),
    Route("GET", "/core/environments", "read", catalogue.environments),
    Route("GET", "/core/keypairs", "read", catalogue.keypairs),
    Route("GET", "/core/regions", "read", catalogue.regions),
    Route("GET", "/core/stocks", "read", catalogue.stocks),
    Route("GET", "/core/sg-rules-protocols", "read", catalogue.protocols),
    Route("GET", "/pricebook", "read", catalogue.pricebook),
    Route("GET", "/pricebook/contracts", "read", contract_calls.list_contracts),
    Route("GET", CONTRACT, "read", contract_calls.get_contract),
    Route("GET", CONTRACT + "/gpu_allocation_graph", "read", contract_calls.allocation_graph),
    # Ours: no such call is known of the provider.
    Route("PUT", "/_sim/virtual-machines/{id}/contract", "change", contract_calls.reassign),
)
