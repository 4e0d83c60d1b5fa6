"Everything `pip` needs, read from `settings.ini`: name, version, requirements, commands."
from configparser import ConfigParser
from pathlib import Path

import setuptools

here = Path(__file__).parent
config = ConfigParser(delimiters=['='], interpolation=None)
config.read(here / 'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']
extras = {name.removesuffix('_requirements'): cfg[name].split() for name in cfg if name.endswith('_requirements')}

setuptools.setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    keywords=cfg['keywords'],
    author=cfg['author'],
    author_email=cfg['author_email'],
    url=cfg['git_url'],
    project_urls={'Documentation': cfg['doc_host'], 'Issues': cfg['git_url'] + '/issues', 'Changelog': cfg['git_url'] + '/blob/main/CHANGELOG.md'},
    license='MIT',
    license_files=['LICENSE', 'NOTICE'],
    long_description=(here / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    packages=setuptools.find_packages(include=['p3m_nb', 'p3m_nb.*']),
    package_data={'p3m_nb': ['weights/*', 'samples/*', 'widgets/*.js', 'widgets/*.css', 'widgets/*.j2', 'widgets/*.ipynb', 'py.typed']},
    zip_safe=False,
    python_requires='>=' + cfg['min_python'],
    install_requires=cfg['requirements'].split(),
    extras_require=extras,
    entry_points={
        'console_scripts': cfg['console_scripts'].split(),
        'nbdev': [f"{cfg['lib_name']}={cfg['lib_name']}._modidx:d"],
    },
    classifiers=[
        'Development Status :: 3 - Alpha',
        'Intended Audience :: Developers',
        'Intended Audience :: Science/Research',
        'License :: OSI Approved :: MIT License',
        'Natural Language :: ' + cfg['language'],
        'Operating System :: OS Independent',
        'Programming Language :: Python :: 3',
        *[f'Programming Language :: Python :: 3.{minor}' for minor in (11, 12, 13)],
        'Topic :: Multimedia :: Graphics',
        'Topic :: Scientific/Engineering :: Image Processing',
        'Typing :: Typed',
    ],
)
