"""All rules, each a function from rendered manifests to their faults."""

from collections.abc import Callable

from tests.deploy.manifests import Manifests
from tests.deploy.rules.availability import availability, scaling
from tests.deploy.rules.bus import bus
from tests.deploy.rules.configuration import configuration, services
from tests.deploy.rules.images import images
from tests.deploy.rules.immutable_fields import immutable_fields
from tests.deploy.rules.network import network
from tests.deploy.rules.references import references
from tests.deploy.rules.resources import disks, grace, memory
from tests.deploy.rules.schemas import schemas
from tests.deploy.rules.security import cloud_identity, public_site, restricted, secrets_in_text
from tests.deploy.rules.selectors import names, selectors

Rule = Callable[[Manifests], list[str]]
RULES: tuple[Rule, ...] = (
    *(schemas, names, selectors, references, images, immutable_fields),
    *(restricted, cloud_identity, public_site, secrets_in_text),
    *(services, configuration, grace, memory, disks, availability, scaling, network, bus),
)
