"""Follow a picture through the network: `python -m alexnet_jax.tour IMAGE --output=tour.html`.

Writes one HTML page that works offline, with the numbers of that picture and that net: the table of
layers, every layer's maps, filters and calculations, ReLU beside other nonlinearities, the picture
augmented, dropout, and the probabilities. The net is that of a run, --workdir=RUN, or has a
recipe's initial weights, --config=configs/imagenet.py. --language=vi writes it in Vietnamese.
"""

import sys
from pathlib import Path

from absl import flags

from alexnet_jax import cli, files
from alexnet_jax.config import validate
from alexnet_jax.errors import BadInput, run_command
from alexnet_jax.evaluation.ensemble import parse_member
from alexnet_jax.parallel.runtime import configure_runtime
from alexnet_jax.tour import activations, facts, render, subject, texts

USAGE = (
    'usage: python -m alexnet_jax.tour IMAGE [--workdir=RUN | --config=configs/imagenet.py] '
    '--output=tour.html'
)


def write_tour(shown: subject.Subject, output: str, language: str) -> None:
    """Write the page about a picture and a net.

    Args:
      shown: The picture and the net.
      output: The HTML file.
      language: A language of `texts.LANGUAGES`.
    """
    sections = activations.sections(shown)
    html = render.page(shown, sections, facts.gather(shown, sections), language)
    files.write(Path(output), html.encode('utf-8', 'replace'))  # names of files may not be UTF-8


def main() -> None:
    """Write the page that the command line asks for."""
    cli.define_flags(workdir=None)
    cli.define_net_flag()
    flags.DEFINE_string('output', None, 'The HTML file to write.')
    flags.DEFINE_enum('language', 'en', texts.LANGUAGES, 'The language of the page.')
    _, *pictures = cli.parse_flags(sys.argv)
    output, workdir, config = flags.FLAGS.output, flags.FLAGS.workdir, flags.FLAGS.config
    if len(pictures) != 1 or not output:
        raise BadInput(USAGE)
    if workdir and config:
        raise BadInput('--workdir and --config are mutually exclusive: a run has its own config')
    cli.check_output(output, ('.html',))
    configure_runtime()
    if workdir:
        shown = subject.from_run(pictures[0], *parse_member(workdir))
    else:
        config = config or cli.load_recipe('imagenet')
        validate(config)
        shown = subject.from_recipe(pictures[0], config)
    write_tour(shown, output, flags.FLAGS.language)
    size = Path(output).stat().st_size / 1e6
    print(f'wrote {output} ({size:.1f} MB)')


if __name__ == '__main__':
    run_command(main)
