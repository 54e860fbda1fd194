"""Classify images in the browser: `python -m alexnet_jax.serve --workdir=RUN`.

Prints an address; the page there takes images and shows the five most probable classes, and where
in the image the net finds the first. Programs POST an image to the same address and get JSON:

    curl --data-binary @photo.jpg http://127.0.0.1:8000/

Only this machine can connect, unless --host says otherwise; there is no encryption and no password.
Ctrl-C or SIGTERM ends it after the answers that are under way.
"""

import sys
import threading

from absl import flags

from alexnet_jax import cli
from alexnet_jax.errors import BadInput, catch_stop_signals, run_command
from alexnet_jax.evaluation.ensemble import parse_member
from alexnet_jax.evaluation.trained import TrainedNet
from alexnet_jax.parallel.runtime import configure_runtime
from alexnet_jax.serve.app import App
from alexnet_jax.serve.server import Server, check_address


def main() -> None:
    """Serve the net of the run that the command line names."""
    cli.define_net_flag()
    flags.DEFINE_string('host', '127.0.0.1', 'The address to listen on; 0.0.0.0: every network.')
    flags.DEFINE_integer('port', 8000, 'The port; 0: any free one.', 0, 65535)
    flags.DEFINE_integer('max_megabytes', 20, 'The largest image file to accept.', 1)
    flags.DEFINE_integer('max_connections', 64, 'Connections at a time; others get a 503.', 1)
    _, *others = cli.parse_flags(sys.argv)
    workdir = flags.FLAGS.workdir
    if not workdir or others:
        raise BadInput('usage: python -m alexnet_jax.serve --workdir=DIR [--port=8000]')
    check_address(flags.FLAGS.host, flags.FLAGS.port)
    configure_runtime()
    net = TrainedNet.load(*parse_member(workdir))
    app = App(net, flags.FLAGS.max_megabytes * 10**6)
    server = Server(flags.FLAGS.host, flags.FLAGS.port, app, flags.FLAGS.max_connections)
    stopped = threading.Event()
    catch_stop_signals(lambda *_: stopped.set())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    host = f'[{server.host}]' if ':' in server.host else server.host
    print(
        f'{workdir}, step {net.step:,}: http://{host}:{server.port}/ (Ctrl-C ends it)', flush=True
    )
    stopped.wait()
    server.stop()
    print('stopped')


if __name__ == '__main__':
    run_command(main)
