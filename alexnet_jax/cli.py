"""What the command lines share: `--config`, its overrides, `--workdir`, `--help`."""

import difflib
import inspect
import os
import re
import runpy
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from alexnet_jax.cloud.store import is_url
from alexnet_jax.config import default_config, leaves, suggest
from alexnet_jax.errors import BadInput, one_line

CONFIGS = Path(__file__).parent / 'configs'  # in a checkout, a link to the recipes
RECORDED = Path(__file__).parent / 'run' / 'recorded_config.py'  # for --config=x/config.json
OF_A_RUN = "The run's folder: config, metrics, checkpoints."


def define_flags(workdir: str | None = OF_A_RUN, scratch: bool = False) -> None:
    """Define `--config`, `--workdir` and `--scratch`. Call once, in a command's `main`.

    Args:
      workdir: The help of `--workdir`; None for a command without it.
      scratch: Whether the command has `--scratch`.
    """
    config_flags.DEFINE_config_file(
        'config',
        None,
        'Recipe: NAME (a built-in one) or FILE.py, with :ARGUMENT if it takes one; or the '
        'config.json of a run.',
    )
    if workdir:
        flags.DEFINE_string('workdir', None, workdir)
    if scratch:
        flags.DEFINE_string(
            'scratch',
            None,
            'With a gs:// or s3:// workdir: the local folder that the bucket follows; by default '
            'one in the cache. Kept if the bucket could not be brought up to date.',
        )


def define_net_flag() -> None:
    """Define a `--workdir` that names one of a run's nets, for `ensemble.parse_member`."""
    flags.DEFINE_string(
        'workdir', None, "The run's folder; @STEP or @last picks a checkpoint other than the best."
    )


