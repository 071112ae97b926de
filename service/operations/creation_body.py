"""The body of a creation's create call, with its three ownership tags: the callback URL, a label and a unique name."""

from service.core.create_body import CreateBody, VmSpec
from service.core.ownership import callback_url, creation_label
from service.core.token import CreationRef
from service.runtime.runtime import Runtime


def body_of(rt: Runtime, spec: VmSpec, ref: CreationRef, *, name: str, count: int) -> CreateBody:
    """What is sent to create `count` VMs of `spec`."""
    return CreateBody.of(
        spec,
        count=count,
        name=name,
        labels=[*(spec.labels or ()), creation_label(ref)],
        callback_url=callback_url(rt.public_url, ref, rt.callback_secrets[0]),
    )
