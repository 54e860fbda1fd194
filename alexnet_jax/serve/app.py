"""The HTTP interface of `serve`, a WSGI application.

GET  /          the page
POST /          an image, as the body or as the file `image` of a form -> JSON
POST /?heat_map=1   the same, with a Grad-CAM map for the most probable class
GET  /healthz   ok
"""

import json
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from werkzeug.exceptions import (
    BadRequest,
    HTTPException,
    MethodNotAllowed,
    NotFound,
    RequestEntityTooLarge,
)
from werkzeug.wrappers import Request, Response

from alexnet_jax.drawing.pictures import data_uri, overlay
from alexnet_jax.errors import AlexNetError, memory_error
from alexnet_jax.evaluation import saliency
from alexnet_jax.evaluation.trained import BATCH, TrainedNet
from alexnet_jax.parallel import malloc
from alexnet_jax.serve.batching import Batcher

TOP = 5
KEPT = 2**30  # bytes of free memory not given back: the next batch needs them
DECODING = 4  # images at a time: one of 100 million pixels takes gigabytes
PAGE = Path(__file__).with_name('page.html').read_text(encoding='utf-8')
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; frame-ancestors 'none'"
)


class App:
    """Answers requests with a net."""

    def __init__(self, net: TrainedNet, max_bytes: int):
        """Compile the net for all batch sizes, and Grad-CAM for a single image.

        Grad-CAM for larger batches is compiled on first use.

        Args:
          net: The net.
          max_bytes: The largest request body.
        """
        from alexnet_jax.data.ops.chain import parse  # imports TensorFlow, which takes seconds

        self._net, self._max_bytes = net, max_bytes
        self._decoding = threading.BoundedSemaphore(DECODING)
        self._can_map = saliency.last_convolution(net.model.layers) is not None
        self._classify = Batcher(lambda views: net.log_probs(np.stack(views)), BATCH)
        self._map = Batcher(self._heat_maps, BATCH)
        size, count = net.config.image_size, parse(net.config.data.eval_ops).ops[-1].views
        views = np.zeros((*([count] if count else []), size, size, 3), np.uint8)
        for exponent in range(BATCH.bit_length()):
            net.log_probs(np.stack([views] * 2**exponent))
        if self._can_map:
            self._heat_maps([(self._central_view(views), 0)])

    def __call__(self, environ: dict[str, Any], start_response: Callable) -> Iterable[bytes]:
        """Answer a request, as WSGI asks for it."""
        request = Request(environ)
        request.max_content_length = self._max_bytes + 1  # chunked bodies are cut there and refused
        request.max_form_parts = 8
        try:
            with request:  # which closes what was uploaded
                response = self._answer(request)
        except RequestEntityTooLarge:
            most = f'{self._max_bytes / 1e6:,.0f} MB'
            response = _json({'error': f'the request is too large; allowed: up to {most}'}, 413)
        except HTTPException as error:
            response = _json({'error': error.description}, error.code or 500)
            response.headers.extend(error.get_headers(environ)[1:])
        except AlexNetError as error:  # the image's fault
            response = _json({'error': str(error)}, 400)
        except (ConnectionError, TimeoutError):  # the client is gone
            raise
        except Exception as error:  # such as an accelerator that is out of memory
            response = _json({'error': _reported(error)}, 500)
        response.headers['Content-Security-Policy'] = POLICY
        response.headers['X-Content-Type-Options'] = 'nosniff'
        return response(environ, start_response)

    def _answer(self, request: Request) -> Response:
        match request.path, request.method:
            case '/healthz', 'GET' | 'HEAD':
                return Response('ok\n', mimetype='text/plain')
            case '/', 'GET' | 'HEAD':
                return Response(PAGE, mimetype='text/html')
            case '/', 'POST':
                return _json(self._predict(request))
            case '/' | '/healthz', _:
                raise MethodNotAllowed(['GET', 'HEAD', 'POST'][: 3 if request.path == '/' else 2])
        raise NotFound(f'there is nothing at {request.path}; POST an image to /')

    def _predict(self, request: Request) -> dict[str, Any]:
        encoded = _image(request)
        if len(encoded) > self._max_bytes:
            raise RequestEntityTooLarge
        try:
            with self._decoding:
                views = self._net.preprocess(encoded)
        finally:  # an image that cannot be used may have taken as much
            malloc.trim_heap_above(KEPT)
        ranking = self._net.rank(np.exp(self._classify(views)), TOP)
        found: dict[str, Any] = {
            'classes': [
                {
                    'class': self._net.class_names[label],
                    'name': self._net.display_names[label],
                    'probability': probability,
                }
                for label, probability in ranking
            ]
        }
        if request.args.get('heat_map') == '1' and self._can_map:
            view, (label, _) = self._central_view(views), ranking[0]
            found['heat_map'] = data_uri(overlay(view, self._map((view, label))))
        return found

    def _central_view(self, views: np.ndarray) -> np.ndarray:
        """Return the crop of the center: among ten, the corners come before it."""
        if views.ndim == 3:
            return views
        *_, last = self._net.config.data.eval_ops.split('|')
        return views[4 if last.strip().startswith('ten_crop') else 0]

    def _heat_maps(self, asked: Iterable[tuple[np.ndarray, int]]) -> np.ndarray:
        views, labels = zip(*asked, strict=True)
        return saliency.normalized(saliency.grad_cam(self._net, np.stack(views), np.array(labels)))


def _reported(error: Exception) -> str:
    """Print an error that is no client's fault; return what to answer. A bug has its traceback."""
    if found := memory_error(error):
        print(f'error: {" ".join(str(found).split())}', file=sys.stderr, flush=True)
        return str(found)
    traceback.print_exception(error)
    return 'internal error'


def _image(request: Request) -> bytes:
    if request.mimetype == 'multipart/form-data':
        if (file := request.files.get('image')) is None:
            raise BadRequest("the form has no file named 'image'")
        encoded = file.read()
    else:
        encoded = request.get_data(cache=False, parse_form_data=False)
    if not encoded:
        raise BadRequest('the request has no image; POST one as the body or as the file `image`')
    return encoded


def _json(value: Any, status: int = 200) -> Response:
    return Response(json.dumps(value) + '\n', status, mimetype='application/json')
