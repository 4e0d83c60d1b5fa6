__version__ = "0.1.0"

_FRONT_DOOR = {'Matter': 'infer', 'create_model': 'weights', 'list_models': 'registry', 'refine_alpha': 'detail'}
__all__ = list(_FRONT_DOOR)


def __getattr__(name):
    "The names above are imported when they are first used: `import p3m_nb` itself costs nothing."
    from importlib import import_module
    if name not in _FRONT_DOOR:  # with these two, Python hints at the nearest name
        module = import_module(__name__)
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}', name=name, obj=module)
    return getattr(import_module(f'{__name__}.{_FRONT_DOOR[name]}'), name)


def __dir__(): return sorted([*globals(), *_FRONT_DOOR])