def check_scratch() -> None:
    """Refuse `--scratch` without a workdir in a bucket, and one that is not local."""
    scratch, workdir = flags.FLAGS.scratch, flags.FLAGS.workdir
    if scratch and not workdir:
        raise BadInput(f'--scratch={scratch} needs --workdir=gs://BUCKET/FOLDER or s3://...')
    if scratch and not is_url(workdir):
        raise BadInput(f'--scratch={scratch} is for a gs:// or s3:// workdir; {workdir} is local')
    if scratch and is_url(scratch):
        raise BadInput(f'--scratch={scratch} is a URL; it must be a folder on this machine')


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Parse the command line into `flags.FLAGS`; return the command and its remaining arguments.

    A `~` where a path in a flag begins is the home folder; shells expand it only where a word
    begins. With `--help`, print the flags, and the keys of the recipe, and end the program.

    Raises:
      BadInput: A flag, config file or config key does not exist, a config file does not run, or a
        value does not parse.
    """
    keys, argv = {}, [_expand_home(arg) for arg in argv]
    wants_help = '--help' in argv or '-h' in argv
    for i, arg in enumerate(argv):
        if match := re.fullmatch(r'--?config(?:=(.*))?', arg):
            place = i + 1 if match[1] is None else i
            recipe = ' '.join(argv[i + 1 : i + 2]) if match[1] is None else match[1]
            try:
                keys = leaves(load_recipe(recipe))
            except BadInput:
                if wants_help:  # a recipe whose argument is missing, such as folder:PATH
                    break
                raise
            argv[place] = argv[place].removesuffix(recipe) + ':'.join(_locate(recipe))
    if wants_help:
        print(_help(keys))
        sys.exit(0)
    try:
        return flags.FLAGS(argv)
    except Exception as error:  # of many types, from absl and ml_collections
        raise BadInput(_flag_error(argv, keys, error)) from error


def refuse_arguments(arguments: Sequence[str]) -> None:
    """Refuse the arguments that `parse_flags` left, in a command that takes none."""
    if arguments:
        raise BadInput(f'unexpected argument {arguments[0]!r}; flags are given as --flag=value')


def _expand_home(arg: str) -> str:
    """Expand `~` in --flag=~/x, --config=folder.py:~/x and --checkpoints=~/x,~/y."""
    home = os.path.expanduser('~')
    return re.sub('(?<=[=:,])~(?=[/,@]|$)', lambda _: home, arg) if arg.startswith('-') else arg


def load_recipe(recipe: str) -> ml_collections.ConfigDict:
    """Return the config of a recipe.

    Args:
      recipe: NAME or FILE.py, either with :ARGUMENT, or the config.json of a run.

    Raises:
      BadInput: There is no such recipe, it does not run, or it takes no argument.
    """
    path, *arguments = _locate(recipe)
    config = call_in_file(path, 'get_config', arguments, 'config', 'configs/quickstart.py')
    if not isinstance(config, ml_collections.ConfigDict):
        raise BadInput(
            f'get_config() of {path} returns {config!r}; it must return a ConfigDict: start from '
            'config.default_config()'
        )
    return config


def _locate(recipe: str) -> list[str]:
    """The file of a recipe and, if there is one, its argument."""
    path, *arguments = recipe.split(':', 1)
    if is_url(recipe):
        if recipe.rpartition('/')[2] != 'config.json':
            raise BadInput(
                f'--config={recipe} is a URL; only the config.json of a run may be one: copy a '
                f'recipe into a local file'
            )
        return [str(RECORDED), recipe]
    # A folder's name may contain a colon, as in 2026-01-31T09:30, or be like seeds.py:20.
    if recipe.endswith('.json') and ('.py:' not in recipe or Path(recipe).is_file()):
        _check_file(recipe, 'config')
        return [str(RECORDED), recipe]
    if path and '/' not in path and not path.endswith('.py'):
        shipped = {file.stem: str(file) for file in sorted(CONFIGS.glob('*.py'))}
        if path not in shipped:
            raise BadInput(f'unknown recipe {path}; {suggest(path, shipped)}')
        path = shipped[path]
    return [path, *arguments]


def call_in_file(
    path: str, function: str, arguments: Sequence[str], flag: str, example: str
) -> Any:
    """Call a function of a user's Python file and return its result.

    Args:
      path: The file, as the user gave it.
      function: The function's name.
      arguments: The function's arguments.
      flag: The flag that named the file, 'config' or 'sweep', for errors.
      example: A file that has such a function, for errors.

    Raises:
      BadInput: The file or function does not exist, does not run, or takes other arguments.
    """
    _check_file(path, flag)
    try:
        called = runpy.run_path(path).get(function)
        if called is None:
            raise BadInput(f'{flag} file {path} has no {function}(); see {example}')
        if not _takes(called, arguments):
            found = ':'.join([path, *arguments])
            needs = (
                f'takes no argument; found {found}'
                if arguments
                else f'needs an argument: {path}:...'
            )
            raise BadInput(f'{flag} file {path} {needs}')
        return called(*arguments)
    except BadInput:
        raise
    except Exception as error:  # whatever the user's code raises
        raise BadInput(_file_error(path, flag, error)) from error


def _takes(function: Callable, arguments: Sequence[str]) -> bool:
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    return True


def _file_error(path: str, flag: str, error: Exception) -> str:
    """Return what went wrong in a user's file, and in which line of it or of what it imports."""
    if isinstance(error, SyntaxError):
        place, line, reason = error.filename or path, error.lineno, error.msg
    else:
        frames = traceback.extract_tb(error.__traceback__)
        frame = next((f for f in reversed(frames) if f.filename == path), frames[-1])
        place, line, reason = frame.filename, frame.lineno, one_line(error)
    where = f'{flag} file {path}' if place == path else f'{flag} file {path}, in {place}'
    return f'{where}{f", line {line}" if line else ""}: {type(error).__name__}: {reason}'


def _check_file(path: str, flag: str) -> None:
    if not path:
        raise BadInput(f'--{flag} needs a value: --{flag}=configs/NAME.py')
    if not Path(path).is_file():
        folder = Path(path).parent
        known = sorted(str(p) for p in folder.glob('*.py')) if folder.is_dir() else []
        close = difflib.get_close_matches(path, known, n=1)
        hint = f'did you mean {close[0]}?' if close else f'found: {", ".join(known) or "no recipe"}'
        raise BadInput(f'{flag} file {path} does not exist; {hint}')


