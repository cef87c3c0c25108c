"""Registration beside other projects that may use the same names."""

import logging

from fvcore.common.registry import Registry

__all__ = ["register"]


def register(registry: Registry, item) -> str:
    """Register a class or function under its name, or warn and add "_D2" if that is taken.

    Returns:
        The name under which ``item`` can be found in ``registry``.
    """
    name = item.__name__
    if name not in registry:
        registry._do_register(name, item)
    elif registry.get(name) is not item:
        owner = registry.get(name).__module__
        name += "_D2"
        if name not in registry:
            registry._do_register(name, item)
        logging.getLogger(__name__).warning(
            "%s is already registered by %s; fcos_d2's own is registered as %s",
            item.__name__,
            owner,
            name,
        )
    return name
