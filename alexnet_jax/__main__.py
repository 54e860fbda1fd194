"""List the commands: `python -m alexnet_jax`."""

import ast
from collections.abc import Iterator
from pathlib import Path


def find_commands(folder: Path) -> Iterator[tuple[str, str]]:
    """Read a package's commands from their source files, without importing them.

    Args:
      folder: The package's folder. Its modules that run as `__main__`, and its packages with a
        `__main__.py`, are the commands.

    Yields:
      Each command's name and what it does: the first line of its docstring, up to its usage.
    """
    for path in sorted([*folder.glob('*.py'), *folder.glob('*/__main__.py')], key=_name):
        tree = ast.parse(path.read_text(encoding='utf-8'))
        if path != folder / '__main__.py' and any(map(_runs_as_main, tree.body)):
            first_line, *_ = (ast.get_docstring(tree) or '').splitlines() or ['']
            yield _name(path), first_line.split(': `python')[0].rstrip('.')


def _name(path: Path) -> str:
    return path.parent.name if path.name == '__main__.py' else path.stem


def _runs_as_main(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


def main() -> None:
    """Print a line for each command."""
    print('python -m alexnet_jax.COMMAND, where COMMAND is one of\n')
    for name, purpose in find_commands(Path(__file__).parent):
        print(f'  {name:12} {purpose}')
    print('\n--help lists the flags of a command.')


if __name__ == '__main__':
    main()
