"""The command, from its words to the file."""

import sys

import pytest
from absl.testing import flagsaver

from alexnet_jax.tour import __main__ as tour


@pytest.mark.slow
def test_a_page_in_vietnamese(photo, digits_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tour, 'configure_runtime', lambda: None)  # JAX has started
    output = tmp_path / 'tour.html'
    words = [photo, f'--workdir={digits_run}@5', '--language=vi', f'--output={output}']
    monkeypatch.setattr(sys, 'argv', ['tour', *words])
    with flagsaver.flagsaver():
        tour.main()
    page = output.read_text(encoding='utf-8')
    assert capsys.readouterr().out == f'wrote {output} ({output.stat().st_size / 1e6:.1f} MB)\n'
    assert list(tmp_path.iterdir()) == [output]
    assert page.startswith('<!DOCTYPE html>')
    assert f'Trọng số lấy từ lần huấn luyện {digits_run}, sau bước 5.' in page
