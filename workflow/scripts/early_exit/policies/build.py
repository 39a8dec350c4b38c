"""The exit policy that an entry of the config describes, made from trained heads, plans, or another policy's run."""

from early_exit.base.errors import InputError
from early_exit.experiment.config import policies as entries
from early_exit.models.backbone import Backbone
from early_exit.policies import confidences, forced
from early_exit.policies.base import FullDepth, Given, Policy
from early_exit.sources import user_code

MODULES = (confidences, forced)  # whose classes name their entries


def build(entry: entries.Policy, backbone: Backbone, given: Given) -> Policy:
    """The policy of an entry, for a whole backbone; a kind whose tokens never leave runs at full depth."""
    if isinstance(entry, entries.FilePolicy):
        return _from_file(entry, backbone, given)
    return policy_class(type(entry)).from_entry(entry, backbone, given)


def policy_class(entry: type[entries.Policy]) -> type[Policy]:
    """The class that runs policies of a kind of entry; the full model's if their tokens never leave."""
    classes = (kind for module in MODULES for kind in vars(module).values() if isinstance(kind, type))
    return next((kind for kind in classes if vars(kind).get("entry") is entry), FullDepth)


def _from_file(entry: entries.FilePolicy, backbone: Backbone, given: Given) -> Policy:
    kind = user_code.load_class(entry.kind)
    if not issubclass(kind, confidences.Confidence):
        raise InputError(f"kind '{entry.kind}': is no subclass of early_exit.Confidence")
    try:
        return kind.from_entry(entry, backbone, given, **entry.options)
    except TypeError as error:
        raise InputError(f"kind '{entry.kind}': cannot be made with {entry.options} ({error})") from error
