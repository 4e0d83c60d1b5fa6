"Everything `pip` needs, read from `settings.ini`: name, version, requirements, commands."
from configparser import ConfigParser
from pathlib import Path
import setuptools

here = Path(__file__).parent
config = ConfigParser(delimiters=['='], interpolation=None)
config.read(here / 'settings.ini')
cfg = config['DEFAULT']

setuptools.setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'], keywords=cfg['keywords'],
    author=cfg['author'], author_email=cfg['author_email'], license='MIT',
    long_description=(here / 'README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
    packages=setuptools.find_packages(include=['p3m_nb', 'p3m_nb.*']),
    package_data={'p3m_nb': ['weights/*', 'samples/*', 'widgets/*.js', 'widgets/*.css']}, zip_safe=False,
    python_requires='>=' + cfg['min_python'],
    install_requires=cfg['requirements'].split(),
    extras_require={name.removesuffix('_requirements'): cfg[name].split() for name in cfg if name.endswith('_requirements')},
    entry_points={'console_scripts': cfg['console_scripts'].split(), 'nbdev': [f"{cfg['lib_name']}={cfg['lib_name']}._modidx:d"]},
    classifiers=['Programming Language :: Python :: 3', 'Intended Audience :: ' + cfg['audience'],
                 'Development Status :: 3 - Alpha', 'Natural Language :: ' + cfg['language']],
)
