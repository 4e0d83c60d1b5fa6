"""Look at mattes, at the errors of methods, at a data set and at a training, and matte many photographs, in a notebook.

Written by hand: nbdev exports modules, and this file only says in which of them each widget is.
A widget's module, and what it needs, is loaded when the widget is first asked for."""
from importlib import import_module as _import_module

_WHERE = {
    'MatteViewer': 'matte', 'MatteCorrector': 'correct', 'Viewer': 'viewer', 'MatteCompare': 'compare', 'DatasetInspector': 'dataset', 'ObfuscationStudio': 'obfuscation',
    'ErrorExplorer': 'errors', 'read_marks': 'errors', 'region_errors': 'errors', 'TrainingMonitor': 'training',
    'Album': 'album', 'Look': 'album', 'StudioPage': 'studio', 'open_studio': 'studio', 'studio_server': 'serve',
    'TrainingView': 'training', 'BatchMatter': 'batch', 'mattes_zip': 'batch', 'safe_name': 'batch', 'error_map': 'common',
}
__all__ = sorted(_WHERE)


def __getattr__(name):
    if name not in _WHERE: raise AttributeError(f"module 'p3m_nb.widgets' has no attribute '{name}'; there are {', '.join(__all__)}")
    return getattr(_import_module(f'{__name__}.{_WHERE[name]}'), name)


def __dir__(): return __all__
