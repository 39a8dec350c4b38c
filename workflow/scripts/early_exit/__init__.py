"""Early exits in decoder language models: the names that scripts and notebooks may use; `docs/python.md` shows them.

A name is imported when it is first used, so that `import early_exit` takes no time and needs no torch. All that is not
listed here belongs to the pipeline and may change without notice.
"""

from importlib import import_module

_HOMES = {
    "Answer": "api",
    "Backbone": "models.backbone",
    "Check": "costs.passes",
    "Confidence": "policies.confidences",
    "Cost": "costs.parts",
    "Decision": "policies.base",
    "Ending": "api",
    "Fill": "decoding.fills",
    "Head": "heads.designs",
    "InputError": "base.errors",
    "LanguageModel": "api",
    "LogitConfidence": "policies.confidences",
    "Policy": "policies.base",
    "TrainedHeads": "api",
    "generate": "api",
    "linear": "costs.parts",
    "load_backbone": "api",
    "load_heads": "api",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'; it has {', '.join(__all__)}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