def _flag_error(argv: Sequence[str], keys: dict, error: Exception) -> str:
    """Return what is wrong with a command line that did not parse; `keys` are the config's."""
    match = re.match(r'flag --config\.([^=]+)=(.*?): ', str(error))
    if match and match[1] in keys:
        kind = 'str' if keys[match[1]] is None else type(keys[match[1]]).__name__
        return f'{match[1]}={match[2]}; it must be of type {kind}'
    for arg in argv[1:]:
        match = re.match(r'--?config\.([^=]+)', arg)
        if match and not keys and 'config' in flags.FLAGS:
            return f'--config.{match[1]} needs --config=configs/NAME.py before it'
        if match and not keys and 'workdir' in flags.FLAGS:
            return (
                f'unknown flag --config.{match[1]}: this command has no --config; the config of a '
                f'run is in its workdir'
            )
        if match and keys and match[1] not in keys:
            return f'unknown config key {match[1]}; {suggest(match[1], keys)}'
    if isinstance(error, flags.UnrecognizedFlagError):
        own = [f'--{name}' for name in _own_flags()]
        return f'unknown flag --{error.flagname}; {suggest("--" + error.flagname, own)}'
    return one_line(error)


def _own_flags() -> dict[str, str]:
    """Return {name: help} for this command's flags, excluding those of libraries."""
    own = [
        f for module in (sys.argv[0], __name__) for f in flags.FLAGS.get_flags_for_module(module)
    ]
    return {flag.name: _describe(flag) for flag in own if '.' not in flag.name}


def _describe(flag: flags.Flag) -> str:
    """Return a flag's help with its default, and without what absl adds to it."""
    text = str(flag.help).partition(';\n')[0]
    return f'{text} (default: {flag.default})' if flag.default else text


def _help(keys: dict) -> str:
    """Return the help of this command; `keys` are those of the recipe, if one was given."""
    # `python -OO` strips docstrings.
    usage = sys.modules['__main__'].__doc__ or f'usage: {sys.argv[0]} [--flag=value ...]'
    lines = [usage.strip(), '']
    own = _own_flags()
    width = max(map(len, own), default=0)
    lines += [f'  --{name:{width}} {text}' for name, text in own.items()]
    if 'config' in own:
        whose = 'this recipe' if keys else 'general defaults; for those of a recipe, add --config'
        lines.append(f'  --config.KEY=VALUE overrides a key of the recipe. Keys ({whose}):')
        shown = keys or leaves(default_config())
        lines += [f'      {key} = {value!r}' for key, value in shown.items()]
    return '\n'.join(lines)


def check_output(path: str, endings: Sequence[str]) -> None:
    """Check that `--output` can be written, before any work.

    Args:
      path: The file, as the user gave it.
      endings: The endings that name a format, such as '.csv'.

    Raises:
      BadInput: It has another ending, is a URL, exists already, or is in no folder where files may
        be written.
    """
    if not path.endswith(tuple(endings)):
        raise BadInput(f'--output={path}; it must end with {" or ".join(endings)}')
    if '://' in path:
        raise BadInput(f'--output={path} is a URL; write to a local file and copy that')
    if os.path.lexists(path):
        raise BadInput(f'--output={path} exists; remove it or choose another name')
    if not Path(path).parent.is_dir():
        raise BadInput(f'--output={path}: the folder {Path(path).parent} does not exist')
    if not os.access(Path(path).parent, os.W_OK | os.X_OK):
        raise BadInput(f'--output={path}: the folder {Path(path).parent} is not writable')


def show_progress(line: str) -> None:
    """Replace the progress line of a working command; '' clears it. Only on a terminal."""
    if sys.stderr.isatty():
        print(f'\r\033[K{line}', end='', file=sys.stderr, flush=True)
